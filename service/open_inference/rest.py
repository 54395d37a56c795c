"""`POST …/infer` over HTTP: JSON, and tensors as binary data behind it."""

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Request
from starlette.responses import Response

from service.admission import Account
from service.base64_picture import Base64Picture
from service.body import Picture, arriving, limited, require_few_values
from service.deadline import Deadline
from service.entrance import Classified, Entrance
from service.errors import BadRequest, UnsupportedBody
from service.models import ServedModel
from service.open_inference.messages import InferRequest, InputTensor
from service.open_inference.tensors import BOTH, Output, Tensor, Wanted, outputs_of, pictures_of, require_outputs
from service.record import RequestRecord
from service.settings import Settings

HEADER = "Inference-Header-Content-Length"
"""How many bytes of a body are its JSON, where binary data follows."""

MOST_VALUES = 1_000_000
"""Of JSON: 6 pictures of 224 px as numbers, which hold all others up for an eighth of a second."""


async def infer(request: Request, entrance: Entrance, settings: Settings, name: str, version: int | None) -> Response:
    """Answer a request for a model. Raises ServiceError."""
    record = RequestRecord.of(request.scope)
    inference = _Inference(request, settings, Deadline.of(request.headers, settings))
    classified = await entrance.classify(record, name, version, inference.deadline, inference.read, request.receive)
    with record.timed("encode"):
        return inference.answer(classified)


class _Inference:
    """One request, read and then answered."""

    def __init__(self, request: Request, settings: Settings, deadline: Deadline) -> None:
        self.deadline = deadline
        self._request = request
        self._settings = settings
        self._id: str | None = None
        self._wanted: Sequence[Wanted] = BOTH

    async def read(self, model: ServedModel, account: Account) -> list[Picture]:
        """The pictures in the body.

        Raises:
            UnsupportedBody: it is compressed.
            BadRequest: it is not as the protocol has it, or asks for what the model does not have.
            ServiceError: it does not arrive, or is too large.
        """
        coding = self._request.headers.get("content-encoding", "identity")
        if coding != "identity":
            raise UnsupportedBody(f"content coding '{coding}' is not accepted; send the body as it is")
        async with arriving(self._settings, self.deadline):
            body = b"".join([chunk async for chunk in limited(self._request, self._settings, account)])
        length = self._json_length(body)
        require_few_values(body[:length], MOST_VALUES)
        message = InferRequest.of(body[:length])
        self._id = message.id
        if message.outputs is not None:
            binary = message.parameters.binary_data_output
            self._wanted = [
                Wanted(
                    output.name,
                    output.parameters.classification,
                    binary if output.parameters.binary_data is None else output.parameters.binary_data,
                )
                for output in message.outputs
            ]
        elif message.parameters.binary_data_output:
            self._wanted = [Wanted(each.name, binary=True) for each in BOTH]
        require_outputs(self._wanted)
        return pictures_of(_tensors(message, body, length), model, self._settings.max_images)

    def answer(self, classified: Classified) -> Response:
        """With the outputs that were asked for. Raises the error of the first picture that has no result."""
        outputs = outputs_of(classified, self._wanted)
        message = {
            "model_name": classified.model.file.name,
            "model_version": str(classified.model.file.version),
            "outputs": [_described(output) for output in outputs],
        }
        if self._id is not None:
            message["id"] = self._id
        text = orjson.dumps(message)
        binary = [output.raw for output in outputs if output.binary]
        if not binary:
            return Response(text, media_type="application/json")
        return Response(
            b"".join([text, *binary]), headers={HEADER: str(len(text))}, media_type="application/octet-stream"
        )

    def _json_length(self, body: bytes) -> int:
        announced = self._request.headers.get(HEADER)
        if announced is None:
            return len(body)
        if not announced.isdecimal() or len(announced) > len(str(len(body))) or int(announced) > len(body):
            raise BadRequest(f"{HEADER} is '{announced}', but the body has {len(body)} bytes")
        return int(announced)


def _tensors(message: InferRequest, body: bytes, start: int) -> list[Tensor]:
    """The inputs, those of them that are binary data from `start` of the body on."""
    tensors = []
    for each in message.inputs:
        size = each.parameters.binary_data_size
        if size is None:
            if not isinstance(each.data, list):
                raise BadRequest(f"input '{each.name}' has neither a list as data nor binary_data_size")
            content: bytes | list[Any] = _from_base64(each) if each.datatype == "BYTES" else each.data
        else:
            if each.data is not None:
                raise BadRequest(f"input '{each.name}' has both data and binary_data_size")
            content = body[start : start + size]
            start += size
        tensors.append(Tensor(each.name, each.datatype, tuple(each.shape), content))
    if start != len(body):
        raise BadRequest(
            f"the inputs' binary_data_size say that the body ends at byte {start}, but it has {len(body)} bytes; "
            f"{HEADER} says where its JSON ends"
        )
    return tensors


def _from_base64(tensor: InputTensor) -> list[Base64Picture]:
    if not all(isinstance(text, str) for text in tensor.data):
        raise BadRequest(f"input '{tensor.name}': its data has to be strings, the pictures in base64")
    return [Base64Picture(text) for text in tensor.data]


def _described(output: Output) -> dict[str, object]:
    described: dict[str, object] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
    if output.binary:
        described["parameters"] = {"binary_data_size": len(output.raw)}
    else:
        described["data"] = output.flat
    return described
