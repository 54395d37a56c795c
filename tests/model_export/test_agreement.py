from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.agreement import check_agreement
from model_export.calibration import Judged
from model_export.export import Exported
from service.preprocessing import Pixels
from service.session import Session
from tests.model_export.checkpoints import QUIET, SMALL

COUNT = 40


@pytest.fixture(scope="module")
def session(small_model: Exported) -> Session:
    return Session.open(small_model.path, device="cpu", threads=1)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)


class Shifted:
    """ONNX Runtime's session, with the best class of marked pictures lowered."""

    def __init__(self, session: Session, marked: Pixels) -> None:
        self._session = session
        self._marked = {picture.tobytes() for picture in marked}

    def run(self, outputs: list[str], inputs: dict[str, Pixels]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scores = self._session.run(inputs["pixels"])
        for logits, picture in zip(scores.logits, inputs["pixels"], strict=True):
            if picture.tobytes() in self._marked:
                logits[logits.argmax()] -= 100
        return scores.logits, scores.probabilities


def judged(pixels: Pixels, *classes: int) -> Judged:
    return Judged(pixels, np.array(classes or [-1] * len(pixels)))


def test_the_same_file_agrees(session: Session, pixels: Pixels) -> None:
    report = check_agreement(session, session, judged(pixels), "these", QUIET)
    assert report.passed
    assert (report.pictures, report.accuracy) == ("these", None)
    assert [(row.source, row.batch_size, row.pictures) for row in report.rows] == [
        ("held-back pictures", 1, COUNT),
        ("held-back pictures", 32, COUNT),
    ]
    assert report.top1_agreement_required == 0.99


def test_one_other_answer_in_forty_is_too_many(session: Session, pixels: Pixels) -> None:
    shifted = replace(session, _inference=Shifted(session, pixels[7:8]))
    report = check_agreement(session, shifted, judged(pixels), "these", QUIET)
    assert not report.passed
    assert {row.top1_agreement for row in report.rows} == {1 - 1 / COUNT}


def test_accuracy_is_told_where_classes_are_known(session: Session, pixels: Pixels) -> None:
    best = session.run(pixels).logits.argmax(axis=1)
    wrong = (best + 1) % SMALL.num_classes
    classes = [*best[:10], *wrong[10:20], *[-1] * 20]
    shifted = replace(session, _inference=Shifted(session, pixels[:5]))
    report = check_agreement(session, shifted, judged(pixels, *map(int, classes)), "these", QUIET)
    assert report.accuracy is not None
    assert (report.accuracy.pictures, report.accuracy.reference) == (20, 0.5)
    assert report.accuracy.candidate == 0.25
    assert report.accuracy_loss_allowed == 0.005


def test_accuracy_that_is_lost_fails_where_the_answers_agree_well_enough(session: Session) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
    best = session.run(pixels).logits.argmax(axis=1)
    shifted = replace(session, _inference=Shifted(session, pixels[:1]))

    unknown = check_agreement(session, shifted, judged(pixels), "these", QUIET)
    known = check_agreement(session, shifted, judged(pixels, *map(int, best)), "these", QUIET)

    assert unknown.passed
    assert {row.top1_agreement for row in known.rows} == {1 - 1 / 120}
    assert not known.passed
