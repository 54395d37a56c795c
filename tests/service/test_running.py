"""Running batches: who fails, what is padded, and what becomes of a session that keeps failing."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import BatchQueue
from service.errors import ClientGone, InferenceFailed
from service.metrics import Metrics
from service.preprocessing import Pixels
from service.running import Runner
from service.session import Scores, Session
from tests.service.live import PATIENCE
from tests.service.stand_ins import Held, Noted, Run, echo, numbers, results_of, runner_of, session, work_of

BLANK = 0
"""The number of a probe's picture and of padding."""

IN_A_ROW = 3
"""So many batches that fail, and the session is doubted."""

LIMIT = 8

PROBE = [BLANK] * LIMIT


def queue_of() -> BatchQueue:
    return BatchQueue(limit=LIMIT, patience=0)


def failing_on(*culprits: int) -> Run:
    def run(pixels: Pixels) -> Scores:
        if set(culprits) & set(numbers(pixels)):
            raise RuntimeError("out of memory")
        return echo(pixels)

    return run


def fail(_: Pixels) -> Scores:
    raise RuntimeError("out of memory")


async def run_alone(runner: Runner, *pictures: int) -> list[Any]:
    """What one request is told whose pictures are a batch."""
    work = work_of(0, *pictures)
    runner.run(work.items)
    return await results_of(work)


async def repaired() -> bool:
    """Whether a repair was going on, which has ended now."""
    repairs = [task for task in asyncio.all_tasks() if task.get_name() == "repair m"]
    if repairs:
        _, going_on = await asyncio.wait(repairs, timeout=PATIENCE)
        assert not going_on
    return bool(repairs)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries to open a session anew, none of which is made."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        if task.get_name().startswith("repair"):
            pauses.append(seconds)
        else:  # services of other tests run in this process, too
            await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    return pauses


@given(st.lists(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=5), min_size=1, max_size=6))
@settings(max_examples=25)
def test_of_a_batch_of_several_requests_each_gets_its_own_answers(requests: list[list[int]]) -> None:
    async def scenario() -> None:
        runner = runner_of(queue_of())
        works = [work_of(order, *pictures) for order, pictures in enumerate(requests)]
        batch = [item for work in works for item in work.items]
        batch.sort(key=lambda item: item.index)  # the requests' pictures in turn
        runner.run(batch)

        assert [await results_of(work) for work in works] == requests

    asyncio.run(scenario())


@given(st.lists(st.integers(1, 500), unique=True, min_size=1, max_size=10), st.data())
@settings(max_examples=25)
def test_of_a_failing_batch_only_the_culprits_fail(pictures: list[int], data: st.DataObject) -> None:
    culprits = data.draw(st.lists(st.sampled_from(pictures), unique=True, min_size=1))
    noted = Noted(failing_on(*culprits))

    async def scenario() -> list[Any]:
        return await run_alone(runner_of(queue_of(), noted), *pictures)

    logging.disable()
    try:
        results = asyncio.run(scenario())
    finally:
        logging.disable(logging.NOTSET)

    assert results == [InferenceFailed if number in culprits else number for number in pictures]
    one_by_one = [[number] for number in pictures] if len(pictures) > 1 else []
    assert noted.batches == [pictures, *one_by_one]


