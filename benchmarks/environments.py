"""The virtual environment of each server, made on first use from its file in `requirements/`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.servers import OURS, SERVERS

REQUIREMENTS = Path(__file__).parent / "requirements"

STAMP = ".requirements"
"""Copy of the requirements that an environment was made from."""


def environment_of(server: str, home: Path, ready: Path | None) -> Path:
    """The folder of the environment that `server` runs in; missing ones are made, which needs the network.

    Args:
        server: a name in `SERVERS`.
        home: where environments are made.
        ready: a folder of environments that somebody else keeps; they are taken as they are.
    """
    name = SERVERS[server].environment
    if name == OURS:
        return Path(sys.prefix)
    if ready is not None:
        if not (ready / name / "bin" / "python").exists():
            raise SystemExit(f"{ready} has no virtual environment '{name}', which the server '{server}' needs")
        return (ready / name).absolute()
    folder, wanted = (home / name).absolute(), (REQUIREMENTS / f"{name}.txt").read_text("utf-8")
    stamp = folder / STAMP
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        print(f"making the environment of {server} …", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([_python(), "-m", "venv", folder], check=True)
        pip = (str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS / f"{name}.txt")], check=True)
        stamp.write_text(wanted, "utf-8")
    return folder


def version_of(server: str, environment: Path) -> str:
    """The version of the server's package there."""
    code = f"import importlib.metadata as m; print(m.version({SERVERS[server].distribution!r}))"
    command = [str(environment / "bin" / "python"), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _python() -> str:
    """What `make bench` chose, else the Python that runs this."""
    return os.environ.get("BENCH_PYTHON", sys.executable)
