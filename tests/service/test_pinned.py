"""Page-locked memory. There is no CUDA where tests run, so a stand-in allocates ordinary memory."""

import ctypes
import gc
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service.pinned import pinned_pixels


class Runtime:
    """Stands in for CUDA's runtime library."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.held: dict[int, Any] = {}
        self.flags: list[int] = []

    def cudaHostAlloc(self, pointer: Any, size: ctypes.c_size_t, flags: ctypes.c_uint) -> int:
        self.flags.append(flags.value)
        pointer._obj.value = 1  # as nothing is promised of it on failure
        if self.status == 0:
            memory = (ctypes.c_uint8 * size.value)()
            address = ctypes.addressof(memory)
            self.held[address] = memory
            pointer._obj.value = address
        return self.status

    def cudaFreeHost(self, pointer: ctypes.c_void_p) -> int:
        assert pointer.value is not None
        del self.held[pointer.value]
        return 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    stand_in = Runtime()
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    monkeypatch.setattr(ctypes, "CDLL", {"libcudart.so.13": stand_in}.__getitem__)
    return stand_in


def test_an_array_lies_in_memory_that_cuda_gave(runtime: Runtime) -> None:
    array = pinned_pixels((2, 4, 4, 3))

    (memory,) = runtime.held.values()
    assert array.shape == (2, 4, 4, 3)
    assert array.dtype == np.uint8
    array[:] = 7
    assert bytes(memory) == b"\x07" * 96
    assert runtime.flags == [1]


def test_the_memory_is_given_back_when_the_last_view_has_gone(runtime: Runtime) -> None:
    array = pinned_pixels((2, 4, 4, 3))
    view = array[1]

    del array
    gc.collect()
    assert runtime.held

    del view
    gc.collect()
    assert not runtime.held


def test_without_memory_from_cuda_there_is_ordinary_memory_and_the_log_says_why(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.status = 2

    array = pinned_pixels((1, 4, 4, 3))

    assert array.shape == (1, 4, 4, 3)
    assert array.dtype == np.uint8
    assert "no page-locked memory, so pictures reach the GPU more slowly: CUDA's error 2" in caplog.text


def test_without_cuda_there_is_ordinary_memory_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "cuda_version", "0.0")

    assert pinned_pixels((1, 4, 4, 3)).shape == (1, 4, 4, 3)
    assert "libcudart.so.0" in caplog.text
