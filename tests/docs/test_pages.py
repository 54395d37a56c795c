"""The pages' tables agree with the code, and their links lead somewhere."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from model_export.cli import main
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.docs.pages import PAGES
from tests.service.live import live_service

OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
EXPORT = (REPOSITORY / "docs" / "export.md").read_text("utf-8")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_configuration_table_has_every_setting_with_its_default(name: str) -> None:
    option, variable = f"--{name.replace('_', '-')}", f"STRIPMLP_{name.upper()}"
    row = re.search(rf"^\| `{option}` \| `{variable}` \| (.+?) \|", OPERATIONS, re.MULTILINE)
    assert row, f"no row for {option}"
    default = Settings.model_fields[name].default
    shown = {
        "default_model": "none",
        "admin_token": "none",
        "api_keys_file": "none",
        "admin_port": "none",
        "admin_host": "`--host`",
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
    section = EXPORT.split("## Options")[1].split("\n## ")[0]
    rows = "\n".join(line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"--[a-z-]+", rows)) == options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_file_exists(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text("utf-8"))
    assert all((page.parent / link).exists() for link in links), links


def test_the_api_page_has_every_route(bundled_models: Path) -> None:
    with live_service(bundled_models, max_batch=1) as client:
        paths = client.get("/openapi.json").json()["paths"]
    page = (REPOSITORY / "docs" / "api.md").read_text("utf-8")
    for path, methods in paths.items():
        if path.startswith("/v2/models"):  # the page has them in a short form
            continue
        for method in methods:
            assert f"`{method.upper()} {path}`" in page or f"`…{path[path.rindex('/') :]}`" in page, path
    sections = re.split(r"^## ", page, flags=re.MULTILINE)
    for section in sections[1:]:
        heading = re.match(r"`(\w+) (\S+)`", section)
        if heading:
            statuses = set(re.findall(r"^### (\d+)", section, re.MULTILINE))
            assert statuses == paths[heading[2]][heading[1].lower()]["responses"].keys(), heading[2]
