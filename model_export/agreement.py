"""The proof of a quantised file: its answers, on pictures that did not calibrate it, against the file in float32."""

import numpy as np
from rich.progress import Progress

from model_export.calibration import Judged
from model_export.gates import EIGHT_BIT_GATE
from model_export.parity import Case, compare, run
from service.artifact import Accuracy, ParityReport
from service.session import Scores, Session

BATCH_SIZES = (1, 32)


def check_agreement(
    single: Session, quantised: Session, held_back: Judged, described: str, progress: Progress
) -> ParityReport:
    """Compare two sessions on the same pictures.

    Args:
        single: the file in float32, proven against the checkpoint.
        quantised: the candidate.
        held_back: pictures that the candidate was not calibrated with.
        described: which pictures those are.
        progress: shows how far it is.
    """
    expected = run(single, held_back.pixels, BATCH_SIZES[-1], progress).logits.astype(np.float64)
    case = Case("held-back pictures", expected, held_back.pixels)
    scores = {size: run(quantised, case.pixels, size, progress) for size in BATCH_SIZES}
    rows = tuple(compare(case, found, size) for size, found in scores.items())
    accuracy = _accuracy(case, scores[BATCH_SIZES[-1]], held_back)
    return ParityReport(
        reference="the same checkpoint's file in float32, which passed its own parity check",
        candidate=f"this file in ONNX Runtime, {quantised.provider}",
        pictures=described,
        logit_range=float(expected.max() - expected.min()),
        max_abs_logit_error_allowed=EIGHT_BIT_GATE.logit_error,
        max_abs_probability_error_allowed=EIGHT_BIT_GATE.probability_error,
        top1_agreement_required=EIGHT_BIT_GATE.top1_agreement,
        accuracy=accuracy,
        accuracy_loss_allowed=EIGHT_BIT_GATE.accuracy_loss,
        rows=rows,
        passed=EIGHT_BIT_GATE.passes(rows, accuracy),
    )


def _accuracy(case: Case, scores: Scores, held_back: Judged) -> Accuracy | None:
    known = held_back.classes >= 0
    if not known.any():
        return None
    reference, candidate = (
        float((logits.argmax(axis=1) == held_back.classes)[known].mean()) for logits in (case.expected, scores.logits)
    )
    return Accuracy(pictures=int(known.sum()), reference=reference, candidate=candidate)
