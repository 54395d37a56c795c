"""Services that several test files ask, and ways to hold one up."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.preprocessing import Pixels
from service.session import Scores, Session
from tests.service import colours
from tests.service.live import PATIENCE, live_service
from tests.service.seeming_cuda import SeemingCuda

InThread = Callable[[Callable[[], httpx.Response]], Future[httpx.Response]]
"""What the fixture `in_thread` is."""


@pytest.fixture(scope="session")
def strip_mlp(bundled_models: Path) -> Iterator[httpx.Client]:
    """The bundled model behind batches of at most 4."""
    with live_service(bundled_models, max_batch=4) as client:
        yield client


@pytest.fixture
def colour_models(tmp_path: Path) -> Path:
    """A repository with the one version of a tiny model."""
    colours.save_served(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Two tiny models, one in two versions, with the tightest limits."""
    models = tmp_path_factory.mktemp("models")
    colours.save_served(models, "colours", 2, labels=("rouge", "vert", "bleu"))
    colours.save_served(models, "colours", 10)
    colours.save_served(models, "shades", 1)
    with live_service(
        models, keep_versions=2, max_images=3, max_request_mb=2, max_image_mb=1, max_pixels=10_000
    ) as client:
        yield client


@pytest.fixture
def seeming_cuda(monkeypatch: pytest.MonkeyPatch) -> SeemingCuda:
    """GPUs that are the CPU."""
    return SeemingCuda(monkeypatch)


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    """Asks in a thread of its own."""
    with ThreadPoolExecutor(16) as pool:
        yield pool.submit


class Gate:
    """Holds every run of every session while it is closed, but those of blank pictures, with which models are timed."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.batches: list[int] = []

    def close(self) -> None:
        self.batches.clear()
        self.reached.clear()
        self.open.clear()

    def pass_through(self, batch: int) -> None:
        self.batches.append(batch)
        self.reached.set()
        assert self.open.wait(PATIENCE)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate before the real runs of the sessions that are loaded during the test."""
    gate = Gate()
    run = Session.run

    def gated(session: Session, pixels: Pixels) -> Scores:
        if pixels.any():
            gate.pass_through(len(pixels))
        return run(session, pixels)

    monkeypatch.setattr(Session, "run", gated)
    yield gate
    gate.open.set()
