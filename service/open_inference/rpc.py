"""The protocol over gRPC: `inference.GRPCInferenceService`, on the same queue and within the same limits as HTTP.

gRPC gives messages over as a whole, so what is still arriving is bounded by their number and size alone, not by
`max_queue_mb`. Requests count under the HTTP status that their error has.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from operator import methodcaller
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from grpc import StatusCode
from grpc.aio import Server, ServicerContext
from open_inference.grpc import protocol

from service.access import NEEDED
from service.admin import is_admin
from service.admission import Account
from service.body import MEBIBYTE, Picture
from service.deadline import Deadline
from service.entrance import Entrance
from service.errors import BadRequest, ClientGone, Overloaded, ServiceError, StartupError, Unauthorized
from service.keys import Keys
from service.models import Models, ServedModel
from service.open_inference.descriptions import (
    is_model_ready,
    is_ready,
    model_metadata,
    server_metadata,
    version_number,
)
from service.open_inference.tensors import BOTH, Tensor, Wanted, outputs_of, pictures_of, require_outputs
from service.record import RequestRecord
from service.settings import Settings
from service.telemetry import Telemetry

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"

CODES: Mapping[int, StatusCode] = {
    HTTPStatus.BAD_REQUEST: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNPROCESSABLE_ENTITY: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.TOO_MANY_REQUESTS: StatusCode.RESOURCE_EXHAUSTED,
    ClientGone.status: StatusCode.CANCELLED,
    HTTPStatus.INTERNAL_SERVER_ERROR: StatusCode.INTERNAL,
    HTTPStatus.SERVICE_UNAVAILABLE: StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's code for the HTTP status of each error."""

OPEN = {"ServerLive", "ServerReady"}
"""What needs no key."""

Context = ServicerContext[Any, Any]


