"""BentoML: one batchable service that decodes the batch itself; a request is a list of one picture."""

import os

import bentoml
import numpy as np
from common import Contract, Model
from PIL.Image import Image


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]), traffic={"timeout": 60}, logging={"access": {"enabled": False}}
)
class Classifier:
    """The service."""

    def __init__(self) -> None:
        self.contract, self.model = Contract.from_environment(), Model.from_environment()

    # A batch that is foreseen to end later than max_latency_ms is refused with 503, so that is set far off.
    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000)
    def classify(self, images: list[Image]) -> list[dict]:
        """The answers for a batch of pictures."""
        pixels = np.stack([self.contract.pixels_of(image) for image in images])
        return [self.contract.answer(probabilities) for probabilities in self.model.infer(pixels)]
