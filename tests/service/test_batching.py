"""The queue: who runs together, that everyone gets their own answer, and how it ends."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import BatchQueue
from service.errors import InferenceFailed, NotReady
from service.metrics import Metrics
from service.preprocessing import Pixels
from service.session import Scores
from tests.service.live import PATIENCE


def picture(number: int) -> Pixels:
    return np.array([number >> 8, number & 0xFF, 0], dtype=np.uint8).reshape(1, 1, 3)


def numbers(pixels: Pixels) -> list[int]:
    return [int(high) << 8 | int(low) for high, low, _ in pixels[:, 0, 0]]


def echo(pixels: Pixels) -> Scores:
    """The picture's number as its one logit."""
    logits = np.array(numbers(pixels), dtype=np.float32)[:, None]
    return Scores(logits, logits / np.float32(1000))


class Held:
    """A run that waits for `release` and notes what came."""

    def __init__(self, answer: Callable[[Pixels], Scores] = echo) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.batches: list[list[int]] = []
        self._answer = answer

    def __call__(self, pixels: Pixels) -> Scores:
        self.batches.append(numbers(pixels))
        self.entered.set()
        assert self.release.wait(PATIENCE)
        return self._answer(pixels)


def queue_of(run: Callable[[Pixels], Scores], limit: int = 4, metrics: Metrics | None = None) -> BatchQueue:
    return BatchQueue(run, limit=limit, name="m", metrics=metrics or Metrics())


async def submit_behind_a_run(queue: BatchQueue, held: Held, count: int) -> list[asyncio.Task[Scores]]:
    """Picture 0 is running and the others up to `count` wait, in this order."""
    tasks = [asyncio.create_task(queue.submit(picture(0)))]
    assert await asyncio.to_thread(held.entered.wait, PATIENCE)
    tasks += [asyncio.create_task(queue.submit(picture(number))) for number in range(1, count)]
    await asyncio.sleep(0)  # one turn of the event loop, in which each task gets as far as waiting
    assert len(queue) == count - 1
    return tasks


async def outcomes(tasks: list[asyncio.Task[Scores]]) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)


def test_an_idle_queue_takes_a_picture_at_once() -> None:
    batches: list[list[int]] = []

    def run(pixels: Pixels) -> Scores:
        batches.append(numbers(pixels))
        return echo(pixels)

    async def scenario() -> list[float]:
        async with queue_of(run) as queue:
            return [float((await queue.submit(picture(number))).logits[0]) for number in range(3)]

    assert asyncio.run(scenario()) == [0, 1, 2]
    assert batches == [[0], [1], [2]]


def test_pictures_gather_behind_a_run_up_to_the_limit_first_come_first_served() -> None:
    metrics = Metrics()
    held = Held()

    async def scenario() -> list[float]:
        async with queue_of(held, limit=4, metrics=metrics) as queue:
            tasks = await submit_behind_a_run(queue, held, 10)
            held.release.set()
            return [float(scores.logits[0]) for scores in await outcomes(tasks)]

    assert asyncio.run(scenario()) == list(range(10))
    assert held.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
    assert metrics.registry.get_sample_value("stripmlp_batch_size_sum", {"model": "m"}) == 10
    assert metrics.registry.get_sample_value("stripmlp_batch_size_count", {"model": "m"}) == 4
    for stage, count in ("queue", 10), ("infer", 4):
        labels = {"model": "m", "stage": stage}
        assert metrics.registry.get_sample_value("stripmlp_stage_duration_seconds_count", labels) == count


@given(st.lists(st.integers(0, 0xFFFF), max_size=500), st.integers(1, 50))
@settings(deadline=None, max_examples=25)
def test_everyone_gets_their_own_answer(wanted: list[int], limit: int) -> None:
    async def scenario() -> list[Scores]:
        async with queue_of(echo, limit) as queue:
            return await asyncio.gather(*(queue.submit(picture(number)) for number in wanted))

    answers = asyncio.run(scenario())

    assert [scores.logits.tolist() for scores in answers] == [[number] for number in wanted]
    assert [scores.probabilities.shape for scores in answers] == [(1,)] * len(wanted)


