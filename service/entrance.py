"""What every way in has in common: its model is found, its bytes are bounded, its pictures read and classified."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.types import Receive

from service.admission import Account, HeldBytes
from service.body import MEBIBYTE, Picture
from service.classifier import Classifier
from service.deadline import Deadline
from service.metrics import Metrics
from service.models import Models, ServedModel
from service.record import RequestRecord
from service.session import Scores
from service.settings import Settings
from service.work import Result

Read = Callable[[ServedModel, Account], Awaitable[Sequence[Picture]]]
"""Reads a request's pictures for a model, and holds their bytes meanwhile. Raises ServiceError if it cannot."""


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
        self.held_bytes = HeldBytes(settings.max_queue_mb * MEBIBYTE, metrics.body_bytes)

    async def classify(
        self,
        record: RequestRecord,
        name: str | None,
        version: int | None,
        deadline: Deadline,
        read: Read,
        receive: Receive | None,
    ) -> Classified:
        """Read a request's pictures and classify them. One that ends before they are there counts as one picture.

        Args:
            record: the request's.
            name: the model's, or None for the only one.
            version: None for the newest.
            deadline: the request's.
            read: reads its pictures; not called if there is no point in it.
            receive: as for `Classifier.classify`.

        Raises:
            ServiceError: from `Models.use`, `read` and `Classifier.classify`.
        """
        with self._models.use(name, version) as model, self.held_bytes.account(model.retry_after) as account:
            if record.key is not None:
                record.key.require(model.file.name)
            record.model = model
            with record.failures_counted(), record.timed("read"):
                model.require_working()
                model.admission.check(1, deadline.seconds_left)
                pictures = await read(model, account)
            record.filenames = [picture.filename for picture in pictures]
            results = await self._classifier.classify(record, model, pictures, deadline, receive)
            for result in results:
                if isinstance(result, Scores):
                    best = int(result.probabilities.argmax())
                    model.metrics.count_prediction(best, float(result.probabilities[best]))
            return Classified(model, pictures, results)
