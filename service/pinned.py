"""Page-locked memory: a GPU reads it at the bus's full rate, where ordinary memory is copied once more on the way."""

import ctypes
import logging
import math
import weakref
from typing import Any

import numpy as np
import onnxruntime

from service.preprocessing import Pixels

logger = logging.getLogger(__name__)

FOR_ALL_GPUS = 1
"""`cudaHostAllocPortable`."""


def pinned_pixels(shape: tuple[int, ...]) -> Pixels:
    """An array of uint8 in page-locked memory, or in ordinary memory, after saying why, where CUDA gives none.

    Source: CUDA Runtime API, `cudaHostAlloc`. onnxruntime's Python interface allocates no such memory.
    """
    size = math.prod(shape)
    pointer = ctypes.c_void_p()
    try:
        runtime = cuda_runtime()
        status = runtime.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), ctypes.c_uint(FOR_ALL_GPUS))
    except OSError as error:
        logger.warning("no page-locked memory, so pictures reach the GPU more slowly: %s", error)
        return np.empty(shape, np.uint8)
    if status != 0 or pointer.value is None:
        logger.warning("no page-locked memory, so pictures reach the GPU more slowly: CUDA's error %d", status)
        return np.empty(shape, np.uint8)
    memory = (ctypes.c_uint8 * size).from_address(pointer.value)
    # The array keeps `memory` alive, and so this memory goes when the array and all its views have gone.
    weakref.finalize(memory, runtime.cudaFreeHost, pointer)
    return np.ctypeslib.as_array(memory).reshape(shape)


def cuda_runtime() -> Any:
    """The library that the CUDA provider has loaded, which its name gives again. Raises `OSError` where it is not."""
    return ctypes.CDLL(f"libcudart.so.{onnxruntime.cuda_version.partition('.')[0]}")
