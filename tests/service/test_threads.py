"""The threads: in order, at once, and that nothing stops them."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic

import pytest

from service import threads as threads_module
from service.threads import Threads, in_thread
from tests.service.live import PATIENCE


class Fatal(BaseException):
    """Not caught by `except Exception`."""


@contextmanager
def threads_of(number: int) -> Iterator[Threads]:
    threads = Threads(number, "test")
    try:
        yield threads
    finally:
        threads.close()


def test_jobs_are_done_first_come_first_served() -> None:
    done: list[int] = []
    with threads_of(1) as threads:
        for number in range(6):
            threads.submit(partial(done.append, number))

    assert done == list(range(6))


def test_as_many_jobs_as_there_are_threads_run_at_once() -> None:
    meeting = threading.Barrier(4)
    met: list[bool] = []

    def meet() -> None:
        meeting.wait(PATIENCE)
        met.append(True)

    with threads_of(4) as threads:
        for _ in range(4):
            threads.submit(meet)

    assert met == [True] * 4


@pytest.mark.parametrize("error", [Fatal("the end"), SystemExit(3), ValueError("odd")])
def test_a_job_that_raises_kills_no_thread(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fail() -> None:
        raise error

    with threads_of(1) as threads:
        threads.submit(fail)
        threads.submit(fail)
        threads.submit(partial(done.append, "done"))

    assert done == ["done"]
    assert caplog.text.count("a run failed in a way that nobody foresaw") == 2


def test_closing_ends_the_threads_once_they_are_through() -> None:
    threads = Threads(2, "test")
    begun, release = threading.Barrier(3), threading.Event()
    done: list[str] = []

    def finish() -> None:
        begun.wait(PATIENCE)
        assert release.wait(PATIENCE)
        done.append("done")

    threads.submit(finish)
    threads.submit(finish)
    begun.wait(PATIENCE)
    closing = threading.Thread(target=threads.close)
    closing.start()
    given_up = monotonic() + PATIENCE
    while threads._jobs.qsize() < 2:
        assert monotonic() < given_up
    assert all(thread.is_alive() for thread in threads._threads)
    release.set()
    closing.join(PATIENCE)

    assert not closing.is_alive()
    assert not any(thread.is_alive() for thread in threads._threads)
    assert done == ["done", "done"]


def test_closing_waits_no_longer_than_it_has_to_for_a_thread_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "JOIN_SECONDS", 0)
    threads = Threads(1, "test")
    begun, release = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert release.wait(PATIENCE)

    threads.submit(hold)
    assert begun.wait(PATIENCE)
    threads.close()

    (thread,) = threads._threads
    assert thread.is_alive()
    assert thread.daemon  # so it does not keep the process alive either
    release.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_threads_are_named_after_what_they_do() -> None:
    with threads_of(2) as threads:
        assert [thread.name for thread in threads._threads] == ["test-0", "test-1"]


def test_what_is_made_in_a_thread_is_returned_and_what_is_raised_there_is_raised() -> None:
    async def scenario() -> None:
        assert await in_thread(threading.current_thread, "test") is not threading.current_thread()
        with pytest.raises(Fatal):
            await in_thread(fail, "test")

    def fail() -> None:
        raise Fatal

    asyncio.run(scenario())


def test_what_nobody_waits_for_any_more_disturbs_nobody(recwarn: pytest.WarningsRecorder) -> None:
    begun, release = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def hold() -> None:
        threads.append(threading.current_thread())
        begun.set()
        assert release.wait(PATIENCE)

    async def scenario() -> None:
        task = asyncio.create_task(in_thread(hold, "test"))
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(scenario())
    release.set()
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()
    assert not recwarn.list


STUCK = """
import asyncio, threading
from service.threads import in_thread
async def main():
    begun = threading.Event()
    def hold():
        begun.set()
        threading.Event().wait()
    task = asyncio.create_task(in_thread(hold, "test"))
    await asyncio.to_thread(begun.wait)
    task.cancel()
asyncio.run(main())
"""


def test_a_thread_that_is_stuck_does_not_keep_the_process_alive() -> None:
    subprocess.run([sys.executable, "-c", STUCK], check=True, timeout=PATIENCE)
