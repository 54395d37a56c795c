"""The queue: whose turn it is, who shares a batch, and when one is due."""

import asyncio
import math
from collections.abc import Callable
from random import Random
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import BatchQueue
from service.errors import ClientGone
from service.work import Item, Work
from tests.service.stand_ins import places, work_of

T = TypeVar("T")


def in_loop(scenario: Callable[[], T]) -> T:
    """Requests belong to an event loop."""

    async def run() -> T:
        return scenario()

    return asyncio.run(run())


def queue_of(limit: int, patience: float = 1000) -> BatchQueue:
    return BatchQueue(limit=limit, patience=patience)


def works_of(sizes: list[int]) -> list[Work]:
    return [work_of(order, *range(size)) for order, size in enumerate(sizes)]


def drained(queue: BatchQueue) -> list[list[Item]]:
    batches = []
    while len(queue):
        batches.append(queue.take(1))
    return batches


sizes = st.lists(st.integers(1, 8), min_size=1, max_size=12)


@given(sizes, st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_requests_run_as_they_came_and_their_pictures_as_they_were_sent(
    sizes: list[int], limit: int, random: Random
) -> None:
    def scenario() -> None:
        queue = queue_of(limit)
        items = [item for work in works_of(sizes) for item in work.items]
        for item in random.sample(items, len(items)):
            queue.put(item)
        batches = drained(queue)

        assert [item for batch in batches for item in batch] == items
        assert [len(batch) for batch in batches[:-1]] == [limit] * (len(batches) - 1)
        assert 1 <= len(batches[-1]) <= limit

    in_loop(scenario)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_whoever_was_decoded_by_now_runs_first_come_first_served(takes: list[bool], limit: int, random: Random) -> None:
    def scenario() -> None:
        queue = queue_of(limit)
        coming = [item for work in works_of([3] * 20) for item in work.items]
        random.shuffle(coming)
        waiting: list[Item] = []
        for take in takes:
            if take:
                waiting.sort(key=lambda item: item.place)
                assert places(queue.take(1)) == places(waiting[:limit])
                del waiting[:limit]
            else:
                waiting.append(coming.pop())
                queue.put(waiting[-1])
            assert len(queue) == len(waiting)

    in_loop(scenario)


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 8))
@settings(max_examples=100)
def test_runs_that_can_start_share_what_is_there(waiting: int, limit: int, sharers: int) -> None:
    def scenario() -> None:
        queue = queue_of(limit)
        for item in work_of(0, *range(waiting)).items:
            queue.put(item)

        shares = [len(queue.take(sharers - already)) for already in range(sharers)]

        assert sum(shares) == min(waiting, limit * sharers)
        assert max(shares) <= limit
        assert max(shares) - min(shares) <= 1
        assert shares[0] == min(limit, math.ceil(waiting / sharers))

    in_loop(scenario)


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=12), st.integers(1, 9))
@settings(max_examples=50)
def test_nothing_of_an_abandoned_request_is_taken(requests: list[tuple[int, bool]], limit: int) -> None:
    def scenario() -> None:
        queue = queue_of(limit)
        works = works_of([size for size, _ in requests])
        for work in works:
            for item in work.items:
                queue.put(item)
        for work, (_, abandoned) in zip(works, requests, strict=True):
            if abandoned:
                work.abandon(ClientGone("gone"))
        batches = drained(queue)

        kept = [item for work in works if not work.abandoned for item in work.items]
        assert [item for batch in batches for item in batch] == kept
        # The abandoned ones take no places in a batch away from the others.
        assert [len(batch) for batch in batches if batch][:-1] == [limit] * ((len(kept) - 1) // limit if kept else 0)

    in_loop(scenario)


def test_a_batch_is_due_when_it_is_full() -> None:
    def scenario() -> None:
        queue = queue_of(3)
        items = work_of(0, 1, 2, 3, 4).items
        due = []
        for item in items:
            queue.put(item)
            due.append(queue.is_due(item.decoded))

        assert due == [False, False, True, True]

    in_loop(scenario)


def test_a_batch_is_due_when_its_next_picture_has_waited_for_long_enough() -> None:
    def scenario() -> None:
        queue = queue_of(8, patience=2)
        (item,) = work_of(0, 1).items
        queue.put(item)

        assert queue.oldest == item.decoded
        assert queue.due_at == item.decoded + 2
        assert not queue.is_due(item.decoded + 1.9)
        assert queue.is_due(item.decoded + 2.1)
        queue.take(1)
        assert not queue.is_due(item.decoded + 2.1)

    in_loop(scenario)


def test_a_picture_waits_no_longer_because_others_go_before_it() -> None:
    def scenario() -> None:
        queue = queue_of(8, patience=2)
        first, second, third = (work_of(order, order).items[0] for order in range(3))
        for item in (third, second, first):
            queue.put(item)

        assert queue.oldest == third.decoded
        assert queue.due_at == third.decoded + 2

    in_loop(scenario)


def test_nobody_waits_for_pictures_that_have_left() -> None:
    def scenario() -> None:
        queue = queue_of(2, patience=2)
        works = [work_of(order, order) for order in range(4)]
        for place in (3, 0, 1, 2):
            queue.put(works[place].items[0])
        assert places(queue.take(1)) == [(0, 0), (1, 0)]
        (next_one,), (last,) = works[2].items, works[3].items
        assert queue.oldest == last.decoded
        works[3].abandon(ClientGone("gone"))

        assert queue.oldest == next_one.decoded

    in_loop(scenario)


def test_an_empty_queue_is_never_due_and_gives_nothing() -> None:
    queue = queue_of(8, patience=0)

    assert queue.oldest == math.inf
    assert queue.due_at == math.inf
    assert not queue.is_due(1e9)
    assert queue.take(1) == []


def test_every_listener_hears_of_every_picture_once_it_can_be_taken() -> None:
    def scenario() -> None:
        queue = queue_of(8)
        heard: list[tuple[str, int]] = []
        queue.listen(lambda: heard.append(("first", len(queue))))
        queue.listen(lambda: heard.append(("second", len(queue))))
        for item in work_of(0, 1, 2).items:
            queue.put(item)
        queue.wake()

        assert heard == [(name, length) for length in (1, 2, 2) for name in ("first", "second")]

    in_loop(scenario)
