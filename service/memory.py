"""How the process sets memory aside."""

import ctypes
import platform

M_ARENA_MAX = -8
"""`mallopt(3)`."""


def keep_heap_small() -> None:
    """Give all threads one malloc arena, where the C library is glibc.

    Each thread that decodes would otherwise get one of its own, which keeps the space of the largest picture that it
    ever saw: 199 MB resident instead of 144 under load with the bundled model, at the same throughput.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
