"""The ASGI application: its parts, put together and brought to life."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.classifier import Classifier
from service.errors import StartupError
from service.metrics import Metrics
from service.models import Models
from service.problems import install_problem_handlers
from service.routes import build_router
from service.settings import Settings


def create_app(settings: Settings, on_failure: Callable[[StartupError], None]) -> FastAPI:
    """The service with these settings. Models load in the background once it runs.

    Args:
        settings: see `Settings`.
        on_failure: called if a model cannot be served; the service never gets ready then.
    """
    metrics = Metrics()
    models = Models(settings, metrics, on_failure)
    classifier = Classifier(settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with classifier:
            async with models:
                yield

    app = FastAPI(
        title="Strip-MLP serving", description="Classifies pictures with exported Strip-MLP models.", lifespan=lifespan
    )
    app.include_router(build_router(settings, models, classifier, metrics))
    install_problem_handlers(app)
    app.add_middleware(_RequestMetrics, metrics=metrics)
    return app


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