def test_a_failure_is_logged_and_its_cause_kept_from_the_client(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> str:
        runner = runner_of(queue_of(), fail)
        work = work_of(0, 1)
        runner.run(work.items)
        (result,) = await work.results()
        return str(result)

    assert asyncio.run(scenario()) == "model m failed on this picture"
    assert "out of memory" in caplog.text


def test_a_run_that_answers_too_few_pictures_is_tried_again_one_by_one() -> None:
    noted = Noted(lambda pixels: echo(pixels[:1]))

    async def scenario() -> list[Any]:
        return await run_alone(runner_of(queue_of(), noted), 1, 2, 3)

    assert asyncio.run(scenario()) == [1, 2, 3]
    assert noted.batches == [[1, 2, 3], [1], [2], [3]]


def test_what_no_batchs_failure_is_fails_its_pictures_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Fatal(BaseException):
        """Not caught by `except Exception`."""

    def die(_: Pixels) -> Scores:
        raise Fatal

    async def scenario() -> list[Any]:
        return await run_alone(runner_of(queue_of(), die), 1, 2)

    assert asyncio.run(scenario()) == [InferenceFailed] * 2
    assert "running model m failed in a way that nobody foresaw" in caplog.text


def test_who_left_during_the_run_is_told_nothing_and_the_others_are() -> None:
    held = Held()

    async def scenario() -> list[Any]:
        runner = runner_of(queue_of(), held)
        gone, there = work_of(0, 1), work_of(1, 2)
        run = asyncio.create_task(asyncio.to_thread(runner.run, gone.items + there.items))
        assert await asyncio.to_thread(held.entered.wait, PATIENCE)
        gone.abandon(ClientGone("gone"))
        held.release.set()
        await run
        with pytest.raises(ClientGone):
            await results_of(gone)
        return await results_of(there)

    assert asyncio.run(scenario()) == [2]


@given(st.integers(1, 8), st.sampled_from([(8,), (1, 8), (1, 2, 4, 8), (1, 2, 4, 8, 16), (3, 5, 8)]))
@settings(max_examples=50)
def test_batches_are_padded_to_the_next_size_and_padding_is_no_ones_answer(count: int, sizes: tuple[int, ...]) -> None:
    metrics, noted = Metrics(), Noted()
    pictures = list(range(100, 100 + count))

    async def scenario() -> list[Any]:
        runner = runner_of(queue_of(), noted, sizes=sizes, metrics=metrics.of_model("m", 1, []))
        return await run_alone(runner, *pictures)

    assert asyncio.run(scenario()) == pictures
    size = min(each for each in sizes if each >= count)
    assert noted.batches == [pictures + [BLANK] * (size - count)]
    assert metrics.registry.get_sample_value("stripmlp_batch_padding_total", {"model": "m"}) == size - count
    # The batch's own size is counted without.
    assert metrics.registry.get_sample_value("stripmlp_batch_size_sum", {"model": "m"}) == count


def test_without_sizes_nothing_is_padded() -> None:
    metrics, noted = Metrics(), Noted()

    async def scenario() -> list[Any]:
        return await run_alone(runner_of(queue_of(), noted, metrics=metrics.of_model("m", 1, [])), 1, 2, 3)

    assert asyncio.run(scenario()) == [1, 2, 3]
    assert noted.batches == [[1, 2, 3]]
    assert metrics.registry.get_sample_value("stripmlp_batch_padding_total", {"model": "m"}) == 0


def test_pictures_that_are_run_again_are_padded_too() -> None:
    noted = Noted(failing_on(2))

    async def scenario() -> list[Any]:
        return await run_alone(runner_of(queue_of(), noted, sizes=[2, 4]), 1, 2, 3)

    assert asyncio.run(scenario()) == [1, InferenceFailed, 3]
    assert noted.batches == [[1, 2, 3, BLANK], [1, BLANK], [2, BLANK], [3, BLANK]]


def test_runs_and_waits_are_measured() -> None:
    metrics = Metrics()

    async def scenario() -> None:
        runner = runner_of(queue_of(), metrics=metrics.of_model("m", 1, []))
        await run_alone(runner, 1, 2, 3)
        await run_alone(runner, 4)

    asyncio.run(scenario())

    for stage, count in ("queue", 4), ("infer", 2):
        labels = {"model": "m", "stage": stage}
        assert metrics.registry.get_sample_value("stripmlp_stage_duration_seconds_count", labels) == count
    assert metrics.registry.get_sample_value("stripmlp_batch_size_count", {"model": "m"}) == 2
    assert metrics.registry.get_sample_value("stripmlp_batch_size_sum", {"model": "m"}) == 4


def test_it_could_run_while_there_is_something_to_run_and_the_session_is_not_full() -> None:
    async def scenario() -> list[bool]:
        queue = queue_of()
        runner = runner_of(queue, capacity=2)
        could = [runner.could_run]
        queue.put(work_of(0, 1).items[0])
        for runs in 0, 1, 2:
            runner.running = runs
            could.append(runner.could_run)
        runner.running, runner.broken = 0, True
        return [*could, runner.could_run]

    assert asyncio.run(scenario()) == [False, True, True, False, False]


Steps = Callable[[Runner], Coroutine[Any, Any, None]]


def doubted(run: Run, steps: Steps) -> int:
    """How often the session was opened anew in the course of these steps."""
    opened = 0

    def reopen() -> Session:
        nonlocal opened
        opened += 1
        return session()

    async def scenario() -> None:
        runner = runner_of(queue_of(), run, reopen=reopen)
        await steps(runner)
        await runner.close()

    asyncio.run(scenario())
    return opened


def test_a_session_that_classifies_a_blank_picture_is_kept() -> None:
    noted = Noted(failing_on(7))

    async def steps(runner: Runner) -> None:
        for _ in range(2):  # the next as many failures lead to another probe, no fewer
            for _ in range(IN_A_ROW - 1):
                assert await run_alone(runner, 7) == [InferenceFailed]
                assert not await repaired()
            assert await run_alone(runner, 7) == [InferenceFailed]
            assert await repaired()
            assert not runner.broken

    assert doubted(noted, steps) == 0
    assert noted.batches == ([[7]] * IN_A_ROW + [PROBE]) * 2


def test_a_batch_that_works_interrupts_the_row_of_failures() -> None:
    noted = Noted(failing_on(7))

    async def steps(runner: Runner) -> None:
        for _ in range(4):
            for _ in range(IN_A_ROW - 1):
                assert await run_alone(runner, 7, 8) == [InferenceFailed, 8]
            assert await run_alone(runner, 8, 8) == [8, 8]
        assert not await repaired()

    assert doubted(noted, steps) == 0
    assert PROBE not in noted.batches


def test_a_session_that_fails_on_batches_but_not_on_single_pictures_is_opened_anew() -> None:
    def fail_on_many(pixels: Pixels) -> Scores:
        if len(pixels) > 1:
            raise RuntimeError("out of memory")
        return echo(pixels)

    async def steps(runner: Runner) -> None:
        for _ in range(IN_A_ROW):
            assert await run_alone(runner, 1, 2) == [1, 2]
        assert await repaired()

    assert doubted(fail_on_many, steps) == 1


def test_a_session_that_fails_on_a_blank_picture_too_is_opened_anew(caplog: pytest.LogCaptureFixture) -> None:
    async def steps(runner: Runner) -> None:
        woken: list[bool] = []
        runner.queue.listen(lambda: woken.append(runner.could_run))
        runner.queue.put(work_of(0, 1).items[0])
        for _ in range(IN_A_ROW):
            assert await run_alone(runner, 7) == [InferenceFailed]
        assert await repaired()

        assert not runner.broken
        assert woken == [True, True]  # the last one tells whoever runs batches that it could run again
        assert await run_alone(runner, 7) == [7]

    assert doubted(fail, steps) == 1
    assert "model m fails on blank pictures too and is opened anew: out of memory" in caplog.text
    assert "model m works again" in caplog.text


def test_while_it_is_opened_anew_it_is_broken_and_takes_nothing() -> None:
    async def scenario() -> None:
        opening, go_on = asyncio.Event(), Held()
        loop = asyncio.get_running_loop()

        def reopen() -> Session:
            loop.call_soon_threadsafe(opening.set)
            assert go_on.release.wait(PATIENCE)
            return session()

        runner = runner_of(queue_of(), fail, reopen=reopen)
        runner.queue.put(work_of(0, 1).items[0])
        assert (runner.broken, runner.could_run) == (False, True)
        for _ in range(IN_A_ROW):
            await run_alone(runner, 7)
        await asyncio.wait_for(opening.wait(), PATIENCE)
        assert (runner.broken, runner.could_run) == (True, False)
        # What still runs on the old session starts no second repair.
        for _ in range(IN_A_ROW):
            assert await run_alone(runner, 7) == [InferenceFailed]
        go_on.release.set()
        await repaired()
        assert (runner.broken, runner.could_run) == (False, True)
        assert not await repaired()

    asyncio.run(scenario())


def test_opening_anew_is_tried_until_a_session_works(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    def reopen() -> Session:
        nonlocal tries
        tries += 1
        if tries % 2:
            raise OSError("no such file")
        return session(fail if tries < 10 else echo)

    async def scenario() -> list[Any]:
        runner = runner_of(queue_of(), fail, reopen=reopen)
        for _ in range(IN_A_ROW):
            await run_alone(runner, 7)
        await repaired()
        assert not runner.broken
        return await run_alone(runner, 7)

    assert asyncio.run(scenario()) == [7]
    assert tries == 10
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert "model m cannot be opened anew; next try in 1 s" in caplog.text
    assert "no such file" in caplog.text


def test_closing_ends_a_repair() -> None:
    async def scenario() -> bool:
        tried = asyncio.Event()
        loop = asyncio.get_running_loop()

        def reopen() -> Session:
            loop.call_soon_threadsafe(tried.set)
            raise OSError("no such file")

        runner = runner_of(queue_of(), fail, reopen=reopen)
        for _ in range(IN_A_ROW):
            await run_alone(runner, 7)
        await asyncio.wait_for(tried.wait(), PATIENCE)
        await asyncio.wait_for(runner.close(), PATIENCE)
        return await repaired()

    assert asyncio.run(scenario()) is False


def test_closing_what_needs_no_repair_does_nothing() -> None:
    async def scenario() -> None:
        await asyncio.wait_for(runner_of(queue_of()).close(), PATIENCE)

    asyncio.run(scenario())


def test_a_repair_that_dies_is_told_and_another_may_follow(caplog: pytest.LogCaptureFixture) -> None:
    class Fatal(BaseException):
        """Not caught by `except Exception`."""

    dying = True

    def run(pixels: Pixels) -> Scores:
        if numbers(pixels) == PROBE and dying:
            raise Fatal
        return fail(pixels)

    async def scenario() -> list[Any]:
        nonlocal dying
        runner = runner_of(queue_of(), run, reopen=session)
        for _ in range(IN_A_ROW):
            await run_alone(runner, 7)
        await repaired()
        assert "the repair of model m died" in caplog.text
        dying = False
        await run_alone(runner, 7)
        assert await repaired()
        return await run_alone(runner, 7)

    assert asyncio.run(scenario()) == [7]


def test_the_provider_is_the_sessions() -> None:
    async def scenario() -> str:
        return runner_of(queue_of()).provider

    assert asyncio.run(scenario()) == "CPUExecutionProvider"
