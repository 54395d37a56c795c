"""What every peer shares: JPEG bytes to pixels to probabilities to an answer, so that only the serving differs."""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

TOP_K = 5


@dataclass(frozen=True)
class Contract:
    """What a peer has to know of the model: the preprocessing, lengths in pixels, and the labels."""

    image_size: int
    resize_side: int
    crop: bool
    interpolation: str
    labels: list[str]

    @classmethod
    def from_environment(cls) -> Self:
        """Read the file that the variable BENCH_CONTRACT names."""
        return cls(**json.loads(Path(os.environ["BENCH_CONTRACT"]).read_text("utf-8")))

    def pixels_of(self, image: Image.Image) -> NDArray[np.uint8]:
        """An opened picture as uint8 (size, size, 3): the transform that the model was trained for."""
        image, resampling = image.convert("RGB"), Image.Resampling[self.interpolation.upper()]
        size, side = self.image_size, self.resize_side
        if not self.crop:
            return np.asarray(image.resize((size, size), resampling))
        width, height = image.size
        short = min(width, height)
        image = image.resize((int(side * width / short), int(side * height / short)), resampling)
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        return np.asarray(image.crop((left, top, left + size, top + size)))

    def decode(self, jpeg: bytes) -> NDArray[np.uint8]:
        """One encoded picture as uint8 (size, size, 3)."""
        return self.pixels_of(Image.open(io.BytesIO(jpeg)))

    def answer(self, probabilities: NDArray[np.float32]) -> dict[str, Any]:
        """The likeliest classes of one picture's probabilities (classes,), best first."""
        best = np.argsort(-probabilities)[:TOP_K]
        return {"top5": [{"label": self.labels[i], "probability": float(probabilities[i])} for i in best]}


class Model:
    """The model on the CPU; beside the number of threads, every setting is onnxruntime's default."""

    def __init__(self, path: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @classmethod
    def from_environment(cls) -> "Model":
        """The file that BENCH_MODEL names, with BENCH_THREADS threads a run."""
        return cls(os.environ["BENCH_MODEL"], int(os.environ["BENCH_THREADS"]))

    def infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels uint8 (batch, size, size, 3) to probabilities (batch, classes)."""
        probabilities: NDArray[np.float32] = self._session.run(["probabilities"], {"pixels": pixels})[0]
        return probabilities
