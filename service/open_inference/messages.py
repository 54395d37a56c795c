"""The protocol's JSON: what requests hold, and what answers do."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from service.query import bad_request

Datatype = Literal["UINT8", "FP32", "BYTES"]
"""Those of the protocol's that a model here takes or gives."""


class _Sent(BaseModel):
    """What clients send. Members that the protocol does not know are passed over, as it demands of parameters."""

    model_config = ConfigDict(strict=True)

    @classmethod
    def of(cls, text: bytes) -> Self:
        """Read from JSON.

        Raises:
            BadRequest: it is no JSON, or not the protocol's.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise bad_request(error) from error


class _TensorParameters(_Sent):
    shared_memory_region: Any = Field(None, description="not supported")

    @model_validator(mode="after")
    def _no_shared_memory(self) -> Self:
        if self.shared_memory_region is not None:
            raise ValueError("shared memory is not supported; send the tensor in the request")
        return self


class InputParameters(_TensorParameters):
    """Of an input tensor."""

    binary_data_size: NonNegativeInt | None = Field(None, description="bytes of the tensor behind the JSON")


class InputTensor(_Sent):
    """A tensor of a request: `pixels`, or encoded pictures as `image`."""

    name: str
    shape: Annotated[list[NonNegativeInt], Field(max_length=8)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Any = Field(None, description="flat or nested; encoded pictures are base64; None with binary_data_size")


class OutputParameters(_TensorParameters):
    """Of an output that is asked for."""

    classification: PositiveInt | None = Field(None, description="so many best classes as 'value:index:label' instead")
    binary_data: bool | None = Field(None, description="whether the tensor comes behind the JSON")


class RequestedOutput(_Sent):
    """An output that is asked for: `logits` or `probabilities`."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Sent):
    """Of the request as a whole."""

    binary_data_output: bool = Field(False, description="whether outputs that do not say so come behind the JSON")


class InferRequest(_Sent):
    """The JSON of `POST …/infer`."""

    id: str | None = Field(None, description="comes back in the answer")
    parameters: InferParameters = InferParameters()
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = Field(None, description="both, where none are named")


class OutputTensor(BaseModel):
    """A tensor of an answer."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, int] | None = Field(None, description="binary_data_size, where the tensor is behind the JSON")
    data: list[float] | list[str] | None = Field(None, description="flat, row by row")


class InferAnswer(BaseModel):
    """The answer to an InferRequest."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="the request's, if it has one")
    outputs: list[OutputTensor]


class TensorDescription(BaseModel):
    """What a tensor looks like; -1 is the number of pictures."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives. Of the inputs a request has just one."""

    name: str
    versions: list[str]
    platform: Literal["onnxruntime_onnx"] = "onnxruntime_onnx"
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """Requests can be answered."""

    ready: bool


class ModelReady(BaseModel):
    """Requests for a model can be answered."""

    name: str
    ready: bool


class IndexRequest(_Sent):
    """The JSON of `POST /v2/repository/index`, where there is one."""

    ready: bool = Field(False, description="leave out what is not served")


class IndexEntry(BaseModel):
    """A version of a model in the repository."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class RepositoryRequest(_Sent):
    """The JSON of load and unload, where there is one."""

    parameters: dict[str, Any] = Field({}, description="none but unload_dependents, which changes nothing")


class ProtocolError(BaseModel):
    """Any error."""

    error: str
