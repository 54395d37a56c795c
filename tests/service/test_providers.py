"""Devices by name, and the options that their providers get."""

import os
import re
from pathlib import Path

import onnxruntime
import pytest

from service.errors import DeviceUnavailable
from service.providers import (
    CPU,
    CUDA,
    DEVICE_PATTERN,
    TENSORRT,
    GpuOptions,
    cuda,
    device_number,
    expected_provider,
    expects_cuda,
    tensorrt,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"any")
    return path


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "unset")


@pytest.mark.parametrize(
    ("device", "understood"),
    [
        *((device, True) for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:12", "cuda:0,cuda:1,cuda:2")),
        *((device, True) for device in ("tensorrt", "tensorrt:1", "tensorrt:0,tensorrt:1")),
        *((device, False) for device in ("", "gpu", "cuda:", "cuda:-1", "cuda:0,", "cuda:0,1", "cpu,cpu", "auto:1")),
        *((device, False) for device in ("cuda:0,tensorrt:1", "tensorrt:", "tensorrt,tensorrt")),
    ],
)
def test_how_devices_are_named(device: str, understood: bool) -> None:
    assert bool(re.fullmatch(DEVICE_PATTERN, device)) is understood


@pytest.mark.parametrize(
    ("device", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:12", 12), ("tensorrt:3", 3)]
)
def test_a_gpu_is_taken_by_its_number(model: Path, device: str, number: int) -> None:
    assert device_number(device) == number
    assert cuda(device, GpuOptions())[1]["device_id"] == str(number)
    assert tensorrt(model, device, GpuOptions(), 32)[1]["device_id"] == str(number)


@pytest.mark.parametrize(
    ("device", "compiled_in", "provider"),
    [
        ("cpu", [TENSORRT, CUDA, CPU], CPU),
        ("auto", [TENSORRT, CUDA, CPU], CUDA),
        ("auto", [CPU], CPU),
        ("cuda:1", [TENSORRT, CUDA, CPU], CUDA),
        ("tensorrt", [TENSORRT, CUDA, CPU], TENSORRT),
    ],
)
def test_what_a_session_must_run_on(
    monkeypatch: pytest.MonkeyPatch, device: str, compiled_in: list[str], provider: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: compiled_in)

    assert expected_provider(device) == provider
    assert expects_cuda(device) is (provider != CPU)


@pytest.mark.parametrize("device", ["cuda", "tensorrt:0"])
def test_what_is_not_compiled_in_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])

    with pytest.raises(DeviceUnavailable, match=rf"--device {device} .* has only CPUExecutionProvider.*'gpu'"):
        expected_provider(device)


def test_cudas_options_follow_from_the_settings() -> None:
    assert cuda("cuda", GpuOptions()) == (
        CUDA,
        {
            "device_id": "0",
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
            "enable_cuda_graph": "0",
        },
    )
    _, options = cuda("cuda", GpuOptions(tf32=True, cuda_graphs=True))
    assert (options["use_tf32"], options["enable_cuda_graph"]) == ("1", "1")


def test_tensorrt_is_built_for_every_batch_up_to_the_largest(model: Path) -> None:
    name, options = tensorrt(model, "tensorrt", GpuOptions(cuda_graphs=True, largest_batch=48), 224)

    assert name == TENSORRT
    assert options == {
        "device_id": "0",
        "trt_cuda_graph_enable": "1",
        "trt_profile_min_shapes": "pixels:1x224x224x3",
        "trt_profile_opt_shapes": "pixels:48x224x224x3",
        "trt_profile_max_shapes": "pixels:48x224x224x3",
    }


@pytest.mark.parametrize(("tf32", "variable"), [(False, "0"), (True, "unset")])
def test_tensorrt_takes_tf32_only_if_it_may(model: Path, tf32: bool, variable: str) -> None:
    tensorrt(model, "tensorrt", GpuOptions(tf32=tf32), 32)

    assert os.environ["NVIDIA_TF32_OVERRIDE"] == variable


def test_engines_are_kept_apart_by_the_files_content_and_by_tf32(model: Path, tmp_path: Path) -> None:
    """onnxruntime would take one file's engine for another's with the same graph."""
    cache = tmp_path / "not" / "yet"

    def folder(*, tf32: bool = False) -> str:
        _, options = tensorrt(model, "tensorrt", GpuOptions(engine_cache=cache, tf32=tf32), 32)
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
        assert options["trt_timing_cache_path"] == str(cache)
        assert Path(options["trt_engine_cache_path"]).parent == cache
        assert Path(options["trt_engine_cache_path"]).is_dir()
        return options["trt_engine_cache_path"]

    first = folder()
    assert folder() == first
    assert folder(tf32=True) != first
    model.write_bytes(b"other")
    assert folder() != first
