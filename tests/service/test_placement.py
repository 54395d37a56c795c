"""Which core a run has, and who moves out of its way: on this machine's cores, with its kernel."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Barrier, Event
from time import sleep

import pytest

from service import placement as module
from service.placement import Placement, current_core
from tests.service.live import PATIENCE

CORES = os.sched_getaffinity(0)

needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="on one core nobody can make way")


@pytest.fixture
def placement() -> Placement:
    return Placement(len(CORES))


@contextmanager
def running(placement: Placement) -> Iterator[set[int]]:
    """A run in another thread, and what cores that may use."""
    entered, leave = Event(), Event()
    masks: list[set[int]] = []

    def run() -> None:
        with placement.run():
            masks.append(os.sched_getaffinity(0))
            entered.set()
            assert leave.wait(PATIENCE)
        masks.append(os.sched_getaffinity(0))

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run)
        try:
            assert entered.wait(PATIENCE)
            yield masks[0]
        finally:
            leave.set()
        ended.result()
    assert masks[1] == CORES


def go_to(core: int) -> None:
    """Have this thread on a core, to which it is not bound."""
    os.sched_setaffinity(0, {core})
    os.sched_setaffinity(0, CORES)
    assert current_core() == core


def test_each_run_has_a_core_of_its_own_and_one_too_many_has_none(placement: Placement) -> None:
    with ExitStack() as runs:
        masks = [runs.enter_context(running(placement)) for _ in CORES]
        assert sorted(core for mask in masks for core in mask) == sorted(CORES)
        assert runs.enter_context(running(placement)) == CORES


def test_runs_that_begin_at_once_do_not_choose_the_same_core(
    placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly() -> int:
        sleep(0)  # lets another thread go on, in the middle of the choice
        return 0

    monkeypatch.setattr(module, "current_core", slowly)
    start, end = Barrier(len(CORES)), Barrier(len(CORES))

    def run() -> set[int]:
        start.wait(PATIENCE)
        with placement.run():
            end.wait(PATIENCE)
            return os.sched_getaffinity(0)

    with ThreadPoolExecutor(len(CORES)) as pool:
        for _ in range(50):
            masks = [future.result() for future in [pool.submit(run) for _ in CORES]]
            assert sorted(core for mask in masks for core in mask) == sorted(CORES)


def test_a_core_is_free_again_after_a_run_that_raises(placement: Placement) -> None:
    masks: list[set[int]] = []

    def fail() -> None:
        with placement.run():
            masks.append(os.sched_getaffinity(0))
            raise ValueError("odd")

    for _ in range(2 * len(CORES)):
        with pytest.raises(ValueError, match="odd"):
            fail()
        assert os.sched_getaffinity(0) == CORES
    assert [len(mask) for mask in masks] == [1] * len(masks)


@needs_two_cores
def test_who_makes_way_leaves_the_run_and_is_not_bound(placement: Placement) -> None:
    with running(placement) as (core,):
        go_to(core)
        placement.make_way()
        assert current_core() != core
        assert os.sched_getaffinity(0) == CORES


def test_nobody_moves_where_there_is_no_better_place(placement: Placement) -> None:
    with ExitStack() as runs:
        for _ in CORES:
            runs.enter_context(running(placement))
        placement.make_way()
        assert os.sched_getaffinity(0) == CORES
    here = current_core()
    go_to(here)
    placement.make_way()
    assert current_core() == here


@pytest.mark.parametrize("cores", [1, len(CORES) + 1])
def test_cores_that_are_shared_with_others_are_left_to_the_kernel(cores: int) -> None:
    placement = Placement(cores)

    with running(placement) as mask:
        assert mask == CORES
        placement.make_way()


@needs_two_cores
def test_a_thread_that_cannot_be_moved_runs_where_it_is(
    placement: Placement, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: int, cores: set[int]) -> None:
        raise OSError("not yours")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)

    with running(placement) as mask:
        assert mask == CORES
    assert "a thread could not be moved to cores" in caplog.text
    assert "not yours" in caplog.text
