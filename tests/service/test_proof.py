"""The proof on start, on answers that are off by so much."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.errors import UnusableModel
from service.preprocessing import Pixels
from service.proof import require_same_answers
from service.providers import CUDA
from service.session import Scores, Session
from tests.service import colours

ALLOWED = 0.5

Harm = Callable[[Scores], Scores]


def session_of(path: Path, harm: Harm) -> tuple[Session, list[int]]:
    """A session whose answers are harmed, and the sizes of the batches that it is given."""
    real = Session.open(path, device="cpu", threads=1)
    sizes: list[int] = []

    class Inference:
        def run(self, _: list[str], inputs: dict[str, Pixels]) -> tuple[object, object]:
            sizes.append(len(inputs["pixels"]))
            scores = harm(real.run(inputs["pixels"]))
            return scores.logits, scores.probabilities

    return Session(real.artifact, CUDA, Inference()), sizes


def served(models: Path, **bounds: float | None) -> Path:
    report = colours.parity().model_copy(update={"max_abs_logit_error_allowed": None, **bounds})
    return colours.save_served(models, parity=report)


def logits_off(by: float) -> Harm:
    """The last picture's last logit is off."""

    def harm(scores: Scores) -> Scores:
        logits = scores.logits.copy()
        logits[-1, -1] += by
        return Scores(logits, scores.probabilities)

    return harm


def probabilities_off(by: float) -> Harm:
    def harm(scores: Scores) -> Scores:
        probabilities = scores.probabilities.copy()
        probabilities[-1, -1] += by
        return Scores(scores.logits, probabilities)

    return harm


def other_top1(scores: Scores) -> Scores:
    return Scores(-scores.logits, scores.probabilities)


def shifted(scores: Scores) -> Scores:
    return Scores(scores.logits + 9, scores.probabilities)


def unharmed(scores: Scores) -> Scores:
    return scores


def test_the_same_answers_pass_in_every_size_and_every_batch_is_full(tmp_path: Path) -> None:
    path = served(tmp_path, max_abs_logit_error_allowed=0.0, max_abs_probability_error_allowed=1.0)
    session, sizes = session_of(path, unharmed)

    require_same_answers(session, path, [1, 3, 32])

    assert sizes == [1] * 8 + [3] * 3 + [32]


@pytest.mark.parametrize("off", [0.4, -0.4, 0.6, -0.6, np.nan, np.inf])
@pytest.mark.parametrize(("what", "harm"), [("logit", logits_off), ("probability", probabilities_off)])
def test_answers_may_be_as_far_off_as_the_report_allows(
    tmp_path: Path, what: str, harm: Callable[[float], Harm], off: float
) -> None:
    path = served(tmp_path, **{f"max_abs_{what}_error_allowed": ALLOWED})
    session, _ = session_of(path, harm(off))

    if abs(off) <= ALLOWED:
        require_same_answers(session, path, [2])
    else:
        with pytest.raises(UnusableModel, match=rf"on CUDAExecutionProvider .* batches of 2, .* off by {abs(off):.2e}"):
            require_same_answers(session, path, [2])


@pytest.mark.parametrize("what", ["logit", "probability"])
def test_what_the_report_does_not_bound_may_be_off(tmp_path: Path, what: str) -> None:
    path = served(tmp_path, **{f"max_abs_{what}_error_allowed": ALLOWED})
    session, _ = session_of(path, probabilities_off(9) if what == "logit" else logits_off(9))

    require_same_answers(session, path, [2])


def test_without_any_bound_top1_has_to_agree_as_the_report_requires(tmp_path: Path) -> None:
    path = served(tmp_path, top1_agreement_required=0.99)

    require_same_answers(session_of(path, shifted)[0], path, [1])
    with pytest.raises(UnusableModel, match=r"top-1 is the same for 0\.0%, required are 99\.0%"):
        require_same_answers(session_of(path, other_top1)[0], path, [1])


def test_a_size_of_many_that_is_off_is_named(tmp_path: Path) -> None:
    path = served(tmp_path, max_abs_logit_error_allowed=ALLOWED)
    session, _ = session_of(path, lambda scores: logits_off(9 if len(scores.logits) == 4 else 0)(scores))

    with pytest.raises(UnusableModel, match=r"in batches of 4, logits are off by 9\.00e"):
        require_same_answers(session, path, [1, 2, 4, 8])
