"""The project's compose file, run for real in a copy of the project."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.service.live import PATIENCE

EXPORT_USER = 1000
"""Who the exporter is in docker-compose.yml where nothing else is said."""


def require_docker() -> None:
    """Fail where no Docker engine with Compose answers: who runs these tests wants them run."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if shutil.which("docker") is None or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.fail(f"no Docker engine with Compose: `{' '.join(command)}` fails")


def copy_project(folder: Path) -> None:
    """What git tracks or would track, so that containers can write into it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in listed.rstrip("\0").split("\0"):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)


def wheels() -> str | None:
    """Where this machine's pip finds a torch that the package index lacks, if there is such a folder."""
    folder = os.environ.get("PIP_FIND_LINKS", "")
    return folder if folder and any(Path(folder).glob("torch-*.whl")) else None


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


class Compose:
    """`docker compose` in a copy of the project, with ports, images and volumes of its own.

    Args:
        folder: the copy.
        checkpoints: what the exporter may read.
    """

    def __init__(self, folder: Path, checkpoints: Path) -> None:
        self.folder = folder
        self.project = f"strip-mlp-test-{os.getpid()}"
        self._ports = {name: free_port() for name in ("SERVICE_PORT", "PROMETHEUS_PORT")}
        self._files = ["-f", "docker-compose.yml"]
        self._environment = os.environ | self._ports | {"TAG": self.project, "CHECKPOINTS": str(checkpoints)}
        models = folder / "weights" / "models"
        if os.getuid() == 0:
            os.chown(models, EXPORT_USER, EXPORT_USER)
        else:
            self._environment["EXPORT_USER"] = f"{os.getuid()}:{os.getgid()}"
        if local := wheels():
            self._environment["TORCH_INDEX"] = ""
            contexts = {"build": {"additional_contexts": {"wheels": local}}}
            (folder / "wheels.yml").write_text(yaml.safe_dump({"services": {"export": contexts}}))
            self._files += ["-f", "wheels.yml"]

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run `docker compose` to its end; what it says on standard output."""
        command = ["docker", "compose", "--project-name", self.project, *self._files, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, check=False, capture_output=True, text=True, timeout=600
        )
        assert not check or done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def inspect(self, service: str) -> Any:
        """What the engine knows of a service's container."""
        (container,) = json.loads(docker("inspect", self("ps", "--all", "--quiet", service).strip()))
        return container

    def image(self, name: str) -> str:
        """The image of this name that was built here."""
        return f"strip-mlp-serving/{name}:{self.project}"

    def client(self, service: str) -> httpx.Client:
        """Of the port that a service publishes."""
        port = self._ports[f"{service.upper()}_PORT"]
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)

    def end(self) -> None:
        """Remove containers, volumes and images; the engine still has the images' layers in its build cache."""
        self("--profile", "export", "down", "--volumes", "--timeout", "5", check=False)
        images = [self.image(name) for name in ("service", "export")]
        subprocess.run(["docker", "image", "rm", "--force", *images], check=False, capture_output=True)


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def composed(folder: Path, checkpoints: Path) -> Iterator[Compose]:
    """Everything that was started or built is removed in the end."""
    require_docker()
    copy_project(folder)
    compose = Compose(folder, checkpoints)
    try:
        yield compose
    finally:
        compose.end()
