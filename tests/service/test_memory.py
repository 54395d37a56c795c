"""The heap: how much of it stays resident after many threads have used it."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.memory import keep_heap_small

PROBE = """
import ctypes, sys, threading
from service.memory import keep_heap_small
if sys.argv[1] == "small":
    keep_heap_small()
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
places, together = [], threading.Barrier(8)
def work():
    together.wait()
    places.append(malloc(1000) >> 26)  # an arena of a thread is 64 MiB, aligned
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(set(places)))
"""


@pytest.mark.parametrize(("heap", "one"), [("small", True), ("default", False)])
def test_threads_share_one_arena(heap: str, one: bool) -> None:
    run = subprocess.run([sys.executable, "-c", PROBE, heap], capture_output=True, text=True, check=True)

    assert (int(run.stdout) == 1) is one


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", None)  # calling it would fail

    keep_heap_small()


SERVING = """
import gc, sys
from pathlib import Path
from service.server import Server, serve_alone
from service.settings import Settings
Server.run = lambda _, sockets=None: print(gc.get_freeze_count(), len(gc.get_objects()))
serve_alone(Settings(models=Path(sys.argv[1]), port=0))
"""


def test_what_a_service_is_made_of_is_never_looked_through_for_garbage(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", SERVING, tmp_path], capture_output=True, text=True, check=True)

    spared, looked_at = map(int, run.stdout.split())
    assert spared > 50_000
    assert looked_at < 1_000
