"""A request's pictures: each leaves once, and the request ends once, whatever happens in which order."""

import asyncio
import weakref
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BrokenPicture, ClientGone, DeadlineExceeded, ServiceError
from service.work import Item, Work
from tests.service.live import PATIENCE
from tests.service.stand_ins import echo, picture, results_of, roomy, work_of


def settle(work: Work, index: int) -> None:
    """With the index as its answer, though the work may have let go of its items."""
    work.settle(Item(work, index, b""), echo(picture(index)[None]).row(0))


@given(st.permutations(range(6)))
@settings(max_examples=50)
def test_results_are_in_request_order_whichever_is_first(order: list[int]) -> None:
    async def scenario() -> None:
        admission = roomy()
        work = work_of(0, *range(6), admission=admission)
        for left, index in zip(range(5, -1, -1), order, strict=True):
            assert not work._done.done()
            settle(work, index)
            assert admission.in_work == left

        assert await results_of(work) == list(range(6))

    asyncio.run(scenario())


def test_an_error_is_the_result_of_its_picture_alone() -> None:
    async def scenario() -> None:
        work = work_of(0, 0, 1, 2)
        work.settle(work.items[1], BrokenPicture("torn"))
        settle(work, 2)
        settle(work, 0)

        assert await results_of(work) == [0, BrokenPicture, 2]

    asyncio.run(scenario())


@given(st.permutations(["settle 0", "settle 1", "settle 2", "client gone", "deadline", "cancel"]), st.booleans())
@settings(max_examples=200)
def test_whatever_happens_in_which_order_everything_leaves_once(events: list[str], waited_for: bool) -> None:
    async def scenario() -> None:
        admission = roomy()
        admission.admit(7, PATIENCE)  # another request's, which nobody may take out
        work = work_of(0, 0, 1, 2, admission=admission)
        waiter = asyncio.create_task(work.results())
        await asyncio.sleep(0)  # one turn of the event loop, in which it gets as far as waiting
        settled, end = 0, ""
        for event in events:
            if event.startswith("settle"):
                settle(work, int(event[-1]))
                settled += 1
            elif event == "client gone":
                work.abandon(ClientGone("gone"))
            elif event == "deadline":
                work.abandon(DeadlineExceeded("late"))
            elif waited_for:
                waiter.cancel()
                await asyncio.wait([waiter])
                work.abandon(ClientGone("the request was cancelled"))
            else:
                continue
            if settled == 3 or not event.startswith("settle"):
                end = end or ("answered" if settled == 3 else event)
            expected = 0 if end else 3 - settled
            assert admission.in_work == 7 + expected
            assert work.abandoned is (bool(end) and end != "answered")

        with suppress(asyncio.CancelledError, ServiceError):
            await waiter
        if end == "answered" and not waiter.cancelled():
            assert len(waiter.result()) == 3
        elif not waiter.cancelled():
            assert type(waiter.exception()) is {"client gone": ClientGone, "deadline": DeadlineExceeded}[end]

    asyncio.run(scenario())


def test_an_abandoned_request_ends_at_once_with_the_first_reason() -> None:
    async def scenario() -> None:
        work = work_of(0, 1, 2)
        work.abandon(DeadlineExceeded("late"))
        work.abandon(ClientGone("gone"))

        with pytest.raises(DeadlineExceeded, match="late"):
            await results_of(work)

    asyncio.run(scenario())


def test_what_waits_in_a_queue_of_an_abandoned_request_holds_no_memory() -> None:
    async def scenario() -> None:
        work = work_of(0, 1, 2)
        work.items[0].content, work.items[1].pixels = np.zeros(9, np.uint8), np.zeros(9, np.uint8)
        content, pixels = weakref.ref(work.items[0].content), weakref.ref(work.items[1].pixels)
        work.abandon(DeadlineExceeded("late"))

        assert content() is pixels() is None
        with pytest.raises(DeadlineExceeded):
            await results_of(work)

    asyncio.run(scenario())


def test_a_request_that_was_answered_cannot_be_abandoned() -> None:
    async def scenario() -> None:
        work = work_of(0, 0)
        settle(work, 0)
        work.abandon(ClientGone("gone"))

        assert not work.abandoned
        assert await results_of(work) == [0]

    asyncio.run(scenario())


def test_the_last_result_may_come_in_the_very_turn_in_which_the_request_is_cancelled() -> None:
    """Cancelling a task cancels its future at once, but the task hears of it only in the event loop's next turn."""

    async def scenario() -> None:
        admission = roomy()
        work = work_of(0, 0, admission=admission)
        waiter = asyncio.create_task(work.results())
        await asyncio.sleep(0)  # one turn of the event loop, in which it gets as far as waiting
        waiter.cancel()
        settle(work, 0)

        await asyncio.wait([waiter])
        assert waiter.cancelled()
        assert admission.in_work == 0

    asyncio.run(scenario())


def test_places_are_by_request_then_by_picture() -> None:
    async def scenario() -> None:
        first, second = work_of(1, 0, 0), work_of(2, 0)

        assert [item.place for item in first.items + second.items] == [(1, 0), (1, 1), (2, 0)]

    asyncio.run(scenario())
