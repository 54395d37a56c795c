"""The protocol over gRPC, asked by Triton's own client.

The service is a process of its own: its messages and the client's have the same names, which one process cannot hold.
"""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.conftest import REPOSITORY
from tests.service import colours
from tests.service.colours import LEVEL, SIZE
from tests.service.live import PATIENCE, await_metric, classify, connect, metric
from tests.service.pictures import encode, noise, png
from tests.service.processes import Process, ended, running
from tests.service.test_keys import entry

COLOURS = ("red", "lime", "blue")
PNGS = [png(colour) for colour in COLOURS]


def address(process: Process) -> str:
    found = re.search(r"gRPC on (\S+)", process.messages)
    assert found, process.messages
    return found[1]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, httpx.Client]]:
    models = tmp_path_factory.mktemp("models")
    colours.save_served(models, "colours", 2, labels=("rouge", "vert", "bleu"))
    colours.save_served(models, "colours", 10)
    options = ("--keep-versions", "2", "--max-images", "3", "--max-request-mb", "1", "--timeout-ms", "20000")
    with running("--models", str(models), "--grpc-port", "0", *options) as both:
        yield both


@pytest.fixture
def asking(service: tuple[Process, httpx.Client]) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(service[0])) as client:
        yield client


def pixels(count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def tensor(values: NDArray[Any], name: str = "pixels", datatype: str = "UINT8") -> Any:
    given = triton.InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values)
    return given


def encoded(pictures: list[bytes]) -> Any:
    return tensor(np.array(pictures, dtype=object), "image", "BYTES")


