"""Pictures sent to a running service instead of being classified here."""

from collections.abc import Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from httpx_retries import Retry, RetryTransport

from offline.errors import OfflineError
from offline.rows import Row, shown
from offline.scoring import in_order, in_parts, read_file
from service.answers import PictureError, Prediction
from service.body import FILES_FIELD, MEBIBYTE
from service.endpoint import CLASSIFY_PATH
from service.errors import BadPicture
from service.query import ClassifyQuery
from service.settings import Settings

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
        settings: the limit on a file's size.
        concurrency: most requests at a time.
        tries: of a request that finds no room, or no service.
    """

    def __init__(self, url: str, query: ClassifyQuery, settings: Settings, concurrency: int, tries: int) -> None:
        # Retry-After is obeyed; connections that fail are tried again after a pause that doubles.
        retry = Retry(tries - 1, ["POST"], [429, 503], backoff_factor=0.25, max_backoff_wait=LONGEST_PAUSE)
        limits = httpx.Limits(max_connections=concurrency)
        self._client = httpx.Client(
            base_url=url, timeout=TIMEOUT, transport=RetryTransport(httpx.HTTPTransport(limits=limits), retry)
        )
        self._query = query.model_dump(exclude_none=True)
        self._most_bytes = settings.max_image_mb * MEBIBYTE
        self._concurrency = concurrency

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def classify(self, paths: Iterable[Path]) -> Generator[Row]:
        """A row for every file, in order.

        Raises:
            OfflineError: the service cannot be reached, or knows no such model.
        """
        for rows in in_order(self._classify, in_parts(paths, PICTURES_PER_REQUEST), self._concurrency):
            yield from rows

    def _classify(self, paths: Sequence[Path]) -> list[Row]:
        rows: dict[Path, Row] = {}
        readable: dict[Path, bytes] = {}
        for path in paths:
            try:
                readable[path] = read_file(path, self._most_bytes)
            except BadPicture as error:
                rows[path] = self._failed(path, error.code, str(error))
        rows |= self._ask(readable)
        return [rows[path] for path in paths]

    def _ask(self, pictures: dict[Path, bytes]) -> dict[Path, Row]:
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
            alone = [self._ask({path: data}) for path, data in pictures.items()]
            return {path: row for rows in alone for path, row in rows.items()}
        return {path: self._failed(path, answer["code"], answer["detail"]) for path in pictures}

    def _row(self, model: dict[str, Any], path: Path, result: dict[str, Any]) -> tuple[Path, Row]:
        if "error" in result:
            error = PictureError(**result["error"])
            return path, Row(shown(path), model["name"], model["version"], error=error)
        predictions = tuple(Prediction(**each) for each in result["predictions"])
        return path, Row(shown(path), model["name"], model["version"], predictions)

    def _failed(self, path: Path, code: str, message: str) -> Row:
        name, version = self._query.get("model", ""), self._query.get("version", 0)
        return Row(shown(path), name, version, error=PictureError(code=code, message=message))
