"""From pictures to results: let in, decoded, queued for a session, dropped when nobody waits any more."""

import asyncio
import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import numpy as np
from starlette.types import Receive

from service.body import MEBIBYTE, Picture
from service.deadline import Deadline
from service.decoders import Decoders
from service.errors import ClientGone, PictureTooLarge, ServiceError
from service.models import ServedModel
from service.preprocessing import Pixels
from service.record import RequestRecord
from service.scheduling import Scheduler
from service.settings import Settings
from service.work import Content, Item, Result, Work

logger = logging.getLogger(__name__)


class Classifier:
    """Classifies requests' pictures.

    Args:
        settings: limits of a picture, and how it is decoded.
        scheduler: says when a picture is decoded.
        decoders: the processes that do so.
    """

    def __init__(self, settings: Settings, scheduler: Scheduler, decoders: Decoders) -> None:
        self._settings = settings
        self._decoders = decoders
        self._scheduler = scheduler
        self._requests = itertools.count()

    async def classify(
        self,
        record: RequestRecord,
        model: ServedModel,
        pictures: Sequence[Picture],
        deadline: Deadline,
        receive: Receive | None,
    ) -> list[Result]:
        """For every picture, in order, its scores or the error that befell it alone. Counts them by outcome.

        Args:
            record: the request's, told of outcomes and times.
            model: which.
            pictures: encoded, or as pixels of the model's size.
            deadline: the request's.
            receive: the request's ASGI channel, its body read, which tells when the client leaves; None where the
                calling task is cancelled then.

        Raises:
            Overloaded: no room for so many pictures, or not enough time; none was decoded.
            NotReady: no session of the model works.
            DeadlineExceeded: not all pictures were through in time; the others are dropped.
            ClientGone: the client left; the pictures that are not through are dropped.
        """
        with record.failures_counted(len(pictures)):
            model.require_working()
            model.admission.admit(len(pictures), deadline.seconds_left)
            work = Work(next(self._requests), [picture.content for picture in pictures], model.admission, record)
            with _ended_early(work, deadline, receive):
                self._scheduler.decode([partial(self._decode, model, item) for item in work.items])
                results = await work.results()
        for result in results:
            record.count(result.outcome if isinstance(result, ServiceError) else "ok")
        return results

    async def _decode(self, model: ServedModel, item: Item) -> None:
        """Decode one picture and queue it for the model."""
        if item.work.abandoned:
            return
        item.decode_started = perf_counter()
        try:
            item.pixels = await self._read(item.content, model)
        except ServiceError as error:
            # Its frames refer to the picture and the request, in a cycle that would wait for a collection.
            item.work.settle(item, error.with_traceback(None))
        except asyncio.CancelledError:
            raise
        except BaseException:  # whatever it is, it must not reach the other pictures
            logger.exception("a picture failed in a way that nobody foresaw")
            item.work.settle(item, ServiceError("an unexpected error; the service's log has it"))
        else:
            if item.work.abandoned:
                item.pixels = None
                return
            model.queue.put(item)
            model.metrics.stage_seconds["decode"].observe(item.decoded - item.decode_started)

    async def _read(self, content: Content, model: ServedModel) -> Pixels:
        if isinstance(content, np.ndarray):
            return content
        limit = self._settings.max_image_mb * MEBIBYTE
        data = content if isinstance(content, bytes) else content.decode(limit)
        if len(data) > limit:
            raise PictureTooLarge(f"the picture has {len(data)} bytes, {limit} are allowed")
        return await self._decoders.read_pixels(data, model.artifact.preprocessing)


@contextmanager
def _ended_early(work: Work, deadline: Deadline, receive: Receive | None) -> Iterator[None]:
    """Abandons the work when the deadline passes, the client leaves, or the block ends before it is done."""
    loop = asyncio.get_running_loop()
    timer = loop.call_at(deadline.at, lambda: work.abandon(deadline.exceeded()))
    watcher = loop.create_task(_abandon_if_gone(work, receive)) if receive else None
    try:
        yield
    finally:
        work.abandon(ClientGone("the request was cancelled"))  # which does nothing once all are settled
        timer.cancel()
        if watcher:
            watcher.cancel()


async def _abandon_if_gone(work: Work, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    work.abandon(ClientGone("the client left before its answer"))
