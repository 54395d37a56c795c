"""How the process sets memory aside, and what is looked through for garbage."""

import ctypes
import gc
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""`mallopt(3)`."""

LARGE = 1 << 20
"""Bytes. From here on memory comes from the system and goes back to it, instead of leaving holes in the heap."""


USUAL_PICTURE = 8 << 20
"""Bytes. What is smaller, as pictures of up to two megapixels are, comes from a heap that is kept for the next one."""


def keep_heap_small() -> None:
    """Give all threads one malloc arena, and large bodies none of it, where the C library is glibc.

    Each thread would otherwise get one of its own, which keeps the space of the largest request that it ever saw.
    """
    _mallopt(M_ARENA_MAX, 1)
    _mallopt(M_MMAP_THRESHOLD, LARGE)


def keep_heap_for_pictures() -> None:
    """Keep the memory of usual pictures for the next one, and give back that of large ones.

    Pages that come from the system are cleared and mapped one by one: without this a photo of 500 px took a fifth more
    time to decode.
    """
    _mallopt(M_MMAP_THRESHOLD, USUAL_PICTURE)
    _mallopt(M_TRIM_THRESHOLD, 2 * USUAL_PICTURE)


def spare_what_stays() -> None:
    """Keep the garbage collector from looking at what there is by now: modules, routes, descriptions.

    These are 80,000 objects, which took 40 ms whenever enough others had come, which was at every thousandth request;
    nothing else happens meanwhile.
    """
    gc.collect()
    gc.freeze()


def _mallopt(option: int, value: int) -> None:
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(option, value)
