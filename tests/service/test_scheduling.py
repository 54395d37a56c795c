"""The scheduler: what goes first, who shares, and that nothing stops it."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import scheduling
from service.batching import BatchQueue
from service.errors import ClientGone
from service.placement import current_core
from service.preprocessing import Pixels
from service.scheduling import Scheduler
from service.session import Scores
from service.work import Item, Work
from tests.service.live import PATIENCE, until
from tests.service.stand_ins import Held, Noted, echo, results_of, runner_of, work_of


class Fatal(BaseException):
    """Not caught by `except Exception`."""


@asynccontextmanager
async def scheduler_of(slots: int, cores: int | None = None) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(slots, cores or slots)
    try:
        yield scheduler
    finally:
        await scheduler.close()


async def idle(scheduler: Scheduler) -> None:
    """Until nothing is decoded and nothing runs."""
    await until(lambda: not scheduler._busy_since)


@asynccontextmanager
async def held_up(scheduler: Scheduler, slots: int | None = None) -> AsyncIterator[None]:
    """So many slots, or all, are taken; on leaving, each is given to what comes next."""
    release = asyncio.Event()

    async def hold() -> None:
        await release.wait()

    slots = slots or scheduler.slots
    scheduler.decode([hold] * slots)
    assert scheduler.decoding == slots
    try:
        yield
    finally:
        release.set()


def queue_of(limit: int = 8, patience: float = 1000) -> BatchQueue:
    return BatchQueue(limit=limit, patience=patience)


def put(queue: BatchQueue, *works: Work) -> None:
    for work in works:
        for item in work.items:
            queue.put(item)


def job(do: Callable[[], object]) -> Callable[[], Coroutine[Any, Any, None]]:
    """A decode that does this at once."""

    async def run() -> None:
        do()

    return run


def in_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE):
            await scenario()

    asyncio.run(run())


def test_jobs_are_done_first_come_first_served() -> None:
    done: list[int] = []

    async def scenario() -> None:
        async with scheduler_of(1) as scheduler:
            scheduler.decode([job(partial(done.append, number)) for number in range(5)])
            scheduler.decode([job(partial(done.append, 5))])
            await idle(scheduler)

    in_loop(scenario)
    assert done == list(range(6))


def test_as_many_jobs_as_there_are_slots_go_on_at_once() -> None:
    going_on = most = 0

    async def work() -> None:
        nonlocal going_on, most
        going_on += 1
        most = max(most, going_on)
        await asyncio.sleep(0)
        going_on -= 1

    async def scenario() -> None:
        async with scheduler_of(4) as scheduler:
            scheduler.decode([work] * 20)
            assert scheduler.decoding == 4
            await idle(scheduler)
            assert scheduler.decoding == 0

    in_loop(scenario)
    assert most == 4


@pytest.mark.parametrize("error", [Fatal("the end"), SystemExit(3), ValueError("odd")])
def test_a_job_that_raises_stops_nothing(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def fail() -> None:
        raise error

    async def scenario() -> None:
        async with scheduler_of(1) as scheduler:
            scheduler.decode([fail, fail, job(partial(done.append, "done"))])
            await idle(scheduler)
            assert scheduler.longest_job == 0

    in_loop(scenario)
    assert done == ["done"]
    assert caplog.text.count("a decode failed in a way that nobody foresaw") == 2


def test_a_runner_that_raises_keeps_its_place(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        queue = queue_of()
        runner = runner_of(queue)
        run, raised = runner.run, threading.Event()

        def raise_once(batch: list[Item]) -> None:
            if not raised.is_set():
                raised.set()
                raise Fatal
            run(batch)

        monkeypatch.setattr(runner, "run", raise_once)
        async with scheduler_of(1) as scheduler:
            scheduler.attach(runner, on_cores=True)
            lost, answered = work_of(0, 1), work_of(1, 2)
            put(queue, lost)
            await idle(scheduler)
            assert raised.is_set()
            assert runner.running == 0
            put(queue, answered)
            assert await results_of(answered) == [2]

    in_loop(scenario)
    assert "nobody foresaw" in caplog.text


def test_an_idle_session_takes_a_picture_at_once() -> None:
    noted = Noted()

    async def scenario() -> None:
        queue = queue_of()
        async with scheduler_of(1) as scheduler:
            scheduler.attach(runner_of(queue, noted), on_cores=True)
            for number in range(3):
                work = work_of(number, number)
                put(queue, work)
                assert await results_of(work) == [number]

    in_loop(scenario)
    assert noted.batches == [[0], [1], [2]]


def order_of(queue: BatchQueue, pictures: int) -> list[str]:
    """What one thread does first: two jobs, or the pictures that were decoded before."""
    order: list[str] = []

    def run(pixels: Pixels) -> Scores:
        order.append(f"run {len(pixels)}")
        return echo(pixels)

    async def scenario() -> None:
        async with scheduler_of(1) as scheduler:
            scheduler.attach(runner_of(queue, run), on_cores=True)
            work = work_of(0, *range(pictures))
            async with held_up(scheduler):
                scheduler.decode([job(partial(order.append, "job"))] * 2)
                put(queue, work)
            await results_of(work)
            await idle(scheduler)

    in_loop(scenario)
    return order


def test_jobs_go_before_a_batch_that_is_not_due() -> None:
    assert order_of(queue_of(limit=4), 3) == ["job", "job", "run 3"]


def test_a_full_batch_goes_before_jobs_and_the_rest_of_it_after_them() -> None:
    assert order_of(queue_of(limit=4), 4) == ["run 4", "job", "job"]
    assert order_of(queue_of(limit=4), 6) == ["run 4", "job", "job", "run 2"]


def test_a_batch_that_has_waited_for_long_enough_goes_before_jobs() -> None:
    assert order_of(queue_of(limit=4, patience=0), 3) == ["run 3", "job", "job"]


@pytest.mark.parametrize(("patience", "at_once"), [(1000, []), (0, [[1]])])
def test_while_all_cores_are_busy_pictures_gather_unless_due(patience: float, at_once: list[list[int]]) -> None:
    noted = Noted()

    async def scenario() -> None:
        queue = queue_of(patience=patience)
        works = [work_of(order, order + 1) for order in range(3)]
        releases = [asyncio.Event(), asyncio.Event()]

        async def hold(place: int) -> None:
            await releases[place].wait()

        async with scheduler_of(3, cores=2) as scheduler:
            scheduler.attach(runner_of(queue, noted), on_cores=True)
            scheduler.decode([partial(hold, 0), partial(hold, 1)])
            put(queue, works[0])
            await until(lambda: not scheduler._running)
            assert noted.batches == at_once
            put(queue, *works[1:])
            releases[0].set()
            for work in works:
                await results_of(work)
            releases[1].set()
            await idle(scheduler)

    in_loop(scenario)
    assert (noted.batches == [[1, 2, 3]]) == (not at_once)


def test_what_becomes_due_while_nothing_else_happens_is_run() -> None:
    """Decodes that take long keep the cores busy."""
    noted = Noted()

    async def scenario() -> None:
        queue, work = queue_of(patience=0.02), work_of(0, 1)
        async with scheduler_of(3, cores=2) as scheduler:
            scheduler.attach(runner_of(queue, noted), on_cores=True)
            async with held_up(scheduler, 2):
                put(queue, work)
                assert noted.batches == []
                assert await results_of(work) == [1]
                assert scheduler.decoding == 2

    in_loop(scenario)


def test_what_becomes_due_sooner_does_not_wait_for_what_becomes_due_later() -> None:
    noted = Noted()

    async def scenario() -> None:
        late, soon, work = queue_of(patience=1000), queue_of(patience=0.02), work_of(0, 1)
        async with scheduler_of(3, cores=2) as scheduler:
            for queue in (late, soon):
                scheduler.attach(runner_of(queue, noted), on_cores=True)
            async with held_up(scheduler, 2):
                put(late, work_of(0, 2))
                put(soon, work)
                assert await results_of(work) == [1]
                assert noted.batches == [[1]]

    in_loop(scenario)


def test_of_batches_that_are_due_the_one_that_waits_for_longest_goes_first() -> None:
    noted = Noted()

    async def scenario() -> None:
        queues = [queue_of(patience=0) for _ in range(3)]
        works = [work_of(0, number) for number in range(3)]
        async with scheduler_of(1) as scheduler:
            for queue in queues:
                scheduler.attach(runner_of(queue, noted), on_cores=True)
            async with held_up(scheduler):
                for place in (1, 2, 0):
                    put(queues[place], works[place])
            for work in works:
                await results_of(work)

    in_loop(scenario)
    assert noted.batches == [[1], [2], [0]]


def test_pictures_gather_behind_a_run_up_to_the_limit() -> None:
    held = Held()

    async def scenario() -> None:
        queue = queue_of(limit=4)
        async with scheduler_of(3) as scheduler:
            scheduler.attach(runner_of(queue, held), on_cores=True)
            first, others = work_of(0, 0), [work_of(order, order) for order in range(1, 10)]
            put(queue, first)
            assert await asyncio.to_thread(held.entered.wait, PATIENCE)
            put(queue, *others)
            held.release.set()
            assert [await results_of(work) for work in (first, *others)] == [[number] for number in range(10)]

    in_loop(scenario)
    assert held.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


@pytest.mark.parametrize(
    ("slots", "capacity", "waiting", "shares"),
    [
        (2, 2, 8, [4, 4]),
        (2, 2, 7, [3, 4]),
        (4, 4, 8, [2, 2, 2, 2]),
        (4, 2, 8, [4, 4]),
        (4, 1, 8, [8]),
        (1, 4, 8, [8]),
        (2, 2, 40, [8, 8]),
        (3, 3, 1, [1]),
    ],
)
def test_runs_that_can_start_share_what_waits(slots: int, capacity: int, waiting: int, shares: list[int]) -> None:
    """All runs of the first round go on at once, so none takes twice."""
    meeting = threading.Barrier(len(shares))
    noted = Noted()

    def run(pixels: Pixels) -> Scores:
        scores = noted(pixels)
        if len(noted.batches) <= len(shares):
            meeting.wait(PATIENCE)
        return scores

    async def scenario() -> None:
        queue = queue_of(limit=8)
        work = work_of(0, *range(waiting))
        put(queue, work)
        async with scheduler_of(slots) as scheduler:
            await idle(scheduler)
            scheduler.attach(runner_of(queue, run, capacity=capacity), on_cores=True)
            queue.wake()
            assert await results_of(work) == list(range(waiting))

    in_loop(scenario)
    assert sorted(len(batch) for batch in noted.batches[: len(shares)]) == shares


def test_a_run_takes_as_many_slots_as_it_has_threads() -> None:
    held = Held()

    async def scenario() -> None:
        queue = queue_of(limit=4, patience=0)
        release = asyncio.Event()

        async def hold() -> None:
            await release.wait()

        async with scheduler_of(5, cores=4) as scheduler:
            scheduler.attach(runner_of(queue, held, capacity=2, threads=2), on_cores=True)
            works = [work_of(order, *range(4)) for order in range(2)]
            put(queue, *works)
            assert await asyncio.to_thread(held.entered.wait, PATIENCE)
            scheduler.decode([hold] * 5)
            assert scheduler.decoding == 1
            held.release.set()
            for work in works:
                await results_of(work)
            await until(lambda: scheduler.decoding == 5)
            release.set()

    in_loop(scenario)


def test_a_run_of_more_threads_than_there_are_slots_runs_and_decodes_wait_for_it() -> None:
    held = Held()

    async def scenario() -> None:
        queue, work = queue_of(), work_of(0, 1)
        done: list[int] = []
        async with scheduler_of(2) as scheduler:
            scheduler.attach(runner_of(queue, held, threads=8), on_cores=True)
            put(queue, work)
            assert await asyncio.to_thread(held.entered.wait, PATIENCE)
            scheduler.decode([job(partial(done.append, 1))])
            assert scheduler.decoding == 0
            held.release.set()
            assert await results_of(work) == [1]
            await until(lambda: done == [1])

    in_loop(scenario)


def test_no_more_runs_at_once_than_the_session_takes() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def run(pixels: Pixels) -> Scores:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        scores = echo(pixels)
        with lock:
            running -= 1
        return scores

    async def scenario() -> None:
        queue = queue_of(limit=2)
        works = [work_of(order, *range(5)) for order in range(40)]
        async with scheduler_of(4) as scheduler:
            runner = runner_of(queue, run, capacity=2)
            scheduler.attach(runner, on_cores=True)
            put(queue, *works)
            for work in works:
                await results_of(work)
            await idle(scheduler)
            assert runner.running == 0

    in_loop(scenario)
    assert 1 <= most <= 2


requests = st.lists(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=8), min_size=1, max_size=40)


@given(requests, st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 1000]))
@settings(max_examples=40)
def test_everyone_gets_their_own_answer(
    requests: list[list[int]], limit: int, slots: int, capacity: int, patience: float
) -> None:
    noted = Noted()

    async def scenario() -> None:
        queue = queue_of(limit, patience)
        works = [work_of(order, *pictures) for order, pictures in enumerate(requests)]
        async with scheduler_of(slots) as scheduler:
            scheduler.attach(runner_of(queue, noted, capacity=capacity), on_cores=True)
            for work in works:
                scheduler.decode([job(partial(queue.put, item)) for item in work.items])
            assert [await results_of(work) for work in works] == requests

    in_loop(scenario)
    assert max(len(batch) for batch in noted.batches) <= limit


def test_nothing_of_an_abandoned_request_reaches_the_session() -> None:
    noted = Noted()

    async def scenario() -> None:
        queue = queue_of()
        gone, there = work_of(0, 1, 2), work_of(1, 3)
        async with scheduler_of(1) as scheduler:
            scheduler.attach(runner_of(queue, noted), on_cores=True)
            async with held_up(scheduler):
                put(queue, gone, there)
                gone.abandon(ClientGone("gone"))
            assert await results_of(there) == [3]
        with pytest.raises(ClientGone):
            await results_of(gone)

    in_loop(scenario)
    assert noted.batches == [[3]]


def test_when_all_that_wait_are_abandoned_nothing_runs() -> None:
    noted = Noted()

    async def scenario() -> None:
        queue = queue_of()
        gone = work_of(0, 1, 2)
        async with scheduler_of(1) as scheduler:
            runner = runner_of(queue, noted)
            scheduler.attach(runner, on_cores=True)
            async with held_up(scheduler):
                put(queue, gone)
                gone.abandon(ClientGone("gone"))
            await idle(scheduler)
            assert (runner.running, len(queue)) == (0, 0)
        with pytest.raises(ClientGone):
            await results_of(gone)

    in_loop(scenario)
    assert noted.batches == []


def test_an_abandoned_batch_that_is_due_does_not_keep_another_model_waiting() -> None:
    noted = Noted()

    async def scenario() -> None:
        due, other = queue_of(patience=0), queue_of()
        gone, there = work_of(0, 1), work_of(1, 2)
        async with scheduler_of(1) as scheduler:
            scheduler.attach(runner_of(due, noted), on_cores=True)
            scheduler.attach(runner_of(other, noted), on_cores=True)
            async with held_up(scheduler):
                put(due, gone)
                put(other, there)
                gone.abandon(ClientGone("gone"))
            await idle(scheduler)
        with pytest.raises(ClientGone):
            await results_of(gone)

    in_loop(scenario)
    assert noted.batches == [[2]]


def test_a_broken_session_is_left_alone_until_it_works_again() -> None:
    noted = Noted()
    decoded: list[int] = []

    async def scenario() -> None:
        queue = queue_of()
        work = work_of(0, 1, 2)
        async with scheduler_of(2) as scheduler:
            runner = runner_of(queue, noted)
            runner.broken = True
            scheduler.attach(runner, on_cores=True)
            put(queue, work)
            scheduler.decode([job(partial(decoded.append, 1))])  # everything else goes on
            await idle(scheduler)
            assert (noted.batches, len(queue), decoded) == ([], 2, [1])
            runner.broken = False
            queue.wake()
            assert await results_of(work) == [1, 2]

    in_loop(scenario)


def test_a_model_that_was_detached_is_run_no_more() -> None:
    noted = Noted()

    async def scenario() -> None:
        kept, unloaded = queue_of(), queue_of(patience=0)
        work = work_of(0, 1)
        async with scheduler_of(1) as scheduler:
            runner = runner_of(unloaded, noted)
            scheduler.attach(runner, on_cores=True)
            scheduler.attach(runner_of(kept, noted), on_cores=True)
            await scheduler.detach(runner)
            put(unloaded, work_of(0, 7))
            put(kept, work)
            assert await results_of(work) == [1]
            await idle(scheduler)

    in_loop(scenario)
    assert noted.batches == [[1]]


def test_a_model_may_be_detached_while_it_runs() -> None:
    held = Held()

    async def scenario() -> None:
        queue = queue_of()
        work, more = work_of(0, 1), work_of(1, 2)
        async with scheduler_of(1) as scheduler:
            runner = runner_of(queue, held)
            scheduler.attach(runner, on_cores=True)
            put(queue, work)
            assert await asyncio.to_thread(held.entered.wait, PATIENCE)
            await scheduler.detach(runner)
            put(queue, more)
            held.release.set()
            assert await results_of(work) == [1]
            await idle(scheduler)
            scheduler.decode([job(lambda: None)])  # its slot is free again
            await idle(scheduler)

    in_loop(scenario)
    assert held.batches == [[1]]


def test_sessions_on_gpus_feed_on_one_queue_and_take_no_slot() -> None:
    meeting = threading.Barrier(2)
    runs: list[str] = []

    def run_as(name: str) -> Callable[[Pixels], Scores]:
        def run(pixels: Pixels) -> Scores:
            runs.append(f"{name} {len(pixels)} {threading.current_thread().name}")
            meeting.wait(PATIENCE)
            return echo(pixels)

        return run

    async def scenario() -> None:
        queue = queue_of(limit=2)
        async with scheduler_of(1) as scheduler, held_up(scheduler):
            runners = [runner_of(queue, run_as(name)) for name in ("one", "other")]
            for runner in runners:
                scheduler.attach(runner, on_cores=False)
            scheduler.decode([job(lambda: None)])  # what waits for a slot holds up no GPU either
            work = work_of(0, 1, 2)
            put(queue, work)
            assert await results_of(work) == [1, 2]
            assert scheduler._running == 0
            for runner in runners:
                await scheduler.detach(runner)

    in_loop(scenario)
    assert sorted(runs) == ["one 1 run-gpu-0", "other 1 run-gpu-0"]


def test_the_longest_job_is_the_one_that_began_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(scheduling, "perf_counter", lambda: now)

    async def scenario() -> None:
        nonlocal now
        release = [asyncio.Event(), asyncio.Event()]

        async def hold(place: int) -> None:
            await release[place].wait()

        async with scheduler_of(2) as scheduler:
            assert scheduler.longest_job == 0
            for place, start in enumerate((10.0, 13.0)):
                now = start
                scheduler.decode([partial(hold, place)])
            now = 15.0
            assert scheduler.longest_job == 5
            release[0].set()
            await until(lambda: scheduler.decoding == 1)
            assert scheduler.longest_job == 2
            release[1].set()
            await idle(scheduler)
            assert scheduler.longest_job == 0

    in_loop(scenario)


def test_a_run_is_a_job_like_any_other() -> None:
    held = Held()

    async def scenario() -> None:
        queue = queue_of()
        work = work_of(0, 1)
        async with scheduler_of(1) as scheduler:
            scheduler.attach(runner_of(queue, held), on_cores=True)
            put(queue, work)
            assert await asyncio.to_thread(held.entered.wait, PATIENCE)
            assert scheduler.longest_job > 0
            scheduler.decode([job(lambda: None)])
            assert scheduler.decoding == 0  # it has the one slot
            held.release.set()
            await results_of(work)

    in_loop(scenario)


def test_closing_ends_what_is_decoded_and_leaves_the_rest_undone() -> None:
    done: list[str] = []

    async def hold() -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with scheduler_of(1) as scheduler:
            scheduler.decode([hold, job(partial(done.append, "queued"))])
            await asyncio.sleep(0)
        await idle(scheduler)
        assert scheduler.decoding == 0

    in_loop(scenario)
    assert done == []


def test_closing_leaves_no_timer() -> None:
    async def hold() -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        queue = queue_of()
        async with scheduler_of(3, cores=2) as scheduler:
            scheduler.attach(runner_of(queue), on_cores=True)
            scheduler.decode([hold] * 2)
            put(queue, work_of(0, 1))
            timer = scheduler._again
            assert timer is not None
        await asyncio.sleep(0)  # a turn, in which the decodes that were cancelled end
        assert timer.cancelled()
        assert scheduler._again is timer

    in_loop(scenario)


@pytest.mark.parametrize(("threads", "on_cores", "bound"), [(1, True, True), (2, True, False), (1, False, False)])
def test_a_run_of_one_thread_on_the_cores_is_bound_to_one(threads: int, on_cores: bool, bound: bool) -> None:
    cores = os.sched_getaffinity(0)
    masks: list[set[int]] = []

    def run(pixels: Pixels) -> Scores:
        masks.append(os.sched_getaffinity(0))
        return echo(pixels)

    async def scenario() -> None:
        async with scheduler_of(len(cores)) as scheduler:
            queue = queue_of()
            scheduler.attach(runner_of(queue, run, threads=threads), on_cores=on_cores)
            work = work_of(0, 1)
            put(queue, work)
            assert await results_of(work) == [1]

    in_loop(scenario)
    (mask,) = masks
    assert len(mask) == 1 if bound else mask == cores


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one core nobody can make way")
def test_the_event_loop_makes_way_for_a_run() -> None:
    cores = os.sched_getaffinity(0)
    masks: list[set[int]] = []
    held = Held()

    def run(pixels: Pixels) -> Scores:
        masks.append(os.sched_getaffinity(0))
        return held(pixels)

    async def scenario() -> None:
        async with scheduler_of(len(cores)) as scheduler:
            queue = queue_of()
            scheduler.attach(runner_of(queue, run), on_cores=True)
            work = work_of(0, 1)
            put(queue, work)
            await until(held.entered.is_set)
            (mask,) = masks
            os.sched_setaffinity(0, mask)
            os.sched_setaffinity(0, cores)
            assert {current_core()} == mask
            scheduler.decode([job(lambda: None)])
            assert {current_core()} != mask
            assert os.sched_getaffinity(0) == cores
            held.release.set()
            assert await results_of(work) == [1]

    in_loop(scenario)
