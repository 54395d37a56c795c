"""The protocol over HTTP, asked by Triton's own clients and by hand."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from service.open_inference.rest import HEADER
from tests.service.colours import LEVEL, SIZE
from tests.service.live import classify, live_service, metric
from tests.service.pictures import encode, noise, png

COLOURS = ("red", "lime", "blue")
PNGS = [png(colour) for colour in COLOURS]


def address(client: httpx.Client) -> str:
    return client.base_url.netloc.decode()


@pytest.fixture
def triton_client(narrow: httpx.Client) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address(narrow)) as client:
        yield client


def pixels(count: int = 3) -> NDArray[np.uint8]:
    """Noise, of which each picture is another."""
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def tensor(values: NDArray[Any], *, binary: bool = True, name: str = "pixels", datatype: str = "UINT8") -> Any:
    given = triton.InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    return given


def encoded(pictures: list[bytes]) -> Any:
    return tensor(np.array(pictures, dtype=object), name="image", datatype="BYTES")


def post(client: httpx.Client, message: Any, path: str = "/v2/models/shades/infer", **headers: str) -> httpx.Response:
    return client.post(path, content=json.dumps(message), headers=headers)


def as_json(values: NDArray[np.uint8]) -> dict[str, Any]:
    return {"name": "pixels", "datatype": "UINT8", "shape": list(values.shape), "data": values.tolist()}


def assert_error(response: httpx.Response, status: int, why: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert why in response.json()["error"]


def test_the_server_and_its_models_describe_themselves(triton_client: triton.InferenceServerClient) -> None:
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.get_server_metadata()["extensions"] == [
        "binary_tensor_data",
        "classification",
        "model_repository",
    ]
    assert triton_client.is_model_ready("colours")
    assert triton_client.is_model_ready("colours", "2")
    assert triton_client.get_model_metadata("colours", "2") == {
        "name": "colours",
        "versions": ["2", "10"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]},
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }


@pytest.mark.parametrize("sent_binary", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_pixels_get_the_models_own_scores(
    triton_client: triton.InferenceServerClient, sent_binary: bool, binary: bool
) -> None:
    given = pixels()
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "logits")]

    result = triton_client.infer("shades", [tensor(given, binary=sent_binary)], outputs=outputs, request_id="7")

    logits = given.astype(np.float64).mean(axis=(1, 2)) / LEVEL
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.as_numpy("logits"), logits, rtol=1e-5)
    np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, rtol=1e-5)
    answer = result.get_response()
    assert [output["name"] for output in answer["outputs"]] == ["probabilities", "logits"]
    assert ("data" in answer["outputs"][0]) is not binary
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("shades", "1", "7")


@pytest.mark.parametrize("ask_for", [None, {"binary_data_output": True}])
def test_both_outputs_come_where_none_are_named(narrow: httpx.Client, ask_for: dict[str, bool] | None) -> None:
    message = {"inputs": [as_json(pixels(2))]} | ({"parameters": ask_for} if ask_for else {})

    response = post(narrow, message)

    length = response.headers.get(HEADER)
    assert (length is not None) == bool(ask_for)
    answer = json.loads(response.content[: int(length)] if length else response.content)
    assert [(output["name"], output["shape"]) for output in answer["outputs"]] == [
        ("logits", [2, 3]),
        ("probabilities", [2, 3]),
    ]
    assert "id" not in answer


def test_an_output_can_say_otherwise_than_the_request(narrow: httpx.Client) -> None:
    outputs = [{"name": "logits", "parameters": {"binary_data": False}}, {"name": "probabilities"}]
    message = {"inputs": [as_json(pixels(1))], "outputs": outputs, "parameters": {"binary_data_output": True}}

    response = post(narrow, message)

    length = int(response.headers[HEADER])
    answer = json.loads(response.content[:length])
    assert len(answer["outputs"][0]["data"]) == 3
    assert answer["outputs"][1]["parameters"] == {"binary_data_size": 12}
    assert np.frombuffer(response.content[length:], "<f4").sum() == pytest.approx(1)


@pytest.mark.parametrize("base64_in_json", [False, True])
def test_encoded_pictures_are_answered_as_by_classify(
    narrow: httpx.Client, triton_client: triton.InferenceServerClient, base64_in_json: bool
) -> None:
    pictures = [*PNGS[:2], encode(noise(50, 70), "JPEG")]

    if base64_in_json:
        data = [base64.b64encode(picture).decode() for picture in pictures]
        given = {"name": "image", "datatype": "BYTES", "shape": [3], "data": data}
        response = post(narrow, {"inputs": [given], "outputs": [{"name": "probabilities"}]})
        probabilities = np.reshape(response.json()["outputs"][0]["data"], (3, 3))
    else:
        probabilities = triton_client.infer("shades", [encoded(pictures)]).as_numpy("probabilities")

    results = classify(narrow, *pictures, model="shades", top_k=3).json()["results"]
    for row, result in zip(probabilities, results, strict=True):
        for prediction in result["predictions"]:
            assert row[prediction["class_id"]] == pytest.approx(prediction["probability"], rel=1e-6)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("name", "highest"), [("probabilities", 1.0), ("logits", 255 / LEVEL)])
def test_classification_names_the_best(
    triton_client: triton.InferenceServerClient, binary: bool, name: str, highest: float
) -> None:
    wanted = triton.InferRequestedOutput(name, binary_data=binary, class_count=2)

    best = triton_client.infer("colours", [encoded(PNGS)], outputs=[wanted], model_version="2").as_numpy(name)

    assert best.shape == (3, 2)
    for row, index, label in zip(best, range(3), ("rouge", "vert", "bleu"), strict=True):
        value, number, text = (row[0] if isinstance(row[0], str) else row[0].decode()).split(":")
        assert (number, text) == (str(index), label)
        assert 0.9 * highest < float(value) <= highest


def test_more_classes_than_there_are_means_all(triton_client: triton.InferenceServerClient) -> None:
    wanted = triton.InferRequestedOutput("logits", class_count=50)
    assert triton_client.infer("shades", [encoded(PNGS)], outputs=[wanted]).as_numpy("logits").shape == (3, 3)


def test_a_version_in_the_path_is_the_one_that_answers(triton_client: triton.InferenceServerClient) -> None:
    for version, label in (("2", "rouge"), ("10", "red"), ("", "red")):
        wanted = triton.InferRequestedOutput("probabilities", class_count=1)
        result = triton_client.infer("colours", [encoded(PNGS[:1])], outputs=[wanted], model_version=version)
        assert result.as_numpy("probabilities")[0, 0].decode().endswith(f":0:{label}")


def test_the_asynchronous_client_gets_each_request_its_own_answer(narrow: httpx.Client) -> None:
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(address(narrow)) as client:
            wanted = [triton_aio.InferRequestedOutput("logits", class_count=1)]
            asked = [client.infer("shades", [encoded([PNGS[n % 3]])], outputs=wanted) for n in range(60)]
            return await asyncio.gather(*asked)

    for number, result in enumerate(asyncio.run(ask())):
        assert result.as_numpy("logits")[0, 0].decode().split(":")[1] == str(number % 3)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([tensor(pixels(1)), encoded(PNGS[:1])], "2 inputs"),
        ([], "0 inputs"),
        ([tensor(pixels(1), name="picture")], "no input 'picture'"),
        (
            [tensor(pixels(1)[..., :2])],
            f"UINT8 [1, {SIZE}, {SIZE}, 2], but has to be UINT8 [pictures, {SIZE}",
        ),
        ([tensor(pixels(1)[:, 1:])], "has to be"),
        ([tensor(pixels(1)[0])], "has to be"),
        ([tensor(pixels(1)[:0])], "has to be"),
        ([tensor(pixels(1).astype(np.float32), datatype="FP32")], "FP32"),
        ([tensor(np.array([PNGS], dtype=object), name="image", datatype="BYTES")], "BYTES [pictures]"),
        ([tensor(pixels(1)[:, 0, 0, 0], name="image")], "has to be BYTES"),
    ],
)
def test_a_wrong_tensor_is_refused(triton_client: triton.InferenceServerClient, given: list[Any], why: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton_client.infer("shades", given)
    assert caught.value.status() == "400"
    assert why in caught.value.message()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data": [1, 2]}, "has 2 elements"),
        ({"data": [[1], [2, 3]]}, "whole numbers from 0 to 255"),
        ({"data": []}, "whole numbers from 0 to 255"),
        ({"data": [256] * SIZE * SIZE * 3}, "whole numbers from 0 to 255"),
        ({"data": [-1] * SIZE * SIZE * 3}, "whole numbers from 0 to 255"),
        ({"data": [1.5] * SIZE * SIZE * 3}, "whole numbers from 0 to 255"),
        ({"data": [10**30] * SIZE * SIZE * 3}, "whole numbers from 0 to 255"),
        ({"data": ["1"] * SIZE * SIZE * 3}, "whole numbers from 0 to 255"),
        ({"data": [None]}, "whole numbers from 0 to 255"),
        ({"data": "AAAA"}, "neither a list"),
        ({"data": None}, "neither a list"),
        ({"shape": [1 << 60, SIZE, SIZE, 3]}, "more than the 3 pictures"),
        ({"shape": [-1, SIZE, SIZE, 3]}, "shape"),
        ({"shape": ["1", SIZE, SIZE, 3]}, "shape"),
        ({"shape": [1] * 9}, "shape"),
        ({"shape": 1}, "shape"),
        ({"parameters": {"binary_data_size": 4}}, "both data and binary_data_size"),
        ({"parameters": {"binary_data_size": -4}}, "binary_data_size"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory is not supported"),
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": [5]}, "base64"),
        ({"name": "image", "datatype": "BYTES", "shape": [2], "data": ["AAAA"]}, "has 1 elements"),
    ],
)
def test_wrong_json_data_is_refused(narrow: httpx.Client, change: dict[str, Any], why: str) -> None:
    response = post(narrow, {"inputs": [as_json(pixels(1)) | change]})
    assert_error(response, 413 if "more than" in why else 400, why)


@pytest.mark.parametrize(
    ("body", "headers", "why"),
    [
        (b"", {}, "JSON"),
        (b"[]", {}, "request's JSON"),
        (b"{}", {}, "inputs"),
        (b'{"inputs": 5}', {}, "inputs"),
        (b'{"inputs": [{"name": "pixels"}]}', {}, "inputs.0"),
        (b"[" * 100_000, {}, "JSON"),
        (b'{"inputs": []}', {HEADER: "15"}, "the body has 14 bytes"),
        (b'{"inputs": []}', {HEADER: "-1"}, "the body has 14 bytes"),
        (b'{"inputs": []}', {HEADER: "9" * 5000}, "the body has 14 bytes"),
        (b'{"inputs": []}tail', {HEADER: "14"}, "ends at byte 14, but it has 18"),
        (b'{"inputs": []}tail', {}, "JSON"),
    ],
)
def test_a_wrong_body_is_refused(narrow: httpx.Client, body: bytes, headers: dict[str, str], why: str) -> None:
    assert_error(narrow.post("/v2/models/shades/infer", content=body, headers=headers), 400, why)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x05\0\0\0abcd", b"\x04\0\0\0abcde", b"\xff\xff\xff\xff", b"\x01\0", b"\x01\0\0\0a\0"],
)
def test_binary_pictures_that_do_not_fit_their_lengths_are_refused(narrow: httpx.Client, content: bytes) -> None:
    given = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(content)}}
    text = json.dumps({"inputs": [given]}).encode()
    response = narrow.post("/v2/models/shades/infer", content=text + content, headers={HEADER: str(len(text))})
    assert_error(response, 400, f"{len(content)} bytes are not 1 pictures")


def test_binary_pixels_too_few_are_refused(narrow: httpx.Client) -> None:
    given = as_json(pixels(1)) | {"parameters": {"binary_data_size": 7}}
    del given["data"]
    text = json.dumps({"inputs": [given]}).encode()
    response = narrow.post("/v2/models/shades/infer", content=text + b"1234567", headers={HEADER: str(len(text))})
    assert_error(response, 400, f"has 7 bytes, but its shape [1, {SIZE}, {SIZE}, 3] means {SIZE * SIZE * 3}")


@pytest.mark.parametrize("output", [{"name": "scores"}, {"name": ""}])
def test_an_unknown_output_is_refused(narrow: httpx.Client, output: dict[str, Any]) -> None:
    assert_error(post(narrow, {"inputs": [as_json(pixels(1))], "outputs": [output]}), 400, "has no output")


@pytest.mark.parametrize("classes", [0, -1, "2", 1.5])
def test_a_wrong_number_of_classes_is_refused(narrow: httpx.Client, classes: Any) -> None:
    output = {"name": "logits", "parameters": {"classification": classes}}
    assert_error(post(narrow, {"inputs": [as_json(pixels(1))], "outputs": [output]}), 400, "classification")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/v2/models/none", "no model 'none' is served"),
        ("/v2/models/shades/versions/7", "has no version 7"),
        ("/v2/models/shades/versions/one", "has no version 'one'"),
        ("/v2/models/shades/versions/-1", "has no version '-1'"),
        ("/v2/models/shades/versions/" + "9" * 5000, "has no version"),
        ("/v2/models/..%2f..%2fetc", "Not Found"),
        ("/v2/nothing", "Not Found"),
    ],
)
def test_what_is_not_there_is_not_found(narrow: httpx.Client, method: str, path: str, why: str) -> None:
    asked = narrow.get(path) if method == "GET" else post(narrow, {"inputs": [as_json(pixels(1))]}, path + "/infer")
    assert_error(asked, 404, why)


def test_a_wrong_method_is_an_error_of_the_protocol(narrow: httpx.Client) -> None:
    assert_error(narrow.get("/v2/models/shades/infer"), 405, "Method Not Allowed")


@pytest.mark.parametrize(
    ("pictures", "status", "why"),
    [
        ([PNGS[0], b"no picture", PNGS[1][:-20]], 415, "picture 1: not a readable picture"),
        ([PNGS[0], PNGS[1][:60]], 422, "picture 1: "),
        ([png("red") + b"\0" * (1 << 20)], 413, "picture 0: the picture has"),
        ([encode(noise(101, 100))], 413, "picture 0: "),
        ([PNGS[0], "no base64!"], 422, "picture 1: the picture is not base64"),
        ([PNGS[0]] * 4, 413, "more than the 3 pictures"),
    ],
)
def test_a_bad_picture_is_the_whole_requests_error(
    narrow: httpx.Client, pictures: list[bytes | str], status: int, why: str
) -> None:
    data = [each if isinstance(each, str) else base64.b64encode(each).decode() for each in pictures]
    message = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}]}
    assert_error(post(narrow, message), status, why)


def test_a_body_too_large_is_refused(narrow: httpx.Client) -> None:
    assert_error(narrow.post("/v2/models/shades/infer", content=b" " * (3 << 20)), 413, "larger than the 2 MiB")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_body_is_refused(triton_client: triton.InferenceServerClient, coding: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton_client.infer("shades", [tensor(pixels(1))], request_compression_algorithm=coding)
    assert caught.value.status() == "415"
    assert coding in caught.value.message()


def test_a_deadline_that_cannot_be_kept_is_the_protocols_error(narrow: httpx.Client) -> None:
    given = {"inputs": [as_json(pixels(1))]}
    assert_error(post(narrow, given, **{"X-Request-Timeout-Ms": "none"}), 400, "X-Request-Timeout-Ms")


def test_every_picture_is_counted_once(colour_models: Path) -> None:
    with live_service(colour_models) as client, triton.InferenceServerClient(address(client)) as asking:
        asking.infer("colours", [tensor(pixels(3))])
        classify(client, *PNGS)
        with pytest.raises(InferenceServerException):
            asking.infer("colours", [encoded([PNGS[0], b"no picture", PNGS[1]])])
        with pytest.raises(InferenceServerException):
            asking.infer("colours", [])

        assert metric(client, "stripmlp_images_total", outcome="ok") == 3 + 3 + 2
        assert metric(client, "stripmlp_images_total", outcome="invalid") == 2
        endpoint = "/v2/models/{model_name}/infer"
        assert metric(client, "stripmlp_requests_total", endpoint=endpoint, code="200") == 1
        assert metric(client, "stripmlp_requests_total", endpoint=endpoint, code="415") == 1
        assert metric(client, "stripmlp_predictions_total") == 3 + 3 + 2


def test_more_numbers_than_are_read_at_once_are_refused(strip_mlp: httpx.Client) -> None:
    text = b'{"inputs":[{"name":"pixels","shape":[1],"datatype":"UINT8","data":[' + b"0," * 1_000_000 + b"0]}]}"
    answer = strip_mlp.post("/v2/models/strip_mlp_nano_cifar10/infer", content=text)

    assert answer.status_code == 413
    assert "more than the 1000000 values allowed; send binary data" in answer.json()["error"]
