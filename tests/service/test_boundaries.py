"""The service runs without the exporter and its libraries, and reads no pickle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import service
from tests.conftest import REPOSITORY

FORBIDDEN = {"torch", "onnx", "ray", "model_export", "offline", "cluster"}

RUN_CODE = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
"""What they read can be code. Libraries may load them for ends of their own, as multiprocessing does."""

FILES = sorted(Path(service.__path__[0]).glob("**/*.py"))


def imported(source: str) -> set[str]:
    """The top-level packages that a module's code names in its imports, wherever they stand."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.partition(".")[0])
    return packages


def test_imports_are_seen_wherever_they_stand() -> None:
    source = "import a.b, c as d\nfrom e.f import g\nfrom . import h\ndef i():\n  import j\n  from k import l"

    assert imported(source) == {"a", "c", "e", "j", "k"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_module_imports_the_exporter_or_its_libraries(file: Path) -> None:
    assert not imported(file.read_text()) & FORBIDDEN


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_module_imports_what_reads_pickles(file: Path) -> None:
    source = file.read_text()

    assert not imported(source) & RUN_CODE
    assert "allow_pickle" not in source  # numpy's


def test_importing_everything_loads_neither_the_exporter_nor_its_libraries() -> None:
    paths = [file.relative_to(REPOSITORY).with_suffix("") for file in FILES if file.stem != "__init__"]
    names = [".".join(path.parts) for path in paths]
    assert len(names) > 15
    code = f"import sys, {', '.join(names)}; print(*({FORBIDDEN} & sys.modules.keys()), 'service.app' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)

    assert done.stdout.split() == ["True"]