def test_the_server_and_its_models_describe_themselves(asking: triton.InferenceServerClient) -> None:
    assert asking.is_server_live()
    assert asking.is_server_ready()
    assert asking.is_model_ready("colours", "2")
    assert "classification" in asking.get_server_metadata().extensions
    metadata = asking.get_model_metadata("colours", as_json=True)
    assert metadata["versions"] == ["2", "10"]
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"][0] == {"name": "pixels", "datatype": "UINT8", "shape": ["-1", str(SIZE), str(SIZE), "3"]}
    assert metadata["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "3"]}


def test_pixels_get_the_models_own_scores(asking: triton.InferenceServerClient) -> None:
    given = pixels()

    result = asking.infer("colours", [tensor(given)], request_id="7")

    logits = given.astype(np.float64).mean(axis=(1, 2)) / LEVEL
    np.testing.assert_allclose(result.as_numpy("logits"), logits, rtol=1e-5)
    np.testing.assert_allclose(result.as_numpy("probabilities").sum(axis=1), 1, rtol=1e-5)
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("colours", "10", "7")


def test_encoded_pictures_are_answered_as_by_classify(
    service: tuple[Process, httpx.Client], asking: triton.InferenceServerClient
) -> None:
    pictures = [*PNGS[:2], encode(noise(50, 70), "JPEG")]

    probabilities = asking.infer("colours", [encoded(pictures)]).as_numpy("probabilities")

    for row, result in zip(probabilities, classify(service[1], *pictures).json()["results"], strict=True):
        for prediction in result["predictions"]:
            assert row[prediction["class_id"]] == pytest.approx(prediction["probability"], rel=1e-6)


def test_classification_names_the_best_of_the_version_that_was_asked(asking: triton.InferenceServerClient) -> None:
    wanted = triton.InferRequestedOutput("logits", class_count=1)
    best = asking.infer("colours", [encoded(PNGS)], outputs=[wanted], model_version="2").as_numpy("logits")
    assert [text.decode().split(":")[2] for text in best[:, 0]] == ["rouge", "vert", "bleu"]


def test_contents_may_be_typed_instead_of_raw(service: tuple[Process, httpx.Client]) -> None:
    given = pixels(1)
    inputs = [
        service_pb2.ModelInferRequest.InferInputTensor(
            name="pixels",
            datatype="UINT8",
            shape=given.shape,
            contents=service_pb2.InferTensorContents(uint_contents=given.reshape(-1).tolist()),
        ),
        service_pb2.ModelInferRequest.InferInputTensor(
            name="image",
            datatype="BYTES",
            shape=[1],
            contents=service_pb2.InferTensorContents(bytes_contents=[PNGS[0]]),
        ),
    ]
    with grpc.insecure_channel(address(service[0])) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = [stub.ModelInfer(service_pb2.ModelInferRequest(model_name="colours", inputs=[one])) for one in inputs]
    logits = [np.frombuffer(answer.raw_output_contents[0], "<f4") for answer in answers]
    np.testing.assert_allclose(logits[0], given.mean(axis=(0, 1, 2)) / LEVEL, rtol=1e-5)
    assert logits[1].argmax() == 0


@pytest.mark.parametrize(
    ("model", "version", "inputs", "outputs", "code", "why"),
    [
        ("none", "", [tensor(pixels(1))], None, "NOT_FOUND", "no model 'none'"),
        ("colours", "7", [tensor(pixels(1))], None, "NOT_FOUND", "has no version 7"),
        ("colours", "one", [tensor(pixels(1))], None, "NOT_FOUND", "has no version 'one'"),
        ("colours", "", [], None, "INVALID_ARGUMENT", "0 inputs"),
        ("colours", "", [tensor(pixels(1)), encoded(PNGS)], None, "INVALID_ARGUMENT", "2 inputs"),
        ("colours", "", [tensor(pixels(1)[..., :2])], None, "INVALID_ARGUMENT", "has to be UINT8"),
        ("colours", "", [tensor(pixels(1).astype(np.float32), "pixels", "FP32")], None, "INVALID_ARGUMENT", "FP32"),
        ("colours", "", [tensor(pixels(1), "picture")], None, "INVALID_ARGUMENT", "no input 'picture'"),
        ("colours", "", [encoded([*PNGS, PNGS[0]])], None, "INVALID_ARGUMENT", "more than the 3 pictures"),
        ("colours", "", [encoded([PNGS[0], b"none"])], None, "INVALID_ARGUMENT", "picture 1: not a readable picture"),
        ("colours", "", [encoded([PNGS[0][:60]])], None, "INVALID_ARGUMENT", "picture 0: "),
        ("colours", "", [encoded(PNGS)], ["scores"], "INVALID_ARGUMENT", "no output 'scores'"),
        ("colours", "", [encoded([b"\0" * (1 << 20)])], None, "RESOURCE_EXHAUSTED", "larger"),
    ],
)
def test_what_is_wrong_has_its_code(
    asking: triton.InferenceServerClient,
    model: str,
    version: str,
    inputs: list[Any],
    outputs: list[str] | None,
    code: str,
    why: str,
) -> None:
    wanted = None if outputs is None else [triton.InferRequestedOutput(name) for name in outputs]
    with pytest.raises(InferenceServerException) as caught:
        asking.infer(model, inputs, version, outputs=wanted)
    assert caught.value.status() == f"StatusCode.{code}"
    assert why in str(caught.value.message())


def request_of(**changes: Any) -> Any:
    """For one picture as raw pixels, with changes of its input."""
    given = pixels(1)
    described = {"name": "pixels", "datatype": "UINT8", "shape": given.shape} | changes
    return service_pb2.ModelInferRequest(
        model_name="colours",
        inputs=[service_pb2.ModelInferRequest.InferInputTensor(**described)],
        raw_input_contents=[given.tobytes()],
    )


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (request_of(shape=(-1, SIZE, SIZE, 3)), "has to be UINT8"),
        (request_of(shape=(2, SIZE, SIZE, 3)), "bytes, but its shape"),
        (request_of(shape=()), "has to be UINT8"),
        (
            request_of(parameters={"shared_memory_region": service_pb2.InferParameter(string_param="r")}),
            "shared memory is not supported",
        ),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(
    service: tuple[Process, httpx.Client], request_: Any, why: str
) -> None:
    twice = service_pb2.ModelInferRequest()
    twice.CopyFrom(request_)
    twice.raw_input_contents.append(b"")
    classes = service_pb2.InferParameter(int64_param=0)
    none = service_pb2.ModelInferRequest()
    none.CopyFrom(request_of())
    none.outputs.append(
        service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="logits", parameters={"classification": classes})
    )
    with grpc.insecure_channel(address(service[0])) as channel:
        stub = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for message, reason in ((request_, why), (twice, "2 raw_input_contents"), (none, "classification is 0")):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(message)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert reason in str(caught.value.details())


