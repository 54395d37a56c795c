"""Pictures sent to a running service instead of being classified here."""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import httpx
from httpx_retries import Retry, RetryTransport

from offline.errors import OfflineError
from offline.rows import Row
from offline.scoring import in_order, in_parts
from offline.sources import Picture, Read, Source
from service.answers import PictureError, Prediction
from service.body import FILES_FIELD
from service.endpoint import CLASSIFY_PATH
from service.errors import BadPicture
from service.query import ClassifyQuery

PICTURES_PER_REQUEST = 8
"""Enough to fill batches with a few requests, few enough to stay below a service's limits."""

TIMEOUT = 120
"""Seconds, the longest deadline of a service that has the defaults."""

LONGEST_PAUSE = 30
"""Seconds before a request is tried again."""

HOPELESS = {400, 401, 404}
"""Statuses of requests that no other picture would change."""


class Service:
    """A running service. Use as a context manager.

    Args:
        url: its address.
        query: model, version and number of classes that are asked for.
        concurrency: most requests at a time.
        tries: of a request that finds no room, or no service.
    """

    def __init__(self, url: str, query: ClassifyQuery, concurrency: int, tries: int) -> None:
        # Retry-After is obeyed; connections that fail are tried again after a pause that doubles.
        retry = Retry(tries - 1, ["POST"], [429, 503], backoff_factor=0.25, max_backoff_wait=LONGEST_PAUSE)
        limits = httpx.Limits(max_connections=concurrency)
        self._client = httpx.Client(
            base_url=url, timeout=TIMEOUT, transport=RetryTransport(httpx.HTTPTransport(limits=limits), retry)
        )
        self._query = query.model_dump(exclude_none=True)
        self._concurrency = concurrency

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def classify(self, source: Source) -> Generator[Row]:
        """A row for every picture, in order.

        Raises:
            OfflineError: the service cannot be reached, or knows no such model.
        """
        parts = in_parts(source.pictures, PICTURES_PER_REQUEST)
        for rows in in_order(partial(self._classify, source.read), parts, self._concurrency):
            yield from rows

    def _classify(self, read: Read, pictures: Sequence[Picture]) -> list[Row]:
        rows: dict[Picture, Row] = {}
        readable: dict[Picture, bytes] = {}
        for picture in pictures:
            try:
                readable[picture] = read(picture.where)
            except BadPicture as error:
                rows[picture] = self._failed(picture, error.code, str(error))
        rows |= self._ask(readable)
        return [rows[picture] for picture in pictures]

    def _ask(self, pictures: dict[Picture, bytes]) -> dict[Picture, Row]:
        if not pictures:
            return {}
        # The service has no use for the names, and they may be of no encoding.
        files = [(FILES_FIELD, (str(place), data)) for place, data in enumerate(pictures.values())]
        try:
            response = self._client.post(CLASSIFY_PATH, params=self._query, files=files)
            answer: Any = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise OfflineError(f"{self._client.base_url} does not answer as the service does: {error}") from error
        if "results" in answer:
            return dict(map(partial(self._row, answer["model"]), pictures, answer["results"]))
        if response.status_code in HOPELESS:
            raise OfflineError(f"{self._client.base_url}: {answer['detail']}")
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and len(pictures) > 1:
            alone = [self._ask({picture: data}) for picture, data in pictures.items()]
            return {picture: row for rows in alone for picture, row in rows.items()}
        return {picture: self._failed(picture, answer["code"], answer["detail"]) for picture in pictures}

    def _row(self, model: dict[str, Any], picture: Picture, result: dict[str, Any]) -> tuple[Picture, Row]:
        if "error" in result:
            error = PictureError(**result["error"])
            return picture, Row(picture.name, model["name"], model["version"], error=error)
        predictions = tuple(Prediction(**each) for each in result["predictions"])
        return picture, Row(picture.name, model["name"], model["version"], predictions)

    def _failed(self, picture: Picture, code: str, message: str) -> Row:
        model, version = self._query.get("model", ""), self._query.get("version", 0)
        return Row(picture.name, model, version, error=PictureError(code=code, message=message))
