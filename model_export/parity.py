"""The proof: the exported file, as the service runs it, against the checkpoint's own network in float64.

Both ways start where a client starts. For encoded pictures the reference decodes, resizes and crops as the authors
do, the candidate with the service's code; for random pixels both get the same ones. What the artifact says of resize,
crop and interpolation is taken as right by both.

The candidate decodes exactly, as the service does with `--exact-decode`. Without it, pictures much larger than needed
are up to 0.4 levels off on average, and their logits further than the gate allows; how far is for
`service/pixels.py` to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from model_export.errors import OptionError
from model_export.gates import HALF_GATE, single_gate
from model_export.network import StripMLP
from model_export.reference import load_picture, reference_logits, resize_and_crop
from model_export.sample_pictures import SEED, EncodedPicture
from service.artifact import ParityReport, ParityRow, Preprocessing, Source
from service.errors import BadPicture
from service.pixels import read_pixels
from service.preprocessing import Pixels
from service.session import Scores, Session
from service.settings import Settings

BATCH_SIZES = (1, 2, 3, 7, 32)
RANDOM_PICTURES = 32
REFERENCE_BATCH = 4
"""Pictures that the reference takes at once: enough to keep the cores busy, few enough for any memory."""


@dataclass(frozen=True)
class Case:
    """One source of pictures: the reference's logits (pictures, classes), the candidate's pixels."""

    source: Source
    expected: NDArray[np.float64]
    pixels: Pixels


def check_parity(
    network: StripMLP, session: Session, pictures: Sequence[EncodedPicture], progress: Progress
) -> ParityReport:
    """Compare a session with the network that it was exported from.

    Args:
        network: the unsimplified network in float64, with the checkpoint's weights.
        session: the exported file, opened by the service's code.
        pictures: encoded pictures, read by both sides from their bytes on.
        progress: shows how far it is.

    Raises:
        OptionError: one of the pictures cannot be decoded, so nothing can be compared on it.
    """
    preprocessing = session.artifact.preprocessing
    random = _random_pixels(preprocessing)
    pixels = _candidate_pixels(pictures, preprocessing)  # first, as it names a picture that cannot be used
    cases = [
        Case("random pixels", _expect(network, random, preprocessing, progress), random),
        Case(
            "encoded pictures",
            _expect(network, _reference_pixels(pictures, preprocessing), preprocessing, progress),
            pixels,
        ),
    ]
    logits = np.concatenate([case.expected for case in cases])
    logit_range = float(logits.max() - logits.min())
    gate = HALF_GATE if session.artifact.precision == "fp16" else single_gate(logit_range)
    rows = tuple(
        compare(case, run(session, case.pixels, size, progress), size) for case in cases for size in BATCH_SIZES
    )
    return ParityReport(
        reference="unsimplified network in float64 on the checkpoint's weights, authors' preprocessing",
        candidate=f"this file in ONNX Runtime, {session.provider}, service's preprocessing",
        logit_range=logit_range,
        max_abs_logit_error_allowed=gate.logit_error,
        max_abs_probability_error_allowed=gate.probability_error,
        top1_agreement_required=gate.top1_agreement,
        rows=rows,
        passed=gate.passes(rows),
    )


def _random_pixels(preprocessing: Preprocessing) -> Pixels:
    size = preprocessing.image_size
    return np.random.default_rng(SEED).integers(0, 256, (RANDOM_PICTURES, size, size, 3), dtype=np.uint8)


def _reference_pixels(pictures: Sequence[EncodedPicture], preprocessing: Preprocessing) -> Pixels:
    return np.stack([np.asarray(resize_and_crop(load_picture(picture.data), preprocessing)) for picture in pictures])


def _candidate_pixels(pictures: Sequence[EncodedPicture], preprocessing: Preprocessing) -> Pixels:
    limit = Settings.model_fields["max_pixels"].default
    pixels = []
    for picture in pictures:
        try:
            pixels.append(read_pixels(picture.data, preprocessing, max_pixels=limit, exact=True))
        except BadPicture as error:
            raise OptionError(f"--pictures: {picture.name} cannot be used: {error}") from error
    return np.stack(pixels)


def _expect(network: StripMLP, pixels: Pixels, preprocessing: Preprocessing, progress: Progress) -> NDArray[np.float64]:
    starts = range(0, len(pixels), REFERENCE_BATCH)
    return np.concatenate(
        [
            reference_logits(network, torch.from_numpy(pixels[start : start + REFERENCE_BATCH]), preprocessing).numpy()
            for start in progress.track(starts, description="Checkpoint in float64")
        ]
    )


def run(session: Session, pixels: Pixels, batch_size: int, progress: Progress) -> Scores:
    """Every picture in batches of exactly this size; the last batch is filled up from the start."""
    count = len(pixels)
    batches = np.resize(np.arange(count), (-(-count // batch_size), batch_size))
    scores = [
        session.run(pixels[batch])
        for batch in progress.track(batches, description=f"Exported file, batches of {batch_size}")
    ]
    return Scores(
        np.concatenate([each.logits for each in scores])[:count],
        np.concatenate([each.probabilities for each in scores])[:count],
    )


def compare(case: Case, scores: Scores, batch_size: int) -> ParityRow:
    """How far scores are from those expected."""
    expected_probabilities = torch.from_numpy(case.expected).softmax(dim=1).numpy()
    logit_error = np.abs(scores.logits - case.expected)
    return ParityRow(
        source=case.source,
        batch_size=batch_size,
        pictures=len(case.expected),
        max_abs_logit_error=float(logit_error.max()),
        mean_abs_logit_error=float(logit_error.mean()),
        max_abs_probability_error=float(np.abs(scores.probabilities - expected_probabilities).max()),
        top1_agreement=_agreement(scores.logits, case.expected, 1),
        top5_agreement=_agreement(scores.logits, case.expected, 5),
    )


def _agreement(found: NDArray[np.float32], expected: NDArray[np.float64], best: int) -> float:
    """Share of pictures whose sets of best classes are the same."""

    def top(logits: NDArray[np.floating]) -> NDArray[np.intp]:
        return np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :best], axis=1)

    return float((top(found) == top(expected)).all(axis=1).mean())
