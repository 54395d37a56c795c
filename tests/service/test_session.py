"""Sessions: which files are refused, which provider runs, and what a run answers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from service.errors import DeviceUnavailable, UnusableModel
from service.session import CPU, CUDA, Device, Session
from tests.service import colours

# The CPU build of onnxruntime tells with a warning that it passes over the provider; the GPU build logs it.
cuda_does_not_work = pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return colours.save_served(tmp_path)


@pytest.fixture
def _cuda_compiled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])


needs_cpu_build = pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="the installed onnxruntime has CUDA"
)


def test_a_session_knows_its_document_and_provider(model: Path) -> None:
    session = Session.open(model, device="cpu", threads=1)

    assert session.artifact == colours.artifact()
    assert session.provider == "CPUExecutionProvider"


def test_a_run_answers_every_picture_of_the_batch(model: Path) -> None:
    session = Session.open(model, device="cpu", threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, colours.SIZE, colours.SIZE, 3), dtype=np.uint8)

    scores = session.run(pixels)

    means = pixels.mean(axis=(1, 2)) / colours.LEVEL
    np.testing.assert_allclose(scores.logits, means, rtol=1e-5)
    np.testing.assert_allclose(
        scores.probabilities, np.exp(means) / np.exp(means).sum(axis=1, keepdims=True), rtol=1e-4
    )
    assert scores.logits.dtype == scores.probabilities.dtype == np.float32
    np.testing.assert_array_equal(scores.row(3).logits, scores.logits[3])
    np.testing.assert_array_equal(scores.row(3).probabilities, scores.probabilities[3])


def test_a_run_passes_on_what_onnxruntime_raises(model: Path) -> None:
    session = Session.open(model, device="cpu", threads=1)

    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        session.run(np.zeros((1, 8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("device", ["cpu", "auto"])
@needs_cpu_build
def test_a_run_uses_as_many_threads_as_it_was_given(model: Path, device: Device, threads: int) -> None:
    session = Session.open(model, device=device, threads=threads)

    assert session._inference.get_session_options().intra_op_num_threads == threads


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(UnusableModel, match=r"model\.onnx cannot be loaded: "):
        Session.open(path, device="cpu", threads=1)


def test_a_truncated_file_is_refused(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:100])

    with pytest.raises(UnusableModel, match="cannot be loaded"):
        Session.open(model, device="cpu", threads=1)


def test_a_file_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="has no 'strip_mlp_artifact' metadata"):
        Session.open(colours.save(tmp_path / "model.onnx"), device="cpu", threads=1)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"input_name": "image"}, "takes .*'image'"),
        ({"input_type": TensorProto.FLOAT}, r"takes .*'tensor\(float\)'.* and gives"),
        ({"size": 64}, r"takes .*\['batch', 64, 64, 3\].* and gives"),
        ({"batch": 1}, r"takes .*\[1, 32, 32, 3\].* and gives"),
        ({"size": "side"}, r"takes .*'side'.* and gives"),
        ({"outputs": ("scores", "probabilities")}, "and gives .*'scores'"),
        ({"outputs": ("probabilities", "logits")}, r"and gives \[\('probabilities'"),
    ],
)
def test_another_signature_than_the_document_promises_is_refused(
    tmp_path: Path, other: dict[str, Any], told: str
) -> None:
    path = colours.save(tmp_path / "model.onnx", colours.artifact().model_dump_json(), **other)

    with pytest.raises(UnusableModel, match=f"{told}.*but its metadata promises"):
        Session.open(path, device="cpu", threads=1)


def test_another_number_of_classes_than_the_document_promises_is_refused(tmp_path: Path) -> None:
    two = colours.artifact().architecture.model_copy(update={"num_classes": 2})
    path = colours.save_served(tmp_path, architecture=two, labels=("red", "green"))

    with pytest.raises(UnusableModel, match=r"gives .*\['batch', 3\].* promises .*\['batch', 2\]"):
        Session.open(path, device="cpu", threads=1)


@needs_cpu_build
def test_auto_takes_the_cpu_where_cuda_is_not_compiled_in(model: Path) -> None:
    assert Session.open(model, device="auto", threads=1).provider == CPU


@needs_cpu_build
def test_cuda_is_refused_where_it_is_not_compiled_in(model: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"the installed onnxruntime has only .*CPUExecutionProvider.*'gpu'"):
        Session.open(model, device="cuda", threads=1)


@needs_cpu_build
@cuda_does_not_work
@pytest.mark.usefixtures("_cuda_compiled_in")
def test_cuda_is_refused_where_it_is_compiled_in_but_does_not_work(model: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"could not load its CUDA provider .* CPUExecutionProvider"):
        Session.open(model, device="cuda", threads=1)


@needs_cpu_build
@cuda_does_not_work
@pytest.mark.usefixtures("_cuda_compiled_in")
def test_auto_takes_the_cpu_and_its_threads_where_cuda_does_not_work(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session.open(model, device="auto", threads=3)

    assert session.provider == CPU
    assert session._inference.get_session_options().intra_op_num_threads == 3
    assert "CUDA is compiled in but does not work here" in caplog.text


@pytest.mark.usefixtures("_cuda_compiled_in")
def test_the_cpu_is_taken_where_it_was_asked_for(model: Path) -> None:
    assert Session.open(model, device="cpu", threads=1).provider == CPU
