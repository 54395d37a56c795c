"""The proof on start that a model's answers on a GPU are those of the CPU, as nearly as its file promises."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from service.errors import UnusableModel
from service.preprocessing import Pixels
from service.session import Scores, Session

PICTURES = 8

SEED = 20231003


def require_same_answers(session: Session, path: Path, sizes: Sequence[int]) -> None:
    """Compare a session with one on the CPU, on fixed random pixels, in batches of every size that will be run.

    Allowed is what the file's parity report allows against its checkpoint: how far logits and probabilities may be
    off. Where it bounds neither, the share of the same top-1 has to be the one that it requires.

    Raises:
        UnusableModel: the answers are further off.
    """
    pixels = _pictures(session.artifact.architecture.image_size)
    expected = Session.open(path, device="cpu", threads=1).run(pixels)
    for size in sizes:
        told = _difference(session, expected, pixels, size)
        if told is not None:
            raise UnusableModel(
                f"{path} answers differently on {session.provider} than on the CPU: in batches of {size}, {told}. "
                "Turn off --tf32 and --cuda-graphs if they are on, use --device cuda in place of tensorrt, or "
                "--device cpu."
            )


def _pictures(size: int) -> Pixels:
    return np.random.default_rng(SEED).integers(0, 256, (PICTURES, size, size, 3), dtype=np.uint8)


def _difference(session: Session, expected: Scores, pixels: Pixels, size: int) -> str | None:
    """What is not as allowed, if anything."""
    report = session.artifact.parity
    assert report is not None  # who calls has required it
    # Every picture comes into a batch, and every batch is full.
    batches = np.resize(np.arange(PICTURES), (-(-PICTURES // size), size))
    found = [session.run(pixels[batch]) for batch in batches]
    logits = np.concatenate([scores.logits for scores in found])
    probabilities = np.concatenate([scores.probabilities for scores in found])
    places = batches.ravel()
    wanted = Scores(expected.logits[places], expected.probabilities[places])
    bounds = (
        ("logits", logits - wanted.logits, report.max_abs_logit_error_allowed),
        ("probabilities", probabilities - wanted.probabilities, report.max_abs_probability_error_allowed),
    )
    for what, errors, allowed in bounds:
        error = float(np.abs(errors).max())
        # Not-a-number compares false, and so fails.
        if allowed is not None and not error <= allowed:
            return f"{what} are off by {error:.2e}, allowed are {allowed:.2e}"
    if all(allowed is None for *_, allowed in bounds):
        same = float((logits.argmax(1) == wanted.logits.argmax(1)).mean())
        if same < report.top1_agreement_required:
            return f"top-1 is the same for {same:.1%}, required are {report.top1_agreement_required:.1%}"
    return None
