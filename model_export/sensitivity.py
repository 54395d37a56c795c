"""Which products are quantised: all, less those that harm the answers most, until the rest agrees well enough."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from rich.progress import Progress

from model_export.quantisation import BATCH, Quantiser
from service.preprocessing import Pixels
from service.session import Scores

logger = logging.getLogger(__name__)

AGREEMENT_SOUGHT = 0.995
"""Of the best classes, on the pictures for calibration: above the gate's 0.99, as those held back may agree less."""


def quantise(quantiser: Quantiser, pixels: Pixels, expected: Scores, progress: Progress) -> onnx.ModelProto:
    """Quantise as many groups of products as agree.

    Args:
        quantiser: calibrated.
        pixels: those for calibration, uint8 (pictures, size, size, 3).
        expected: what the graph in single precision says of them.
        progress: shows how far it is.

    Returns:
        The quantised graph; its agreement is the gate's to judge, also when nothing more could be left out.
    """
    groups = list(quantiser.groups)
    model = quantiser.quantised(groups)
    if _agreement(_logits(model, pixels), expected.logits) >= AGREEMENT_SOUGHT:
        return model
    harm = {
        group: _harm(_logits(quantiser.quantised([group]), pixels), expected.logits)
        for group in progress.track(groups, description="Sensitivity of each product")
    }
    groups.sort(key=harm.__getitem__)
    while len(groups) > 1:
        left = groups.pop()
        logger.warning("%s stays in single precision, as it harms the answers most", left.name)
        model = quantiser.quantised(groups)
        if _agreement(_logits(model, pixels), expected.logits) >= AGREEMENT_SOUGHT:
            break
    return model


def _logits(model: onnx.ModelProto, pixels: Pixels) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory(prefix="sensitivity-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        batches = np.array_split(pixels, -(-len(pixels) // BATCH))
        return np.concatenate([session.run(["logits"], {"pixels": batch})[0] for batch in batches])


def _agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())


def _harm(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Root mean square of what changed between the classes of a picture; a shift of all changes no answer."""
    change = found - expected
    return float((change - change.mean(axis=1, keepdims=True)).std())
