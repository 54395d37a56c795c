"""Administration on a port of its own."""

from pathlib import Path

import httpx
import pytest

from tests.service.pictures import png
from tests.service.processes import running
from tests.service.test_keys import entry

ADMIN = {"authorization": "Bearer t"}


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_and_administration_have_a_port_of_their_own(colour_models: Path, workers: int) -> None:
    options = ["--models", str(colour_models), "--admin-port", "0", "--admin-host", "127.0.0.2"]
    with running(*options, workers=workers, STRIPMLP_ADMIN_TOKEN="t") as (process, main):
        url = next(line for line in process.messages.splitlines() if "listens on" in line).split(" and ")[1].split()[0]
        assert url.startswith("http://127.0.0.2:")
        with httpx.Client(base_url=url) as admin:
            for client, status in (main, 404), (admin, 200):
                assert client.get("/metrics").status_code == status
                assert client.post("/models/reload", headers=ADMIN).status_code == status
                assert client.post("/v2/repository/models/colours/load", headers=ADMIN).status_code in (status, 400)
                assert client.get("/healthz").status_code == 200
                assert client.get("/readyz").status_code == 200
                assert client.get("/models").status_code == 200
            for client, status in (main, 200), (admin, 404):
                assert client.post("/classify", content=png("red")).status_code == status
                assert client.get("/v2").status_code == status
                assert client.get("/").status_code == status
                assert client.get("/openapi.json").status_code == status
            assert admin.post("/models/reload").status_code == 401
            not_found = main.get("/metrics")
            assert (not_found.json()["code"], not_found.headers["content-type"]) == (
                "not_found",
                "application/problem+json",
            )


def test_on_its_own_port_metrics_need_no_key(colour_models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("alice", "s"))
    options = ["--models", str(colour_models), "--admin-port", "0", "--api-keys-file", str(keys)]
    with running(*options, STRIPMLP_ADMIN_TOKEN="t") as (process, main):
        url = next(line for line in process.messages.splitlines() if "listens on" in line).split(" and ")[1].split()[0]
        assert httpx.get(f"{url}/metrics").status_code == 200
        assert httpx.post(f"{url}/models/reload").status_code == 401
        assert main.get("/metrics").status_code == 404
        assert main.get("/models").status_code == 401
