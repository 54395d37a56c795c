"""From pictures to scores, in order, for any number of them."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

from offline.model import Model
from offline.sources import Picture, Read, Source
from service.artifact import Preprocessing
from service.errors import BadPicture
from service.pixels import read_pixels
from service.preprocessing import Pixels
from service.running import classify_batch, padded
from service.session import Scores
from service.settings import Settings
from service.work import Result

Each = TypeVar("Each")
Part = TypeVar("Part")
Made = TypeVar("Made")

AHEAD = 2
"""Parts that each thread may be ahead of what was asked for."""


@dataclass(frozen=True)
class ScoredPicture:
    """A picture's name, and what the model says of it, or why it says nothing."""

    name: str
    result: Result


def score(model: Model, source: Source) -> Generator[ScoredPicture]:
    """Classify pictures in order, with bounded look-ahead: there may be any number of them.

    Every thread reads and decodes as many as make a batch, and runs them: so decoding and inference share the cores
    without waiting for each other.
    """
    threads = model.settings.decode_threads or model.settings.cores + 1
    for part in in_order(partial(_score, model, source.read), in_parts(source.pictures, model.batch_limit), threads):
        yield from part


def in_parts(each: Iterable[Each], most: int) -> Iterator[list[Each]]:
    """The same, so many at a time."""
    rest = iter(each)
    while part := list(islice(rest, most)):
        yield part


def in_order(make: Callable[[Part], Made], parts: Iterable[Part], threads: int) -> Generator[Made]:
    """What is made of each part, in their order, by threads that are a few parts ahead at most."""
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[Made]] = deque()
        for part in parts:
            waiting.append(pool.submit(make, part))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _score(model: Model, read: Read, pictures: Sequence[Picture]) -> list[ScoredPicture]:
    pixels = [decoded(read, picture.where, model.artifact.preprocessing, model.settings) for picture in pictures]
    results = results_of(model, pixels)
    return [ScoredPicture(picture.name, result) for picture, result in zip(pictures, results, strict=True)]


def decoded(read: Read, where: bytes, preprocessing: Preprocessing, settings: Settings) -> Pixels | BadPicture:
    """Pixels, uint8 (size, size, 3), of the picture that `read` finds there, or the error that either raises."""
    try:
        return read_pixels(read(where), preprocessing, max_pixels=settings.max_pixels, exact=settings.exact_decode)
    except BadPicture as error:
        return error


def results_of(model: Model, pictures: Sequence[Pixels | BadPicture]) -> list[Result]:
    """What the model says of each, an error being its own result."""
    good = [picture for picture in pictures if not isinstance(picture, BadPicture)]
    results = (
        result
        for part in in_parts(good, model.batch_limit)
        for result in classify_batch(partial(_run_padded, model), part, model.name)
    )
    return [picture if isinstance(picture, BadPicture) else next(results) for picture in pictures]


def _run_padded(model: Model, pixels: Pixels) -> Scores:
    """Run uint8 (batch, size, size, 3), filled up where the model's device wants it; there may be more scores then."""
    return model.opened.session.run(pixels if model.opened.sizes is None else padded(pixels, model.opened.sizes))
