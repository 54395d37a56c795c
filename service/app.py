"""The ASGI application: its parts, put together and brought to life."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.classifier import Classifier
from service.endpoint import CLASSIFY_PATH, ClassifyEndpoint
from service.errors import StartupError
from service.metrics import Metrics
from service.models import Models
from service.problems import install_problem_handlers
from service.reloading import Reloader
from service.routes import build_router
from service.settings import Settings
from service.workers import Workers


class Service:
    """The service as an ASGI application. Models load in the background once it runs.

    Args:
        settings: see `Settings`.
        on_failure: called if a model cannot be served; the service never gets ready then.
    """

    def __init__(self, settings: Settings, on_failure: Callable[[StartupError], None]) -> None:
        metrics = Metrics()
        workers = Workers(settings.decode_threads or settings.cores + 1, "work")
        self.models = Models(settings, metrics, workers)
        self.reloader = Reloader(settings, self.models, workers, metrics, on_failure)
        endpoint = ClassifyEndpoint(settings, self.models, Classifier(settings, workers), metrics)
        described = FastAPI(
            title="Strip-MLP serving",
            description="Classifies pictures with exported Strip-MLP models.",
            lifespan=partial(_lifespan, self.reloader, workers, settings),
        )
        described.include_router(build_router(settings, self.models, self.reloader, endpoint, metrics))
        install_problem_handlers(described)
        self._app = _RequestMetrics(_ClassifyFirst(described, endpoint), metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@asynccontextmanager
async def _lifespan(reloader: Reloader, workers: Workers, settings: Settings, _: FastAPI) -> AsyncIterator[None]:
    try:
        async with reloader:
            if settings.workers > 1:
                # Listening starts after this, and until then the requests of the shared port are the others'.
                await reloader.started.wait()
            yield
    finally:
        await asyncio.to_thread(workers.close)


class _ClassifyFirst:
    """Leads requests of the endpoint past FastAPI."""

    def __init__(self, app: ASGIApp, endpoint: ClassifyEndpoint) -> None:
        self._app = app
        self._endpoint = endpoint
        self._route = Route(CLASSIFY_PATH, endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == CLASSIFY_PATH and scope["method"] == "POST":
            scope["route"] = self._route
            await self._endpoint(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _RequestMetrics:
    """Counts and times every request by its route. Pure ASGI, as bodies must not be buffered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.in_flight_requests.track_inprogress():
            try:
                await self._app(scope, receive, note_status)
            finally:
                # Paths that are no route share one label, as clients could invent any number of them.
                route = scope.get("route")
                endpoint = route.path if route else "none"
                self._metrics.requests.labels(endpoint, str(status)).inc()
                self._metrics.request_seconds.labels(endpoint).observe(perf_counter() - started)
