"""The ASGI application: its parts, put together and brought to life."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service import page
from service.access import Access, describe_access
from service.admin import SeparateAdmin
from service.classifier import Classifier
from service.decoders import Decoders
from service.endpoint import CLASSIFY_PATH, ClassifyEndpoint
from service.entrance import Entrance
from service.errors import StartupError
from service.keys import Keys
from service.metrics import Metrics
from service.models import Models
from service.open_inference import routes as open_inference
from service.problems import install_problem_handlers
from service.providers import expects_cuda
from service.reloading import Reloader
from service.routes import build_router
from service.scheduling import Scheduler
from service.security_headers import SecurityHeaders
from service.settings import Settings
from service.telemetry import Telemetry, TelemetryOfHttp
from service.tracing import Tracing

if TYPE_CHECKING:
    from service.open_inference.rpc import RpcServer


class Service:
    """The service as an ASGI application. Models load in the background once it runs.

    Args:
        settings: see `Settings`.
        on_failure: called if a model cannot be served; the service never gets ready then.
        admin_port: the port that alone has metrics and administration; None: there is none.

    Raises:
        StartupError: traces are to be sent, or gRPC served, and what does so is not installed.
    """

    def __init__(self, settings: Settings, on_failure: Callable[[StartupError], None], admin_port: int | None) -> None:
        metrics = self.metrics = Metrics()
        metrics.cuda_expected.set(expects_cuda(settings.device))
        tracing = Tracing.to_collector() if settings.tracing else Tracing.off()
        scheduler = Scheduler(settings.decode_threads or settings.cores + 1, settings.cores)
        decoders = Decoders(settings.decode_limits, metrics)
        keys = None if settings.api_keys_file is None else Keys(settings.api_keys_file, metrics)
        self.models = Models(settings, metrics, scheduler, decoders)
        self.reloader = Reloader(settings, self.models, scheduler, metrics, keys, on_failure)
        entrance = Entrance(settings, self.models, Classifier(settings, scheduler, decoders), metrics)
        endpoint = ClassifyEndpoint(settings, entrance)
        telemetry = Telemetry(metrics, tracing, log_filenames=settings.log_filenames)
        self._rpc: RpcServer | None = None
        if settings.grpc_port is not None:
            try:
                from service.open_inference import rpc
            except ImportError as error:
                raise StartupError("--grpc-port needs gRPC; install the 'grpc' extra") from error
            self._rpc = rpc.RpcServer(settings, self.models, entrance, telemetry, keys, on_failure)
        described = FastAPIOffline(
            redoc_url=None,
            redirect_slashes=False,  # which would repeat whatever host the client names
            title="Strip-MLP serving",
            description="Classifies pictures with exported Strip-MLP models.",
            lifespan=partial(_lifespan, self.reloader, self._rpc, scheduler, decoders, tracing, settings),
        )
        described.include_router(build_router(settings, self.models, self.reloader, endpoint, metrics))
        described.include_router(open_inference.build_router(settings, self.models, self.reloader, entrance))
        described.include_router(page.build_router())
        # Bodies that FastAPI does not read it does not describe.
        described.openapi()["components"]["schemas"] |= open_inference.BODY_SCHEMAS
        if keys is not None:
            describe_access(described.openapi())
        install_problem_handlers(described)
        app: ASGIApp = _ClassifyFirst(described, endpoint)
        if keys is not None:
            app = Access(app, settings, keys, admin_port)
        if admin_port is not None:
            app = SeparateAdmin(app, admin_port)
        self._app = TelemetryOfHttp(SecurityHeaders(app), telemetry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def stop_rpc(self) -> None:
        """End listening for gRPC, if there is any, as `RpcServer.stop` does."""
        if self._rpc is not None:
            self._rpc.stop()


@asynccontextmanager
async def _lifespan(
    reloader: Reloader,
    rpc: "RpcServer | None",
    scheduler: Scheduler,
    decoders: Decoders,
    tracing: Tracing,
    settings: Settings,
    _: FastAPI,
) -> AsyncIterator[None]:
    try:
        await decoders.start(scheduler.slots)
        async with reloader, rpc or nullcontext():
            if settings.has_peers:
                # Requests come after this, and until then they are the others'.
                await reloader.started.wait()
            yield
    finally:
        await scheduler.close()
        await decoders.close()
        await asyncio.to_thread(tracing.close)


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