def test_of_a_failing_batch_only_the_culprit_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail_on_two(pixels: Pixels) -> Scores:
        if 2 in numbers(pixels):
            raise RuntimeError("out of memory")
        return echo(pixels)

    held = Held(fail_on_two)

    async def scenario() -> list[Any]:
        async with queue_of(held, limit=2) as queue:
            tasks = await submit_behind_a_run(queue, held, 5)
            held.release.set()
            return [*await outcomes(tasks), await queue.submit(picture(7))]

    kinds = [type(outcome) for outcome in asyncio.run(scenario())]

    assert held.batches == [[0], [1, 2], [1], [2], [3, 4], [7]]
    assert kinds == [Scores, Scores, InferenceFailed, Scores, Scores, Scores]
    assert "out of memory" in caplog.text


def test_a_cancelled_picture_never_reaches_the_session() -> None:
    held = Held()

    async def scenario() -> list[Any]:
        async with queue_of(held, limit=8) as queue:
            tasks = await submit_behind_a_run(queue, held, 4)
            tasks[2].cancel()
            await asyncio.wait([tasks[2]])
            held.release.set()
            return await outcomes(tasks)

    kinds = [type(outcome) for outcome in asyncio.run(scenario())]

    assert held.batches == [[0], [1, 3]]
    assert kinds == [Scores, Scores, asyncio.CancelledError, Scores]


def test_when_all_that_wait_are_cancelled_nothing_runs(caplog: pytest.LogCaptureFixture) -> None:
    held = Held()

    async def scenario() -> float:
        async with queue_of(held) as queue:
            tasks = await submit_behind_a_run(queue, held, 3)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            held.release.set()
            while len(queue):  # noqa: ASYNC110 - the queue tells nobody that it has emptied
                await asyncio.sleep(0)
            return float((await queue.submit(picture(9))).logits[0])

    assert asyncio.run(scenario()) == 9
    assert held.batches == [[0], [9]]
    assert not caplog.records


def test_leaving_fails_what_waits_and_what_runs() -> None:
    held = Held()

    async def scenario() -> tuple[list[Any], BatchQueue]:
        async with queue_of(held) as queue:
            tasks = await submit_behind_a_run(queue, held, 4)
            tasks[3].cancel()
            # The session's thread is let go only once its picture has its answer.
            tasks[0].add_done_callback(lambda _: held.release.set())
        return await outcomes(tasks), queue

    ends, queue = asyncio.run(scenario())

    assert [type(end) for end in ends] == [NotReady, NotReady, NotReady, asyncio.CancelledError]
    assert held.batches == [[0]]
    assert not queue.alive
    with pytest.raises(NotReady, match="model m is not running"):
        asyncio.run(asyncio.wait_for(queue.submit(picture(1)), PATIENCE))


def test_a_queue_that_was_not_entered_is_not_alive() -> None:
    assert not queue_of(echo).alive


def test_a_dead_worker_fails_everyone_and_takes_no_more(caplog: pytest.LogCaptureFixture) -> None:
    class Fatal(BaseException):
        """What no batch's failure is."""

    def die(_: Pixels) -> Scores:
        raise Fatal

    held = Held(die)

    async def scenario() -> tuple[list[Any], bool]:
        async with queue_of(held) as queue:
            tasks = await submit_behind_a_run(queue, held, 3)
            held.release.set()
            waiting = await outcomes(tasks[1:])
            with pytest.raises(NotReady, match="model m is not running"):
                await asyncio.wait_for(queue.submit(picture(1)), PATIENCE)
            done, _ = await asyncio.wait(tasks[:1], timeout=PATIENCE)
            running = await outcomes(list(done))
            return running + waiting, queue.alive

    ends, alive = asyncio.run(scenario())

    assert [type(end) for end in ends] == [NotReady] * 3
    assert not alive
    assert "the batching of model m died" in caplog.text


def test_a_run_that_answers_too_few_pictures_is_tried_again_one_by_one() -> None:
    held = Held(lambda pixels: echo(pixels[:1]))

    async def scenario() -> list[Any]:
        async with queue_of(held) as queue:
            tasks = await submit_behind_a_run(queue, held, 3)
            held.release.set()
            _, pending = await asyncio.wait(tasks, timeout=PATIENCE)
            assert not pending
            return [*await outcomes(tasks), await queue.submit(picture(9))]

    kinds = [type(end) for end in asyncio.run(scenario())]

    assert held.batches == [[0], [1, 2], [1], [2], [9]]
    assert kinds == [Scores] * 4
