"""Runs on bound buffers, for real, but in the CPU's memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import binding
from service.binding import Binding
from service.preprocessing import Pixels
from service.session import Session
from tests.service import colours

made: list[tuple[int, ...]] = []
"""Shapes of the page-locked arrays that were asked for."""


@pytest.fixture(autouse=True)
def _ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def ordinary(shape: tuple[int, ...]) -> Pixels:
        made.append(shape)
        return np.zeros(shape, np.uint8)

    monkeypatch.setattr(binding, "pinned_pixels", ordinary)
    yield
    made.clear()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session.open(colours.save_served(tmp_path), device="cpu", threads=1)


@pytest.fixture
def bound(session: Session) -> Binding:
    return Binding(session._inference, classes=3, device="cpu", number=0)


def pixels(batch: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (batch, colours.SIZE, colours.SIZE, 3), dtype=np.uint8)


def test_bound_runs_answer_as_plain_ones_whatever_the_order_of_sizes(session: Session, bound: Binding) -> None:
    for seed, batch in enumerate((1, 4, 2, 4, 1)):
        logits, probabilities = bound.run(pixels(batch, seed))

        expected = session.run(pixels(batch, seed))
        np.testing.assert_array_equal(logits, expected.logits)
        np.testing.assert_array_equal(probabilities, expected.probabilities)
        assert logits.dtype == probabilities.dtype == np.float32


def test_a_batch_size_keeps_its_buffers(bound: Binding) -> None:
    for batch in (1, 4, 1, 4, 4):
        bound.run(pixels(batch))

    assert [shape[0] for shape in made] == [1, 4]


def test_every_batch_size_has_a_cuda_graph_of_its_own(
    session: Session, bound: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = session._inference.run_with_iobinding
    graphs: list[str] = []

    def noting(buffers: Any, options: Any) -> None:
        graphs.append(options.get_run_config_entry("gpu_graph_id"))
        run(buffers, options)

    monkeypatch.setattr(session._inference, "run_with_iobinding", noting)
    for batch in (1, 4, 1):
        bound.run(pixels(batch))

    assert graphs == ["1", "4", "1"]


def test_an_answer_outlives_the_next_run(bound: Binding) -> None:
    first, _ = bound.run(pixels(2, seed=1))
    before = first.copy()

    bound.run(pixels(2, seed=2))

    np.testing.assert_array_equal(first, before)


def test_pictures_need_not_lie_in_one_piece(session: Session, bound: Binding) -> None:
    apart = pixels(6)[::2]

    np.testing.assert_array_equal(bound.run(apart)[0], session.run(np.ascontiguousarray(apart)).logits)


def test_runs_take_turns(session: Session, bound: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one would fill the buffers that another is reading."""
    run = session._inference.run_with_iobinding
    alone: list[bool] = []

    def noting(buffers: Any, options: Any) -> None:
        alone.append(bound._lock.locked())
        run(buffers, options)

    monkeypatch.setattr(session._inference, "run_with_iobinding", noting)
    bound.run(pixels(1))

    assert alone == [True]


def test_threads_get_the_answers_to_their_own_pictures(session: Session, bound: Binding) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(bound.run, [pixels(2, seed) for seed in range(64)]))

    for seed, (logits, _) in enumerate(answers):
        np.testing.assert_array_equal(logits, session.run(pixels(2, seed)).logits)


def test_a_run_passes_on_what_onnxruntime_raises_and_the_next_one_works(bound: Binding) -> None:
    with pytest.raises(Exception, match="invalid dimensions for input"):
        bound.run(np.zeros((1, 8, 8, 3), np.uint8))

    assert bound.run(pixels(1))[0].shape == (1, 3)