def test_every_error_that_may_come_has_its_code() -> None:
    code = (
        "from service import errors; from service.open_inference.rpc import CODES; print(*sorted({error.status"
        " for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.ServiceError)}"
        " - CODES.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["408", "431"], "those of bodies and headers that are slow to come, or too large"


def test_many_at_once_get_each_its_own_answer(asking: triton.InferenceServerClient) -> None:
    done = threading.Semaphore(0)
    results: dict[int, Any] = {}

    def keep(number: int, result: Any, error: Any) -> None:
        results[number] = error or result.as_numpy("logits")[0].argmax()
        done.release()

    for number in range(60):
        asking.async_infer(
            "colours", [encoded([PNGS[number % 3]])], lambda result, error, number=number: keep(number, result, error)
        )
    for _ in range(60):
        assert done.acquire(timeout=PATIENCE)
    assert results == {number: number % 3 for number in range(60)}


def test_requests_are_counted_like_those_of_http(
    service: tuple[Process, httpx.Client], asking: triton.InferenceServerClient
) -> None:
    _, client = service
    endpoint = "/inference.GRPCInferenceService/ModelInfer"

    def counts() -> list[float]:
        return [
            metric(client, "stripmlp_images_total", outcome="ok"),
            metric(client, "stripmlp_images_total", outcome="invalid"),
            metric(client, "stripmlp_requests_total", endpoint=endpoint, code="200"),
            metric(client, "stripmlp_requests_total", endpoint=endpoint, code="415"),
        ]

    before = counts()
    asking.infer("colours", [encoded(PNGS)])
    with pytest.raises(InferenceServerException):
        asking.infer("colours", [encoded([PNGS[0], b"no picture"])])

    assert np.subtract(counts(), before).tolist() == [4, 1, 1, 1]
    assert metric(client, "stripmlp_body_bytes") == 0
    assert metric(client, "stripmlp_in_flight_requests") == 1, "the one that asks"


def test_messages_and_bodies_share_one_bound(tmp_path: Path) -> None:
    """What one of them holds, the other has no room for; it is given back when its request ends."""
    colours.save_served(tmp_path)
    options = ["--models", str(tmp_path), "--grpc-port", "0", "--max-queue-mb", "1", "--max-request-mb", "1"]
    body = encode(noise(450, 450), "BMP")
    assert 1 << 19 < len(body) < 1 << 20
    with running(*options) as (process, client), triton.InferenceServerClient(address(process)) as asking:
        with connect(client) as slow:
            slow.sendall(b"POST /classify HTTP/1.1\r\nHost: it\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-1])
            await_metric(client, len(body) - 1, "stripmlp_body_bytes")

            with pytest.raises(InferenceServerException) as refusal:
                asking.infer("colours", [encoded([body])])

            assert refusal.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
            assert f"requests hold {len(body) - 1} bytes" in str(refusal.value.message())
            endpoint = "/inference.GRPCInferenceService/ModelInfer"
            await_metric(client, 1, "stripmlp_requests_total", endpoint=endpoint, code="429")
            assert metric(client, "stripmlp_images_total", outcome="refused") == 1

            slow.sendall(body[-1:])
            assert slow.recv(64).startswith(b"HTTP/1.1 200")
        for _ in range(2):
            assert asking.infer("colours", [encoded([body])]).as_numpy("logits").shape == (1, 3)
        assert metric(client, "stripmlp_body_bytes") == 0


def test_past_the_deadline_there_is_no_answer(asking: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        asking.infer("colours", [encoded(PNGS)], client_timeout=1e-6)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_on_sigterm_it_says_not_ready_and_answers_on(tmp_path: Path) -> None:
    colours.save_served(tmp_path)
    with running("--models", str(tmp_path), "--grpc-port", "0", "--drain-seconds", "60") as (process, client):
        with triton.InferenceServerClient(address(process)) as asking:
            process.signal(signal.SIGTERM)
            process.await_line("ending in 60 seconds")
            assert not asking.is_server_ready()
            assert not asking.is_model_ready("colours")
            assert asking.infer("colours", [encoded(PNGS)]).as_numpy("logits").shape == (3, 3)
        assert client.get("/healthz").status_code == 200


def test_it_ends_with_the_service(tmp_path: Path) -> None:
    colours.save_served(tmp_path)
    with running("--models", str(tmp_path), "--grpc-port", "0", "--drain-seconds", "0") as (process, _):
        target = address(process)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as caught:
            triton.service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive(service_pb2.ServerLiveRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_no_call_is_taken_while_http_ends_its_last_requests(tmp_path: Path) -> None:
    """Both have the same time to end; one after the other they would have twice as much."""
    colours.save_served(tmp_path)
    with running("--models", str(tmp_path), "--grpc-port", "0", "--drain-seconds", "0") as (process, client):
        with connect(client) as slow, grpc.insecure_channel(address(process)) as channel:
            slow.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(PNGS[0]))
            await_metric(client, 2, "stripmlp_in_flight_requests")
            client.close()
            process.signal(signal.SIGTERM)
            process.await_line("Waiting for connections to close")

            with pytest.raises(grpc.RpcError) as caught:
                triton.service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive(service_pb2.ServerLiveRequest())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            slow.sendall(PNGS[0])
            assert slow.recv(64).startswith(b"HTTP/1.1 200")
        assert process.wait() == 0


def test_a_port_that_is_taken_ends_the_start(service: tuple[Process, httpx.Client], tmp_path: Path) -> None:
    colours.save_served(tmp_path)
    port = address(service[0]).rpartition(":")[2]
    options = ("--models", str(tmp_path), "--host", "127.0.0.1", "--port", "0", "--grpc-port", port)
    done = ended(*options)
    assert done.returncode == 1
    assert f"cannot listen for gRPC on 127.0.0.1:{port}" in done.stderr


def test_workers_share_a_port_that_is_named_alone() -> None:
    done = ended("--workers", "2", "--grpc-port", "0")
    assert done.returncode == 2
    assert "grpc_port is 0" in done.stderr


def test_keys_are_needed_where_there_are_any(tmp_path: Path) -> None:
    for name in "colours", "shades":
        colours.save_served(tmp_path / "models", name)
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("guest", "secret", 'models = ["colours"]'))
    options = ["--models", str(tmp_path / "models"), "--grpc-port", "0", "--api-keys-file", str(keys)]
    with running(*options) as (process, _), triton.InferenceServerClient(address(process)) as client:
        tensor = triton.InferInput("pixels", [3, SIZE, SIZE, 3], "UINT8").set_data_from_numpy(pixels())
        secret = {"x-api-key": "secret"}
        assert client.is_server_ready()
        assert client.is_model_ready("colours", headers=secret)
        assert client.infer("colours", [tensor], headers=secret).as_numpy("logits").shape == (3, 3)
        for name, headers, code in (
            ("colours", {}, "UNAUTHENTICATED"),
            ("colours", {"authorization": "Bearer wrong"}, "UNAUTHENTICATED"),
            ("shades", secret, "PERMISSION_DENIED"),
        ):
            with pytest.raises(InferenceServerException) as refusal:
                client.infer(name, [tensor], headers=headers)
            assert refusal.value.status() == f"StatusCode.{code}"
        with pytest.raises(InferenceServerException):
            client.get_model_metadata("colours")
