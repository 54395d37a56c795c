import logging

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from model_export import sensitivity
from model_export.export import Exported
from model_export.quantisation import Group, Quantiser
from model_export.sensitivity import quantise
from service.preprocessing import Pixels
from service.session import Scores, Session
from tests.model_export.checkpoints import QUIET


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def quantiser(small_model: Exported, pixels: Pixels) -> Quantiser:
    return Quantiser.calibrated(onnx.load(small_model.path), pixels)


@pytest.fixture(scope="module")
def expected(small_model: Exported, pixels: Pixels) -> Scores:
    return Session.open(small_model.path, device="cpu", threads=1).run(pixels)


def test_all_is_quantised_where_that_agrees(quantiser: Quantiser, pixels: Pixels, expected: Scores) -> None:
    found = sensitivity._logits(quantiser.quantised(quantiser.groups), pixels)
    as_found = Scores(found, expected.probabilities)
    model = quantise(quantiser, pixels, as_found, QUIET)
    assert model == quantiser.quantised(quantiser.groups)


def test_what_harms_most_is_left_out_first(
    quantiser: Quantiser,
    pixels: Pixels,
    expected: Scores,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Agreement is reached when the two most harmful groups are out; harm is what each does by itself."""
    harm = {
        group.name: sensitivity._harm(sensitivity._logits(quantiser.quantised([group]), pixels), expected.logits)
        for group in quantiser.groups
    }
    worst = sorted(harm, key=harm.__getitem__, reverse=True)[:2]
    tried: list[set[str]] = []
    make = Quantiser.quantised

    def note(self: Quantiser, groups: list[Group]) -> onnx.ModelProto:
        if len(groups) > 1:
            tried.append({group.name for group in groups})
        return make(self, groups)

    def agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
        return 1.0 if len(tried[-1]) == len(harm) - 2 else 0.5

    monkeypatch.setattr(Quantiser, "quantised", note)
    monkeypatch.setattr(sensitivity, "_agreement", agreement)
    with caplog.at_level(logging.WARNING):
        quantise(quantiser, pixels, expected, QUIET)

    assert [harm.keys() - each for each in tried] == [set(), {worst[0]}, set(worst)]
    assert [record.getMessage().split()[0] for record in caplog.records] == worst


def test_harm_is_blind_to_a_shift_of_all_classes() -> None:
    logits = np.array([[1, 2], [3, 4]], np.float32)
    assert sensitivity._harm(logits + np.array([[1], [5]], np.float32), logits) == 0
    assert sensitivity._harm(logits + np.array([0, 2], np.float32), logits) == pytest.approx(1)


def test_agreement_is_about_the_best_class() -> None:
    logits = np.array([[1, 2], [3, 4]], np.float32)
    assert sensitivity._agreement(logits * 5, logits) == 1
    assert sensitivity._agreement(np.array([[1, 2], [4, 3]], np.float32), logits) == 0.5
