"""Schemathesis against the live OpenAPI document: no 5xx, and nothing that the document does not say."""

import subprocess
import sysconfig
from pathlib import Path

import httpx

from tests.service.live import live_service, metric
from tests.service.test_keys import entry

SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "st"

# The document cannot say what a picture is, so what keeps to it may still be refused.
EXCLUDED = "positive_data_acceptance"

EXAMPLES = 15
"""Of each operation, beside those that the tool makes to cover all of its schema."""

TOKEN = "token"

ADMINISTRATION = ["/models/reload", "/v2/repository/models/{model_name}/load"]
ADMINISTRATION += ["/v2/repository/models/{model_name}/unload"]


def try_document(client: httpx.Client, folder: Path, operations: int, *options: str) -> None:
    """Fails unless so many operations were tried and every answer is as the document says."""
    command = [str(SCHEMATHESIS), "run", f"{client.base_url}/openapi.json", "--checks", "all"]
    command += ["--exclude-checks", EXCLUDED, "--generation-deterministic"]
    command += ["-H", "X-Request-Timeout-Ms: 60000"]  # as 504 is right where it asks for too little
    done = subprocess.run([*command, *options], cwd=folder, check=False, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stdout
    assert f"Selected: {operations}/18" in done.stdout
    assert f"Tested: {operations}" in done.stdout


def test_no_answer_is_outside_the_document(bundled_models: Path, tmp_path: Path) -> None:
    with live_service(bundled_models, max_batch=1, admin_token=TOKEN) as client:
        try_document(client, tmp_path, 18, "--max-examples", str(EXAMPLES))

        assert client.get("/readyz").status_code == 200


def test_with_a_key_no_answer_is_outside_the_document(bundled_models: Path, tmp_path: Path) -> None:
    """Fewer examples: what is behind the key was tried without one."""
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("tester", "secret"))
    (tmp_path / "schemathesis.toml").write_text('[auth.openapi.APIKey]\napi_key = "secret"\n')
    with live_service(bundled_models, max_batch=1, admin_token=TOKEN, api_keys_file=keys) as client:
        try_document(client, tmp_path, 18, "--phases", "examples,coverage,fuzzing", "--max-examples", "2")

        assert client.get("/readyz").status_code == 200


def test_no_answer_to_an_administrator_is_outside_the_document(bundled_models: Path, tmp_path: Path) -> None:
    """The model of the document's examples comes and goes meanwhile."""
    options = ["-H", f"Authorization: Bearer {TOKEN}", "--max-examples", str(EXAMPLES)]
    with live_service(bundled_models, max_batch=1, admin_token=TOKEN) as client:
        for path in ADMINISTRATION:
            options += ["--include-path", path]
        try_document(client, tmp_path, len(ADMINISTRATION), *options)

        for path in ADMINISTRATION:
            assert metric(client, "stripmlp_requests_total", endpoint=path, code="200") >= 1
        assert metric(client, "stripmlp_requests_total", code="404") >= 1  # models that are not there
