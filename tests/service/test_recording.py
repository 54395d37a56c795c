"""The thread that runs a session with CUDA graphs; the session is a real one, on the CPU."""

import ctypes
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service import binding
from service.binding import Binding
from service.preprocessing import Pixels
from service.recording import RecordingThread
from service.session import Session
from tests.service import colours
from tests.service.live import PATIENCE


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(binding, "pinned_pixels", lambda shape: np.zeros(shape, np.uint8))
    return Session.open(colours.save_served(tmp_path), device="cpu", threads=1)


class Noted(Binding):
    """Notes which threads it ran in."""

    def __init__(self, session: Session) -> None:
        super().__init__(session._inference, classes=3, device="cpu", number=0)
        self.threads: set[threading.Thread] = set()

    def run(self, pixels: Pixels) -> Any:
        self.threads.add(threading.current_thread())
        return super().run(pixels)


class Runtime:
    """Stands in for CUDA's runtime library; notes the mode that each thread asked for."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.modes: dict[threading.Thread, int] = {}

    def cudaThreadExchangeStreamCaptureMode(self, mode: Any) -> int:
        self.modes[threading.current_thread()] = mode._obj.value
        return self.status


def runtime_of(monkeypatch: pytest.MonkeyPatch, status: int) -> Runtime:
    stand_in = Runtime(status)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    monkeypatch.setattr(ctypes, "CDLL", {"libcudart.so.13": stand_in}.__getitem__)
    return stand_in


def pixels(batch: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (batch, colours.SIZE, colours.SIZE, 3), dtype=np.uint8)


def test_whoever_asks_one_thread_runs_and_each_gets_his_own_answers(session: Session) -> None:
    noted = Noted(session)
    recording = RecordingThread(noted)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(recording.run, [pixels(2, seed) for seed in range(32)]))

    for seed, (logits, probabilities) in enumerate(answers):
        expected = session.run(pixels(2, seed))
        np.testing.assert_array_equal(logits, expected.logits)
        np.testing.assert_array_equal(probabilities, expected.probabilities)
    assert len(noted.threads) == 1
    assert threading.current_thread() not in noted.threads


def test_what_a_run_raises_reaches_who_asked_and_the_next_one_works(session: Session) -> None:
    recording = RecordingThread(Noted(session))

    with pytest.raises(Exception, match="invalid dimensions for input"):
        recording.run(np.zeros((1, 8, 8, 3), np.uint8))

    assert recording.run(pixels(1))[0].shape == (1, 3)


def test_the_thread_ends_with_its_object_and_never_keeps_the_process(session: Session) -> None:
    noted = Noted(session)
    recording = RecordingThread(noted)
    recording.run(pixels(1))
    (thread,) = noted.threads
    assert thread.daemon

    del recording
    gc.collect()

    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_the_thread_minds_its_own_recordings_alone(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = runtime_of(monkeypatch, status=0)
    noted = Noted(session)

    RecordingThread(noted).run(pixels(1))

    assert runtime.modes == dict.fromkeys(noted.threads, 1)


def test_where_cuda_refuses_that_the_log_says_so_and_runs_go_on(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime_of(monkeypatch, status=1)

    assert RecordingThread(Noted(session)).run(pixels(1))[0].shape == (1, 3)

    assert "may disturb the recording of other sessions' CUDA graphs: CUDA's error 1" in caplog.text


def test_where_there_is_no_cuda_the_log_says_so_and_runs_go_on(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "cuda_version", "0.0")

    assert RecordingThread(Noted(session)).run(pixels(1))[0].shape == (1, 3)

    assert "libcudart.so.0" in caplog.text
