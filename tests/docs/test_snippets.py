"""Every snippet of the pages is run, and prints what they show."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.docs.not_run import command_not_run
from tests.docs.pages import PAGES, USUAL, Snippet, snippets
from tests.docs.services import GRPC, SERVICES, TOKEN, usual
from tests.docs.shown import agrees

ADDRESS = "localhost:8000"
"""Where the pages' service listens; here it is another port."""

GRPC_ADDRESS = "localhost:8001"

SNIPPETS = [snippet for page in PAGES for snippet in snippets(page)]

INTERPRETERS = {
    "bash": ["bash", "-euo", "pipefail", "-s"],
    "python": [sys.executable, "-W", "error", "-"],
    "js": ["node", "--input-type=module", "-"],
}
"""They read the snippet from standard input."""

PHOTOS = {
    "photo.jpg": "n02099601_golden_retriever.JPEG",
    "shuttle.jpg": "n04266014_space_shuttle.JPEG",
}
"""The pages' names for some of the test material's photos."""

PATIENCE = 120
"""Seconds; an export is the longest."""


@pytest.fixture(scope="module")
def usual_service() -> Iterator[httpx.Client]:
    with usual() as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where snippets are run: it has what the pages call by name, and what of a checkout they use."""
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".curlrc").write_text("silent\n")  # no progress meter, which a terminal does not show either
    shutil.copytree(REPOSITORY / "weights", tmp_path / "weights")
    shutil.copy(REPOSITORY / "weights" / "strip_mlp_nano_cifar10.pth", tmp_path / "checkpoint.pth")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return tmp_path


def lines_not_run(snippet: Snippet) -> list[str]:
    if snippet.language != "bash":
        return []
    return [line for line in snippet.source.splitlines() if command_not_run(line)]


def commands(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("snippet", [each for each in SNIPPETS if lines_not_run(each)], ids=str)
def test_commands_that_cannot_be_run_exist(snippet: Snippet) -> None:
    assert commands(snippet.source) == lines_not_run(snippet), "put what can be run into a block of its own"
    for line in lines_not_run(snippet):
        command = command_not_run(line)
        assert command
        command.kind.check(command.words)


@pytest.mark.parametrize("snippet", [each for each in SNIPPETS if not lines_not_run(each)], ids=str)
def test_snippet_prints_what_the_page_shows(
    snippet: Snippet, folder: Path, usual_service: httpx.Client, request: pytest.FixtureRequest
) -> None:
    interpreter = INTERPRETERS[snippet.language]
    for program in {interpreter[0], *re.findall(r"\b(?:curl|promtool)\b", snippet.source)}:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    used = [name for name in PHOTOS if name in snippet.source]
    if used:
        photos = request.getfixturevalue("shared") / "data" / "photos"
        for name in used:
            shutil.copy(photos / PHOTOS[name], folder / name)
    if snippet.service == USUAL:
        run(snippet, interpreter, folder, usual_service)
    else:
        with SERVICES[snippet.service]() as client:
            run(snippet, interpreter, folder, client)


def run(snippet: Snippet, interpreter: list[str], folder: Path, client: httpx.Client) -> None:
    source = snippet.source.replace(ADDRESS, client.base_url.netloc.decode())
    source = source.replace(GRPC_ADDRESS, client.headers.get(GRPC, GRPC_ADDRESS))
    printed = subprocess.run(
        interpreter,
        input=source,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CURL_HOME": str(folder),
            "COLUMNS": "80",
            "STRIPMLP_ADMIN_TOKEN": TOKEN,
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
    )
    assert printed.returncode == 0, printed.stdout
    assert agrees(snippet.shown or "", printed.stdout), f"{snippet} prints:\n{printed.stdout}"
