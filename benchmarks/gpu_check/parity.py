"""How far answers on the device are from those of the CPU in float32."""

from collections.abc import Sequence

import numpy as np

from benchmarks.gpu_check.records import ParityCheck
from benchmarks.gpu_check.subjects import Subject
from model_export.gates import HALF_GATE, single_gate
from service.session import Scores, Session

PICTURES = 32

SEED = 20231003


def check_parity(subject: Subject, device: str, batches: Sequence[int]) -> list[ParityCheck]:
    """Random pixels in batches of each size; the gates are those of the export. Raises what onnxruntime raises."""
    reference = Session.open(subject.single, device="cpu", threads=1)
    size = reference.artifact.architecture.image_size
    pixels = np.random.default_rng(SEED).integers(0, 256, (PICTURES, size, size, 3), dtype=np.uint8)
    expected = _run(reference, pixels, 1)
    session = subject.open(device)
    return [_compared(subject, batch, expected, _run(session, pixels, batch)) for batch in batches]


def _run(session: Session, pixels: np.ndarray, batch: int) -> Scores:
    """All pictures in full batches of this size."""
    places = np.resize(np.arange(PICTURES), (-(-PICTURES // batch), batch))
    scores = [session.run(pixels[each]) for each in places]
    return Scores(
        np.concatenate([each.logits for each in scores])[:PICTURES],
        np.concatenate([each.probabilities for each in scores])[:PICTURES],
    )


def _compared(subject: Subject, batch: int, expected: Scores, found: Scores) -> ParityCheck:
    span = float(expected.logits.max() - expected.logits.min())
    gate = HALF_GATE if subject.precision == "fp16" else single_gate(span)
    logit_error = float(np.abs(found.logits - expected.logits).max())
    probability_error = float(np.abs(found.probabilities - expected.probabilities).max())
    top1 = float((found.logits.argmax(1) == expected.logits.argmax(1)).mean())
    return ParityCheck(
        model=subject.model,
        precision=subject.precision,
        batch=batch,
        pictures=PICTURES,
        logit_range=span,
        max_abs_logit_error=logit_error,
        max_abs_probability_error=probability_error,
        top1_agreement=top1,
        passed=(gate.logit_error is None or logit_error <= gate.logit_error)
        and (gate.probability_error is None or probability_error <= gate.probability_error)
        and top1 >= gate.top1_agreement,
    )
