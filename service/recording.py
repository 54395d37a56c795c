"""A thread of its own for a session whose kernels are recorded as CUDA graphs.

ONNX Runtime keeps the recordings of each thread apart, so that a thread which comes later would record again, and a
recording fails when another thread copies or allocates on a GPU meanwhile. Hence one thread runs a session from its
first run on, and minds its own recordings alone.

Source: onnxruntime's `cuda_graph.cc`; CUDA Runtime API, `cudaThreadExchangeStreamCaptureMode`.
"""

import ctypes
import logging
import threading
import weakref
from concurrent.futures import Future
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from service.binding import Binding
from service.pinned import cuda_runtime
from service.preprocessing import Pixels

logger = logging.getLogger(__name__)

OWN_RECORDINGS_ALONE = 1
"""`cudaStreamCaptureModeThreadLocal`."""

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
Jobs = SimpleQueue[tuple[Pixels, Future[Answers]] | None]


class RecordingThread:
    """Runs a binding in a thread that ends with this object.

    Args:
        binding: what runs; nobody else may use it.
    """

    def __init__(self, binding: Binding) -> None:
        self._jobs: Jobs = SimpleQueue()
        # A daemon, as a run that hangs must not keep the process from ending.
        threading.Thread(target=_work, args=(binding, self._jobs), name="gpu", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    def run(self, pixels: Pixels) -> Answers:
        """As `Binding.run`."""
        answers: Future[Answers] = Future()
        self._jobs.put((pixels, answers))
        return answers.result()


def _work(binding: Binding, jobs: Jobs) -> None:
    _mind_own_recordings_alone()
    while True:
        job = jobs.get()
        if job is None:
            return
        pixels, answers = job
        try:
            answers.set_result(binding.run(pixels))
        except BaseException as error:
            answers.set_exception(error)
        del job, pixels, answers  # not held while the thread waits


def _mind_own_recordings_alone() -> None:
    mode = ctypes.c_int(OWN_RECORDINGS_ALONE)
    try:
        status = cuda_runtime().cudaThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    except OSError as error:
        logger.warning("runs may disturb the recording of other sessions' CUDA graphs: %s", error)
        return
    if status != 0:
        logger.warning("runs may disturb the recording of other sessions' CUDA graphs: CUDA's error %d", status)
