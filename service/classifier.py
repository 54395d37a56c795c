"""From encoded pictures to predictions: decode in a thread pool, queue for the session, rank the classes."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

from service.answers import Prediction
from service.artifact import Preprocessing
from service.body import MEBIBYTE, Picture
from service.decoding import decode
from service.errors import BadPicture, Overloaded, PictureTooLarge, ServiceError
from service.metrics import Metrics, Outcome
from service.models import ServedModel
from service.preprocessing import Pixels, to_pixels
from service.session import Scores
from service.settings import Settings

logger = logging.getLogger(__name__)

Result = list[Prediction] | ServiceError


class Classifier:
    """Classifies requests' pictures; owns the decoding threads. Use as a context manager."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.shutdown()

    async def classify(self, model: ServedModel, pictures: Sequence[Picture], top_k: int) -> list[Result]:
        """For every picture, in order, its best classes or the error that befell it alone.

        Raises:
            Overloaded: the model has no room for this many pictures; none was decoded.
        """
        try:
            model.admit(len(pictures))
        except Overloaded:
            self._count(model, "refused", len(pictures))
            raise
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._classify_one(model, picture, top_k)) for picture in pictures]
        finally:
            model.release(len(pictures))
        return [task.result() for task in tasks]

    async def _classify_one(self, model: ServedModel, picture: Picture, top_k: int) -> Result:
        loop = asyncio.get_running_loop()
        artifact = model.session.artifact
        try:
            pixels, seconds = await loop.run_in_executor(self._decoders, self._prepare, picture, artifact.preprocessing)
            self._metrics.stage_seconds.labels(model.file.name, "decode").observe(seconds)
            predictions = rank(await model.queue.submit(pixels), artifact.labels, top_k)
        except BadPicture as error:
            self._count(model, "invalid", 1)
            return error
        except ServiceError as error:
            self._count(model, "failed", 1)
            return error
        except Exception:  # whatever it is, it must not reach the other pictures
            logger.exception("a picture failed in a way that nobody foresaw")
            self._count(model, "failed", 1)
            return ServiceError("an unexpected error; the service's log has it")
        self._count(model, "ok", 1)
        return predictions

    def _prepare(self, picture: Picture, preprocessing: Preprocessing) -> tuple[Pixels, float]:
        started = perf_counter()
        limit = self._settings.max_image_mb * MEBIBYTE
        if len(picture.data) > limit:
            raise PictureTooLarge(f"the picture has {len(picture.data)} bytes, {limit} are allowed")
        pixels = to_pixels(decode(picture.data, max_pixels=self._settings.max_pixels), preprocessing)
        return pixels, perf_counter() - started

    def _count(self, model: ServedModel, outcome: Outcome, pictures: int) -> None:
        self._metrics.images.labels(model.file.name, str(model.file.version), outcome).inc(pictures)


def rank(scores: Scores, labels: Sequence[str], top_k: int) -> list[Prediction]:
    """The most probable classes of one picture's scores (classes,), best first; equal ones by their number."""
    best = np.argsort(-scores.probabilities, kind="stable")[:top_k]
    return [
        Prediction(label=labels[class_id], class_id=class_id, probability=float(scores.probabilities[class_id]))
        for class_id in best.tolist()
    ]
