"""Commands of the pages that no test can run, why, and what is checked of them instead."""

import importlib
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import yaml
from pydantic_settings import CliApp
from typer.main import get_command

from cluster.settings import ClusterSettings
from offline.classify import main as classify
from service.settings import Settings
from tests.conftest import REPOSITORY


def check_make(words: Sequence[str]) -> None:
    """The target exists, and options in `ARGS` are somewhere in the programs that they are for."""
    target = next(word for word in words if "=" not in word)
    asked = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    sources = "".join(path.read_text("utf-8") for path in (REPOSITORY / "benchmarks").rglob("*.py"))
    for option in re.findall(r"--[a-z-]+", " ".join(words)):
        parameter = option.removeprefix("--").removeprefix("no-").replace("-", "_")
        assert option == "--help" or re.search(rf"\b{parameter}\b", sources), option


def check_pip(words: Sequence[str]) -> None:
    """The extras and the file of constraints exist."""
    pyproject = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    for word in words:
        for extra in word[2:-1].split(",") if word.startswith(".[") else ():
            assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra
    assert (REPOSITORY / words[words.index("-c") + 1]).is_file()


def check_compose(words: Sequence[str]) -> None:
    """Its files exist, and so does the service that is run."""
    for option, value in pairwise(words):
        if option == "-f":
            assert (REPOSITORY / value).is_file(), value
    if "run" in words:
        services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))["services"]
        assert next(word for word in words[words.index("run") + 1 :] if not word.startswith("-")) in services


def check_docker(words: Sequence[str]) -> None:
    """The Dockerfile exists, and so does the stage that is built."""
    if words[0] != "build":
        return
    file = REPOSITORY / words[words.index("-f") + 1]
    stages = re.findall(r"^FROM .* AS (\S+)$", file.read_text("utf-8"), re.MULTILINE)
    if "--target" in words:
        assert words[words.index("--target") + 1] in stages


def check_serve(words: Sequence[str]) -> None:
    """The service takes the options."""
    CliApp.run(Settings, cli_args=list(words), cli_exit_on_error=False)


@dataclass(frozen=True)
class NotRun:
    """A kind of commands."""

    command: str
    """What they begin with."""
    reason: str
    check: Callable[[Sequence[str]], None]
    """Of the words that follow."""


def check_cluster(words: Sequence[str]) -> None:
    """The cluster takes the options."""
    CliApp.run(ClusterSettings, cli_args=list(words), cli_exit_on_error=False)


def check_kubectl(words: Sequence[str]) -> None:
    """The folder has a kustomization."""
    assert (REPOSITORY / words[words.index("-k") + 1] / "kustomization.yaml").is_file()


def check_helm(words: Sequence[str]) -> None:
    """The file of values exists."""
    assert (REPOSITORY / words[words.index("--values") + 1]).is_file()


def check_ray(words: Sequence[str]) -> None:
    """`serve run` is given an application that exists, and settings that it has; `ray start` is Ray's own."""
    if words[0] == "run":
        module, _, name = words[1].partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        ClusterSettings.model_validate(dict(word.split("=") for word in words[2:]))


def check_classify_on_ray(words: Sequence[str]) -> None:
    """The command has the options."""
    known = {option for parameter in get_command(classify).params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


NOT_RUN = (
    NotRun("strip-mlp-cluster", "serves until it is ended; tests/cluster/test_cli.py starts it", check_cluster),
    NotRun("strip-mlp-classify --ray", "starts Ray; tests/offline/test_spread.py tries it", check_classify_on_ray),
    NotRun("kubectl apply", "needs a cluster; tests/docker/test_kubernetes.py renders what it applies", check_kubectl),
    NotRun("helm", "needs a cluster", check_helm),
    NotRun("ray", "starts Ray", check_ray),
    NotRun("serve", "needs Ray to run", check_ray),
    NotRun("make", "installs, serves until it is ended, or takes many minutes", check_make),
    NotRun("pip install", "would change the environment of the tests", check_pip),
    NotRun("docker compose", "needs a Docker engine; `make compose-test` tries the containers", check_compose),
    NotRun("docker", "needs a Docker engine; `make compose-test` tries the containers", check_docker),
    NotRun("strip-mlp-serve", "serves until it is ended; tests/service/test_cli.py starts it", check_serve),
)


@dataclass(frozen=True)
class Command:
    """A line that is not run."""

    kind: NotRun
    words: Sequence[str]
    """What follows the kind's beginning."""


def command_not_run(line: str) -> Command | None:
    """The command of a line of shell, if no test can run it. Variables in front of it are left out."""
    words = shlex.split(re.sub(r"\$\(.*?\)", "", line), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    for kind in NOT_RUN:
        beginning = kind.command.split()
        if words[: len(beginning)] == beginning:
            return Command(kind, words[len(beginning) :])
    return None
