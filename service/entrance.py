"""What every way in has in common: its model is found, its bytes are bounded, its pictures read and classified."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from starlette.types import Receive

from service.admission import Account, HeldBytes
from service.body import MEBIBYTE, Picture
from service.classifier import Classifier
from service.deadline import Deadline
from service.errors import BadRequest, ModelNotFound
from service.json_body import ClassifyJson
from service.metrics import Metrics
from service.models import Models, ServedModel
from service.record import RequestRecord
from service.session import Scores
from service.settings import Settings
from service.work import Result

Read = Callable[[ServedModel, Account], Awaitable[Sequence[Picture]]]
"""Reads a request's pictures for a model, and holds their bytes meanwhile. Raises ServiceError if it cannot."""

ReadJson = Callable[[Account], Awaitable[ClassifyJson]]
"""The same of a body that says itself what model it is for."""


@dataclass(frozen=True)
class Classified:
    """A request that has its results, in the order of its pictures."""

    model: ServedModel
    pictures: Sequence[Picture]
    results: Sequence[Result]


class Entrance:
    """Leads requests in, by whatever protocol they come.

    Args:
        settings: the bound on bytes held.
        models: where a request's model is found.
        classifier: classifies its pictures.
        metrics: shows the bytes held.
    """

    def __init__(self, settings: Settings, models: Models, classifier: Classifier, metrics: Metrics) -> None:
        self._models = models
        self._classifier = classifier
        self._held_bytes = HeldBytes(settings.max_queue_mb * MEBIBYTE, metrics.body_bytes)

    async def classify(
        self,
        record: RequestRecord,
        name: str | None,
        version: int | None,
        deadline: Deadline,
        read: Read,
        receive: Receive | None,
    ) -> Classified:
        """Read a request's pictures and classify them. One that ends before they are there counts as one picture of its
        model.

        Args:
            record: the request's.
            name: the model's, or None for the only one.
            version: None for the newest.
            deadline: the request's.
            read: reads its pictures; not called if there is no point in it.
            receive: as for `Classifier.classify`.

        Raises:
            Forbidden: the client's key is for other models.
            ServiceError: from `Models.use`, `read` and `Classifier.classify`.
        """
        with self._models.use(name, version) as model, self._held_bytes.account(model.retry_after) as account:
            record.model = model
            with record.failures_counted(), record.timed("read"):
                _require_welcome(record, model, 1, deadline)
                pictures = await read(model, account)
            return await self._classify(record, model, pictures, deadline, receive)

    async def classify_json(
        self, record: RequestRecord, deadline: Deadline, read: ReadJson, receive: Receive
    ) -> tuple[ClassifyJson, Classified]:
        """As `classify`, of a request that names its model in its body.

        Until that is read, the request counts for the model of those that name none. If there is none such, as several
        are served, it counts for none.

        Args:
            record: the request's.
            deadline: the request's.
            read: reads its body; not called if there is no point in it, whichever model it names.
            receive: as for `Classifier.classify`.
        """
        with ExitStack() as stack:
            with suppress(BadRequest, ModelNotFound):  # the body has to name one, then
                record.model = stack.enter_context(self._models.use(None, None))
            presumed = record.model
            retry_after = (lambda: 1) if presumed is None else presumed.retry_after
            account = stack.enter_context(self._held_bytes.account(retry_after))
            with record.timed("read"):
                with record.failures_counted():
                    if presumed is not None and self._models.served == [presumed]:
                        _require_welcome(record, presumed, 1, deadline)
                    asked = await read(account)
                record.model = None
                model = record.model = stack.enter_context(self._models.use(asked.model, asked.version))
            pictures = asked.pictures
            with record.failures_counted(len(pictures)):
                _require_welcome(record, model, len(pictures), deadline)
            return asked, await self._classify(record, model, pictures, deadline, receive)

    async def _classify(
        self,
        record: RequestRecord,
        model: ServedModel,
        pictures: Sequence[Picture],
        deadline: Deadline,
        receive: Receive | None,
    ) -> Classified:
        record.filenames = [picture.filename for picture in pictures]
        results = await self._classifier.classify(record, model, pictures, deadline, receive)
        for result in results:
            if isinstance(result, Scores):
                best = int(result.probabilities.argmax())
                model.metrics.count_prediction(best, float(result.probabilities[best]))
        return Classified(model, pictures, results)


def _require_welcome(record: RequestRecord, model: ServedModel, pictures: int, deadline: Deadline) -> None:
    """Raise ServiceError if a request for so many pictures would be refused, whatever they are."""
    if record.key is not None:
        record.key.require(model.file.name)
    model.require_working()
    model.admission.check(pictures, deadline.seconds_left)
