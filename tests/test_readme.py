"""The README's tables agree with the code."""

import re

import pytest
from typer.main import get_command

from model_export.cli import main
from service.settings import Settings
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_configuration_table_has_every_setting_with_its_default(name: str) -> None:
    option, variable = f"--{name.replace('_', '-')}", f"STRIPMLP_{name.upper()}"
    row = re.search(rf"^\| `{option}` \| `{variable}` \| (.+?) \|", README, re.MULTILINE)
    assert row, f"no row for {option}"
    default = Settings.model_fields[name].default
    shown = {
        "default_model": "none",
        "admin_token": "none",
        "engine_cache": "none",
        "grpc_port": "none",
        "instances": "cores / threads",
        "decode_threads": "cores + 1",
        "batch_limit": "as timed",
    }
    assert row[1] == shown.get(name, f"`{default}`")


def test_export_table_has_every_option_and_no_other() -> None:
    options = {
        name for parameter in get_command(main).params for name in (*parameter.opts, *parameter.secondary_opts)
    } - {"checkpoint", "--help"}
    section = README.split("## Export your own")[1].split("\n## ")[0]
    rows = "\n".join(line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"--[a-z-]+", rows)) == options


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert all((REPOSITORY / link).exists() for link in links)
