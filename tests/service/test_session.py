"""Sessions: which files are refused, which provider runs, and what a run answers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from service.binding import Binding
from service.errors import DeviceUnavailable, UnusableModel
from service.preprocessing import Pixels
from service.providers import CPU, CUDA, GpuOptions, cuda, tensorrt
from service.recording import RecordingThread
from service.session import Scores, Session
from tests.service import colours
from tests.service.seeming_cuda import SeemingCuda

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


@pytest.mark.parametrize("batch", [1, 5])
def test_a_probe_runs_blank_pictures_of_the_models_size(
    model: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    session = Session.open(model, device="cpu", threads=1)
    ran: list[Pixels] = []
    run = Session.run

    def note(session: Session, pixels: Pixels) -> Scores:
        ran.append(pixels)
        return run(session, pixels)

    monkeypatch.setattr(Session, "run", note)

    session.probe(batch)

    (pixels,) = ran
    assert pixels.shape == (batch, colours.SIZE, colours.SIZE, 3)
    assert pixels.dtype == np.uint8
    assert not pixels.any()


def test_a_probe_passes_on_what_onnxruntime_raises(tmp_path: Path) -> None:
    path = colours.save(tmp_path / "model.onnx", colours.artifact().model_dump_json(), largest_batch=2)
    session = Session.open(path, device="cpu", threads=1)

    session.probe(2)
    with pytest.raises(Exception, match="Reshape"):
        session.probe(3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("device", ["cpu", "auto"])
@needs_cpu_build
def test_a_run_uses_as_many_threads_as_it_was_given(model: Path, device: str, threads: int) -> None:
    session = Session.open(model, device=device, threads=threads)

    options = session._inference.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)


def test_threads_that_wait_for_a_run_leave_the_cores_to_decoding(model: Path) -> None:
    options = Session.open(model, device="cpu", threads=2)._inference.get_session_options()

    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


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
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_refused_where_it_is_not_compiled_in(model: Path, device: str) -> None:
    told = rf"--device {device} .* the installed onnxruntime has only .*CPUExecutionProvider.*'gpu'"
    with pytest.raises(DeviceUnavailable, match=told):
        Session.open(model, device=device, threads=1)


@needs_cpu_build
@cuda_does_not_work
@pytest.mark.usefixtures("_cuda_compiled_in")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_refused_where_it_is_compiled_in_but_does_not_work(model: Path, device: str) -> None:
    told = rf"--device {device} .* could not load its CUDAExecutionProvider .* on CPUExecutionProvider"
    with pytest.raises(DeviceUnavailable, match=told):
        Session.open(model, device=device, threads=1)


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


@pytest.mark.usefixtures("seeming_cuda")
def test_on_a_gpu_every_run_is_bound_and_answers_the_same(model: Path) -> None:
    session = Session.open(model, device="cuda", threads=3)
    pixels = np.random.default_rng(0).integers(0, 256, (5, colours.SIZE, colours.SIZE, 3), dtype=np.uint8)
    expected = Session.open(model, device="cpu", threads=1).run(pixels)

    scores = session.run(pixels)

    assert session.provider == CUDA
    assert session._binding is not None
    np.testing.assert_array_equal(scores.logits, expected.logits)
    np.testing.assert_array_equal(scores.probabilities, expected.probabilities)
    assert session._inference.get_session_options().intra_op_num_threads == 1


@pytest.mark.usefixtures("seeming_cuda")
@pytest.mark.parametrize(("cuda_graphs", "kind"), [(False, Binding), (True, RecordingThread)])
def test_with_cuda_graphs_a_session_has_a_thread_of_its_own(model: Path, cuda_graphs: bool, kind: type) -> None:
    session = Session.open(model, device="cuda", threads=1, gpu=GpuOptions(cuda_graphs=cuda_graphs))

    session.probe(2)
    assert type(session._binding) is kind


def test_a_session_gets_its_devices_providers_in_order(model: Path, seeming_cuda: SeemingCuda) -> None:
    gpu = GpuOptions(tf32=True, largest_batch=4)
    Session.open(model, device="tensorrt:1", threads=1, gpu=gpu)

    # The first one told the pictures' size.
    of_cpu, of_tensorrt = seeming_cuda.asked
    assert of_cpu == [(CPU, {})]
    assert of_tensorrt == [tensorrt(model, "tensorrt:1", gpu, colours.SIZE), cuda("cuda:1", gpu), (CPU, {})]
