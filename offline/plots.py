"""The report's pictures, as data: URLs."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from offline.measures import BINS, Measures
from offline.sources import read_file
from service.body import MEBIBYTE
from service.decoding import decode
from service.errors import BadPicture
from service.settings import Settings

MOST_NAMED = 30
"""Classes; the names of more cannot be read beside a matrix."""

THUMBNAIL = 160
"""Longer side in pixels."""


def confusion_matrix(measures: Measures, labels: Sequence[str]) -> str:
    """Shares of each class's pictures, by the class that they are taken for."""
    counts = measures.confusion.sum(axis=1, keepdims=True)
    shares = np.divide(measures.confusion, counts, out=np.zeros(measures.confusion.shape), where=counts > 0)
    figure = Figure((6, 5.4), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", interpolation="nearest"), label="share")
    axes.set(xlabel="taken for", ylabel="class")
    if len(labels) <= MOST_NAMED:
        names = [_plain(label) for label in labels]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    return _svg(figure)


def reliability_diagram(measures: Measures) -> str:
    """How often answers are right, by how probable the model says they are, above how many there are of each."""
    pictures, right, sure = measures.bins.T
    middles = (np.arange(BINS) + 0.5) / BINS
    there = pictures > 0
    figure = Figure((5, 5.4), layout="constrained")
    above, below = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfectly calibrated")
    above.bar(middles[there], right[there] / pictures[there], 0.9 / BINS, label="right")
    above.plot(sure[there] / pictures[there], right[there] / pictures[there], "o", color="black", markersize=3)
    above.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    above.legend(loc="upper left")
    below.bar(middles, pictures, 0.9 / BINS, color="grey")
    below.set(xlabel="probability of the answer", ylabel="pictures")
    return _svg(figure)


def thumbnail(path: Path, settings: Settings) -> str | None:
    """A small copy of a picture; None if it cannot be read any more."""
    try:
        data = read_file(path, settings.max_image_mb * MEBIBYTE)
        picture = decode(data, max_pixels=settings.max_pixels)
    except BadPicture:
        return None
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return _data_url("image/jpeg", file.getvalue())


def _svg(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return _data_url("image/svg+xml", file.getvalue())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _plain(label: str) -> str:
    """Without what matplotlib would take for mathematics."""
    return label.replace("$", r"\$")
