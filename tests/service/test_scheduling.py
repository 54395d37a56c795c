"""The threads: what goes first, who shares, and that nothing stops them."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import workers as workers_module
from service.batching import BatchQueue
from service.errors import ClientGone
from service.preprocessing import Pixels
from service.session import Scores
from service.work import Item, Work
from service.workers import Workers
from tests.service.live import PATIENCE
from tests.service.stand_ins import Held, Noted, echo, results_of, runner_of, work_of


class Fatal(BaseException):
    """Not caught by `except Exception`."""


@contextmanager
def workers_of(threads: int) -> Iterator[Workers]:
    workers = Workers(threads, "test")
    try:
        yield workers
    finally:
        workers.close()


def await_idle(workers: Workers) -> None:
    """Until every thread waits for something to do."""
    given_up = monotonic() + PATIENCE
    while True:
        with workers._lock:
            if len(workers._idle) == workers.threads:
                return
        assert monotonic() < given_up


@contextmanager
def held_up(workers: Workers) -> Iterator[None]:
    """Every thread is busy; on leaving, all of them look for what to do next."""
    entered, release = threading.Barrier(workers.threads + 1), threading.Event()

    def hold() -> None:
        entered.wait(PATIENCE)
        assert release.wait(PATIENCE)

    workers.decode([hold] * workers.threads)
    entered.wait(PATIENCE)
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


def in_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE):
            await scenario()

    asyncio.run(run())


def test_jobs_are_done_first_come_first_served() -> None:
    done: list[int] = []
    last = threading.Event()
    with workers_of(1) as workers:
        workers.decode([partial(done.append, number) for number in range(5)])
        workers.decode([lambda: done.append(5), last.set])
        assert last.wait(PATIENCE)

    assert done == list(range(6))


@pytest.mark.parametrize("jobs_at_once", [True, False])
def test_as_many_jobs_as_there_are_threads_run_at_once(jobs_at_once: bool) -> None:
    meeting = threading.Barrier(4)
    met: list[bool] = []
    all_met = threading.Semaphore(0)

    def meet() -> None:
        meeting.wait(PATIENCE)
        met.append(True)
        all_met.release()

    with workers_of(4) as workers:
        await_idle(workers)
        if jobs_at_once:
            workers.decode([meet] * 4)
        else:
            for _ in range(4):
                workers.decode([meet])
        for _ in range(4):
            assert all_met.acquire(timeout=PATIENCE)

    assert met == [True] * 4


@pytest.mark.parametrize("error", [Fatal("the end"), SystemExit(3), ValueError("odd")])
def test_a_job_that_raises_kills_no_thread(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def fail() -> None:
        raise error

    with workers_of(1) as workers:
        workers.decode([fail, fail, done.set])
        assert done.wait(PATIENCE)
        await_idle(workers)
        assert workers.longest_job == 0

    assert caplog.text.count("a worker's job failed in a way that nobody foresaw") == 2


def test_a_runner_that_raises_kills_no_thread_and_keeps_its_place(
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
        with workers_of(1) as workers:
            workers.attach(runner)
            lost, answered = work_of(0, 1), work_of(1, 2)
            put(queue, lost)
            assert await asyncio.to_thread(raised.wait, PATIENCE)
            await asyncio.to_thread(await_idle, workers)
            assert runner.running == 0
            put(queue, answered)
            assert await results_of(answered) == [2]

    in_loop(scenario)
    assert "nobody foresaw" in caplog.text


def test_an_idle_session_takes_a_picture_at_once() -> None:
    noted = Noted()

    async def scenario() -> None:
        queue = queue_of()
        with workers_of(1) as workers:
            workers.attach(runner_of(queue, noted))
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
        with workers_of(1) as workers:
            workers.attach(runner_of(queue, run))
            work = work_of(0, *range(pictures))
            with held_up(workers):
                workers.decode([lambda: order.append("job"), lambda: order.append("job")])
                put(queue, work)
            await results_of(work)
            await asyncio.to_thread(await_idle, workers)

    in_loop(scenario)
    return order


def test_jobs_go_before_a_batch_that_is_not_due() -> None:
    assert order_of(queue_of(limit=4), 3) == ["job", "job", "run 3"]


def test_a_full_batch_goes_before_jobs_and_the_rest_of_it_after_them() -> None:
    assert order_of(queue_of(limit=4), 4) == ["run 4", "job", "job"]
    assert order_of(queue_of(limit=4), 6) == ["run 4", "job", "job", "run 2"]


def test_a_batch_that_has_waited_for_long_enough_goes_before_jobs() -> None:
    assert order_of(queue_of(limit=4, patience=0), 3) == ["run 3", "job", "job"]


def test_of_batches_that_are_due_the_one_that_waits_for_longest_goes_first() -> None:
    noted = Noted()

    async def scenario() -> None:
        queues = [queue_of(patience=0) for _ in range(3)]
        works = [work_of(0, number) for number in range(3)]
        with workers_of(1) as workers:
            for queue in queues:
                workers.attach(runner_of(queue, noted))
            with held_up(workers):
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
        with workers_of(3) as workers:
            workers.attach(runner_of(queue, held))
            first, others = work_of(0, 0), [work_of(order, order) for order in range(1, 10)]
            put(queue, first)
            assert await asyncio.to_thread(held.entered.wait, PATIENCE)
            put(queue, *others)
            held.release.set()
            assert [await results_of(work) for work in (first, *others)] == [[number] for number in range(10)]

    in_loop(scenario)
    assert held.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


@pytest.mark.parametrize(
    ("threads", "capacity", "waiting", "shares"),
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
def test_free_threads_share_what_waits(threads: int, capacity: int, waiting: int, shares: list[int]) -> None:
    """All runs of the first round go on at once, so no thread takes twice."""
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
        with workers_of(threads) as workers:
            await asyncio.to_thread(await_idle, workers)
            workers.attach(runner_of(queue, run, capacity=capacity))
            queue.wake()
            assert await results_of(work) == list(range(waiting))

    in_loop(scenario)
    assert sorted(len(batch) for batch in noted.batches[: len(shares)]) == shares


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
        with workers_of(4) as workers:
            runner = runner_of(queue, run, capacity=2)
            workers.attach(runner)
            put(queue, *works)
            for work in works:
                await results_of(work)
            await asyncio.to_thread(await_idle, workers)
            assert runner.running == 0

    in_loop(scenario)
    assert 1 <= most <= 2


requests = st.lists(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=8), min_size=1, max_size=40)


@given(requests, st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 1000]))
@settings(deadline=None, max_examples=40)
def test_everyone_gets_their_own_answer(
    requests: list[list[int]], limit: int, threads: int, capacity: int, patience: float
) -> None:
    noted = Noted()

    async def scenario() -> None:
        queue = queue_of(limit, patience)
        works = [work_of(order, *pictures) for order, pictures in enumerate(requests)]
        with workers_of(threads) as workers:
            workers.attach(runner_of(queue, noted, capacity=capacity))
            for work in works:
                workers.decode([partial(queue.put, item) for item in work.items])
            assert [await results_of(work) for work in works] == requests

    in_loop(scenario)
    assert max(len(batch) for batch in noted.batches) <= limit


def test_nothing_of_an_abandoned_request_reaches_the_session() -> None:
    noted = Noted()

    async def scenario() -> None:
        queue = queue_of()
        gone, there = work_of(0, 1, 2), work_of(1, 3)
        with workers_of(1) as workers:
            workers.attach(runner_of(queue, noted))
            with held_up(workers):
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
        with workers_of(1) as workers:
            runner = runner_of(queue, noted)
            workers.attach(runner)
            with held_up(workers):
                put(queue, gone)
                gone.abandon(ClientGone("gone"))
            await asyncio.to_thread(await_idle, workers)
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
        with workers_of(1) as workers:
            workers.attach(runner_of(due, noted))
            workers.attach(runner_of(other, noted))
            with held_up(workers):
                put(due, gone)
                put(other, there)
                gone.abandon(ClientGone("gone"))
            await asyncio.to_thread(await_idle, workers)
        with pytest.raises(ClientGone):
            await results_of(gone)

    in_loop(scenario)
    assert noted.batches == [[2]]


def test_a_broken_session_is_left_alone_until_it_works_again() -> None:
    noted, decoded = Noted(), threading.Event()

    async def scenario() -> None:
        queue = queue_of()
        work = work_of(0, 1, 2)
        with workers_of(2) as workers:
            runner = runner_of(queue, noted)
            runner.broken = True
            workers.attach(runner)
            put(queue, work)
            workers.decode([decoded.set])  # everything else goes on
            assert await asyncio.to_thread(decoded.wait, PATIENCE)
            await asyncio.to_thread(await_idle, workers)
            assert (noted.batches, len(queue)) == ([], 2)
            runner.broken = False
            queue.wake()
            assert await results_of(work) == [1, 2]

    in_loop(scenario)


def test_a_model_that_was_detached_is_run_no_more() -> None:
    noted = Noted()

    async def scenario() -> None:
        kept, unloaded = queue_of(), queue_of(patience=0)
        work = work_of(0, 1)
        with workers_of(1) as workers:
            runner = runner_of(unloaded, noted)
            workers.attach(runner)
            workers.attach(runner_of(kept, noted))
            workers.detach(runner)
            put(unloaded, work_of(0, 7))
            put(kept, work)
            assert await results_of(work) == [1]
            await asyncio.to_thread(await_idle, workers)

    in_loop(scenario)
    assert noted.batches == [[1]]


def test_sessions_on_threads_of_their_own_feed_on_one_queue() -> None:
    """As on CUDA, where each session has its thread."""
    meeting = threading.Barrier(2)
    runs: list[str] = []

    def run_as(name: str) -> Callable[[Pixels], Scores]:
        def run(pixels: Pixels) -> Scores:
            runs.append(name)
            meeting.wait(PATIENCE)
            return echo(pixels)

        return run

    async def scenario() -> None:
        queue = queue_of(limit=2)
        with workers_of(1) as one, workers_of(1) as other:
            one.attach(runner_of(queue, run_as("one")))
            other.attach(runner_of(queue, run_as("other")))
            work = work_of(0, 1, 2, 3, 4)
            with held_up(one), held_up(other):
                put(queue, work)
            assert await results_of(work) == [1, 2, 3, 4]

    in_loop(scenario)
    assert sorted(runs) == ["one", "other"]


def test_the_longest_job_is_the_one_that_began_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(workers_module, "perf_counter", lambda: now)
    begun, release = threading.Semaphore(0), [threading.Event(), threading.Event()]
    ended = threading.Semaphore(0)

    def hold(place: int) -> Callable[[], None]:
        def job() -> None:
            begun.release()
            assert release[place].wait(PATIENCE)
            ended.release()

        return job

    with workers_of(2) as workers:
        assert workers.longest_job == 0
        for place, start in enumerate((10.0, 13.0)):
            now = start
            workers.decode([hold(place)])
            assert begun.acquire(timeout=PATIENCE)
        now = 15.0
        assert workers.longest_job == 5
        release[0].set()
        given_up = monotonic() + PATIENCE
        while workers.longest_job == 5:
            assert monotonic() < given_up
        assert workers.longest_job == 2
        release[1].set()
        await_idle(workers)
        assert workers.longest_job == 0


def test_a_run_is_a_job_like_any_other() -> None:
    held = Held()

    async def scenario() -> None:
        queue = queue_of()
        work = work_of(0, 1)
        with workers_of(1) as workers:
            workers.attach(runner_of(queue, held))
            put(queue, work)
            assert await asyncio.to_thread(held.entered.wait, PATIENCE)
            assert workers.longest_job > 0
            held.release.set()
            await results_of(work)

    in_loop(scenario)


def test_closing_ends_the_threads_once_they_are_through() -> None:
    workers = Workers(2, "test")
    begun, release = threading.Barrier(3), threading.Event()
    done: list[str] = []

    def finish() -> None:
        begun.wait(PATIENCE)
        assert release.wait(PATIENCE)
        done.append("begun")

    workers.decode([finish, finish, lambda: done.append("queued")])
    begun.wait(PATIENCE)
    closing = threading.Thread(target=workers.close)
    closing.start()
    given_up = monotonic() + PATIENCE
    while not workers._closed:
        assert monotonic() < given_up
    assert all(thread.is_alive() for thread in workers._threads)
    release.set()
    closing.join(PATIENCE)

    assert not closing.is_alive()
    assert not any(thread.is_alive() for thread in workers._threads)
    assert done == ["begun", "begun"]


def test_closing_waits_no_longer_than_it_has_to_for_a_thread_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "JOIN_SECONDS", 0)
    workers = Workers(1, "test")
    with held_up(workers):
        workers.close()
        (thread,) = workers._threads
        assert thread.is_alive()
        assert thread.daemon  # so it does not keep the process alive either
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_threads_are_named_after_what_they_do() -> None:
    with workers_of(2) as workers:
        assert [thread.name for thread in workers._threads] == ["test-0", "test-1"]
