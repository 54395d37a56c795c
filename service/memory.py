"""How the process sets memory aside."""

import ctypes
import platform

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""`mallopt(3)`."""

LARGE = 1 << 20
"""Bytes. From here on memory comes from the system and goes back to it, instead of leaving holes in the heap."""


def keep_heap_small() -> None:
    """Give all threads one malloc arena, and large pictures none of it, where the C library is glibc.

    Each thread that decodes would otherwise get one of its own, which keeps the space of the largest picture that it
    ever saw: 199 MB resident instead of 167 under load with the bundled model, at the same throughput.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE)