class RpcServer:
    """Listens while it is entered as an asynchronous context manager, or until `stop`. Running requests are answered
    before it is left.

    Args:
        settings: where to listen, and limits.
        models: what is served.
        entrance: leads requests in.
        telemetry: told of every request.
        keys: one of which every request for a model needs, if there are any.
        on_failure: told why it cannot listen.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        entrance: Entrance,
        telemetry: Telemetry,
        keys: Keys | None,
        on_failure: Callable[[StartupError], None],
    ) -> None:
        self._settings = settings
        self._methods = _Methods(settings, models, entrance)
        self._telemetry = telemetry
        self._keys = keys
        self._on_failure = on_failure
        self._server: Server | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        most_bytes = self._settings.max_request_mb * MEBIBYTE
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", most_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", self._settings.workers > 1),  # else another service could take half the requests
            ],
            maximum_concurrent_rpcs=self._settings.max_queue,  # more have no place in the queue either
        )
        handlers = {name: self._handler(name, *method) for name, method in self._methods.all.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"{self._settings.host}:{self._settings.grpc_port}"
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            self._on_failure(StartupError(f"cannot listen for gRPC on {address}: {error}"))
            return self
        await server.start()
        self._server = server
        logger.info("gRPC on %s:%d", self._settings.host, port)
        return self

    def stop(self) -> None:
        """Take no more calls. Those that run are cut off after `shutdown_seconds`."""
        if self._server is not None and self._stopping is None:
            stopped = self._server.stop(grace=self._settings.shutdown_seconds)
            self._stopping = asyncio.ensure_future(stopped)

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        if self._stopping is not None:
            await self._stopping

    def _authenticate(self, name: str, headers: Mapping[bytes, bytes], record: RequestRecord) -> None:
        if self._keys is None or name in OPEN:
            return
        record.key = self._keys.find(headers)
        if record.key is None and not is_admin(headers, self._settings):
            raise Unauthorized(NEEDED)

    def _handler(
        self, name: str, request: type[Message], method: Callable[..., Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        async def answer(message: Any, context: Context) -> Message:
            headers = _headers(context)
            record = self._telemetry.begin(headers)
            record.status = ClientGone.status  # until there is an answer: a client that leaves ends this wherever it is
            try:
                try:
                    self._authenticate(name, headers, record)
                    answered = await method(message, context, record)
                except ServiceError as error:
                    failure = error
                except Exception:
                    logger.exception("a request failed in a way that nobody foresaw")
                    failure = ServiceError("an unexpected error; the service's log has it")
                else:
                    record.status = HTTPStatus.OK
                    return answered
                record.status = failure.status
                after = (("retry-after", str(failure.retry_after)),) if isinstance(failure, Overloaded) else ()
                await context.abort(CODES[failure.status], str(failure), after)
            finally:
                self._telemetry.end(record, "POST", f"/{SERVICE}/{name}")

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=methodcaller("SerializeToString")
        )


class _Methods:
    """What the service's procedures do."""

    def __init__(self, settings: Settings, models: Models, entrance: Entrance) -> None:
        self._settings = settings
        self._models = models
        self._entrance = entrance
        self.all: Mapping[str, tuple[type[Message], Callable[..., Awaitable[Message]]]] = {
            "ServerLive": (protocol.ServerLiveRequest, self.server_live),
            "ServerReady": (protocol.ServerReadyRequest, self.server_ready),
            "ModelReady": (protocol.ModelReadyRequest, self.model_ready),
            "ServerMetadata": (protocol.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": (protocol.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": (protocol.ModelInferRequest, self.model_infer),
        }
        """Name of each, what it takes, and what answers."""

    async def server_live(self, *_: object) -> Message:
        return protocol.ServerLiveResponse(live=True)

    async def server_ready(self, *_: object) -> Message:
        return protocol.ServerReadyResponse(ready=is_ready(self._models))

    async def model_ready(self, request: protocol.ModelReadyRequest, *_: object) -> Message:
        number = version_number(request.name, request.version)
        return protocol.ModelReadyResponse(ready=is_model_ready(self._models, request.name, number))

    async def server_metadata(self, *_: object) -> Message:
        return protocol.ServerMetadataResponse(**server_metadata().model_dump())

    async def model_metadata(self, request: protocol.ModelMetadataRequest, *_: object) -> Message:
        with self._models.use(request.name, version_number(request.name, request.version)) as model:
            return protocol.ModelMetadataResponse(**model_metadata(model, self._models).model_dump())

    async def model_infer(
        self, request: protocol.ModelInferRequest, context: Context, record: RequestRecord
    ) -> Message:
        async def read(model: ServedModel, account: Account) -> list[Picture]:
            account.hold(request.ByteSize())
            require_outputs(wanted)
            return pictures_of(_tensors(request), model, self._settings.max_images)

        wanted = [_wanted(output) for output in request.outputs] or BOTH
        number = version_number(request.model_name, request.model_version)
        deadline = Deadline.within(context.time_remaining(), self._settings)
        classified = await self._entrance.classify(record, request.model_name, number, deadline, read, None)
        with record.timed("encode"):
            outputs = outputs_of(classified, wanted)
            return protocol.ModelInferResponse(
                model_name=classified.model.file.name,
                model_version=str(classified.model.file.version),
                id=request.id,
                outputs=[
                    protocol.ModelInferResponse.InferOutputTensor(
                        name=output.name, datatype=output.datatype, shape=output.shape
                    )
                    for output in outputs
                ],
                raw_output_contents=[output.raw for output in outputs],
            )


def _headers(context: Context) -> dict[bytes, bytes]:
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in context.invocation_metadata() or ()
    }


def _wanted(output: protocol.ModelInferRequest.InferRequestedOutputTensor) -> Wanted:
    classes = output.parameters["classification"].int64_param if "classification" in output.parameters else None
    if classes is not None and classes < 1:
        raise BadRequest(f"output '{output.name}': classification is {classes}, but has to be at least 1")
    return Wanted(output.name, classes)


def _tensors(request: protocol.ModelInferRequest) -> list[Tensor]:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(f"the request has {len(request.inputs)} inputs, but {len(raw)} raw_input_contents")
    tensors = []
    for index, each in enumerate(request.inputs):
        if "shared_memory_region" in each.parameters:
            raise BadRequest(f"input '{each.name}': shared memory is not supported; send the tensor in the request")
        given = each.contents.bytes_contents if each.datatype == "BYTES" else each.contents.uint_contents
        tensors.append(Tensor(each.name, each.datatype, tuple(each.shape), raw[index] if raw else list(given)))
    return tensors
