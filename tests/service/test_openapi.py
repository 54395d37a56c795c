"""Schemathesis against the live OpenAPI document: no 5xx, and nothing that the document does not say."""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.service.live import live_service
from tests.service.test_keys import entry

SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "st"

# The document cannot say what a picture is, so what keeps to it may still be refused.
EXCLUDED = "positive_data_acceptance"

EXAMPLES = 15
"""Of each operation, beside those that the tool makes to cover all of its schema."""


@pytest.mark.parametrize("keys", [False, True])
def test_no_answer_is_outside_the_document(bundled_models: Path, tmp_path: Path, *, keys: bool) -> None:
    (tmp_path / "keys.toml").write_text(entry("tester", "secret"))
    (tmp_path / "schemathesis.toml").write_text('[auth.openapi.APIKey]\napi_key = "secret"\n' if keys else "")
    options = {"api_keys_file": tmp_path / "keys.toml"} if keys else {}
    with live_service(bundled_models, max_batch=1, admin_token="token", **options) as client:
        command = [str(SCHEMATHESIS), "run", f"{client.base_url}/openapi.json", "--checks", "all"]
        command += ["--exclude-checks", EXCLUDED, "--max-examples", str(EXAMPLES), "--generation-deterministic"]
        command += ["-H", "X-Request-Timeout-Ms: 60000"]  # as 504 is right where it asks for too little
        command += ["--phases", "examples,coverage"] if keys else []
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300)

        assert done.returncode == 0, done.stdout
        assert "18/18" in done.stdout
        assert client.get("/readyz").status_code == 200
