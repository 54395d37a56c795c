"""The images, built and started for real. `make compose-test` runs these; they need a Docker engine."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import httpx
import pytest

from tests.docker.compose import EXPORT_USER, Compose, composed, docker
from tests.docker.prometheus import Prometheus
from tests.service.live import PATIENCE, await_true

pytestmark = pytest.mark.compose

MOST_BYTES = 450e6

STARTED = ("service", "prometheus")
"""All but Grafana, whose image has to come from a registry."""

LONG = 120
"""Seconds in which a container starts again, or a scrape is seen, on a busy machine."""

BUNDLED = "strip_mlp_nano_cifar10"

CLIENTS = 6


@pytest.fixture(scope="module")
def composed_project(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Compose]:
    with composed(tmp_path_factory.mktemp("project"), shared / "golden") as compose:
        compose("build", "service")
        yield compose


@pytest.fixture
def compose(composed_project: Compose) -> Compose:
    """The service and Prometheus, healthy, whatever a test before has done to them."""
    composed_project("up", "--detach", "--wait", *STARTED)
    return composed_project


@pytest.fixture
def client(compose: Compose) -> Iterator[httpx.Client]:
    with compose.client("service") as client:
        yield client


@pytest.fixture(scope="module")
def photos(shared: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((shared / "data" / "photos").glob("*.JPEG"))]


def readiness(client: httpx.Client) -> int | None:
    """The status of /readyz; None if nothing takes the request."""
    try:
        return client.get("/readyz").status_code
    except httpx.TransportError:
        return None


def inside(compose: Compose, program: str) -> str:
    """What a Python program in the service's container prints."""
    return compose("exec", "-T", "service", "python", "-c", program).strip()


def test_photos_are_classified_through_the_published_port(client: httpx.Client, photos: list[bytes]) -> None:
    files = [("files", photo) for photo in photos]

    answer = client.post("/classify", files=files, params={"model": BUNDLED})

    assert answer.status_code == 200
    assert len(answer.json()["results"]) == len(photos) > 30
    assert all(result["predictions"] for result in answer.json()["results"])


def test_prometheus_scrapes_the_service(compose: Compose, client: httpx.Client, photos: list[bytes]) -> None:
    assert client.post("/classify", content=photos[0], params={"model": BUNDLED}).status_code == 200

    with compose.client("prometheus") as asked:
        prometheus = Prometheus(str(asked.base_url))
        await_true(lambda: bool(prometheus.query('up{job="strip-mlp"} == 1')), LONG)
        await_true(lambda: bool(prometheus.query('stripmlp_images_total{outcome="ok"} > 0')), LONG)
        prometheus.close()


def test_the_image_holds_what_serving_needs_and_no_more(compose: Compose) -> None:
    program = """
import json, os, shutil
from importlib.metadata import distributions, version
venv = "/opt/venv/lib/python3.11/site-packages"
print(json.dumps({
    "packages": [each.name.lower() for each in distributions(path=[venv])],
    "version": version("strip-mlp-serving"),
    "compilers": [name for name in ("cc", "gcc", "g++", "clang", "ld", "make") if shutil.which(name)],
    "rest": [path for path in ("/root/.cache", "/src", "/wheels", venv + "/tests") if os.path.exists(path)],
    "own": sorted(os.listdir(venv + "/model_export")),
}))"""
    image = compose.image("service")
    # As root, who sees every folder.
    found = json.loads(docker("run", "--rm", "--user", "0", "--entrypoint", "python", image, "-c", program))

    assert {"onnxruntime", "fastapi", "opentelemetry-sdk"} <= set(found["packages"])
    assert not {"torch", "onnx", "pip", "setuptools", "pytest", "onnxruntime-gpu"} & set(found["packages"])
    assert not found["compilers"]
    assert not found["rest"]
    assert found["own"] == ["__init__.py", "__pycache__"]  # of the exporter, nothing
    ((size, labels),) = [
        (each["Size"], each["Config"]["Labels"]) for each in json.loads(docker("image", "inspect", image))
    ]
    assert size <= MOST_BYTES
    said = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert said["version"] == found["version"]
    assert {"title", "description", "revision", "base.name"} <= said.keys()


def test_the_container_can_do_little(compose: Compose) -> None:
    assert inside(compose, "import os; print(os.getuid(), os.getgid())") == "10001 10001"
    status = dict(
        line.split(":", 1) for line in inside(compose, "print(open('/proc/self/status').read())").splitlines()
    )
    assert int(status["CapBnd"], 16) == 0  # what it could ever get
    assert status["NoNewPrivs"].strip() == "1"
    write = "import errno\ntry: open('{}/x', 'w')\nexcept OSError as error: print(errno.errorcode[error.errno])"
    for folder in "/", "/models", "/opt/venv", "/usr/local/bin":
        assert inside(compose, write.format(folder)) == "EROFS"
    assert inside(compose, write.format("/tmp")) == ""


def test_the_image_serves_its_model_by_itself(compose: Compose, photos: list[bytes]) -> None:
    """And drains as process 1, without an init."""
    options = ["--read-only", "--cap-drop", "ALL", "--publish", "127.0.0.1::8000"]
    container = docker("run", "--detach", *options, compose.image("service")).strip()
    try:
        with httpx.Client(base_url=f"http://{docker('port', container, '8000').strip()}", timeout=PATIENCE) as client:
            await_true(lambda: readiness(client) == 200, LONG)
            assert client.post("/classify", content=photos[0]).json()["model"] == {"name": BUNDLED, "version": 1}
        await_true(lambda: docker("inspect", "-f", "{{.State.Health.Status}}", container).strip() == "healthy", LONG)
        docker("stop", "--time", str(PATIENCE), container)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container).strip() == "0"
    finally:
        docker("rm", "--force", container)


def test_every_service_has_limits_and_no_port_but_on_loopback(compose: Compose) -> None:
    services = json.loads(compose("--profile", "export", "config", "--format", "json"))["services"]

    assert services.keys() == {"service", "prometheus", "grafana", "export"}
    for name, service in services.items():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert service.get("restart") == (None if name == "export" else "unless-stopped")
        assert all(volume["type"] in ("bind", "volume") and volume["source"] for volume in service["volumes"])
    for name in STARTED:
        container = compose.inspect(name)
        ports: dict[str, Any] = container["NetworkSettings"]["Ports"]
        assert {binding["HostIp"] for bindings in ports.values() for binding in bindings or []} == {"127.0.0.1"}
        assert container["HostConfig"]["NanoCpus"] > 0
        assert container["HostConfig"]["Memory"] > 0


def test_the_gpu_file_asks_for_a_gpu_and_its_runtime(compose: Compose) -> None:
    merged = json.loads(compose("-f", "docker/compose.gpu.yml", "config", "--format", "json"))["services"]["service"]

    assert merged["build"]["args"]["RUNTIME"] == "gpu"
    assert merged["environment"]["STRIPMLP_DEVICE"] == "cuda"
    (device,) = merged["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert merged["read_only"]


def test_an_exported_checkpoint_is_served_without_a_restart(
    compose: Compose, client: httpx.Client, photos: list[bytes]
) -> None:
    compose("build", "export")
    started = compose.inspect("service")["State"]["StartedAt"]
    name = "golden_mixed"

    compose("run", "--rm", "-T", "export", "mixed_40.pth", "--name", name)

    await_true(lambda: client.post("/classify", content=photos[0], params={"model": name}).status_code == 200, LONG)
    answer = client.post("/classify", content=photos[0], params={"model": name}).json()
    assert answer["model"] == {"name": name, "version": 1}
    assert len(answer["results"][0]["predictions"]) == 5
    assert compose.inspect("service")["State"]["StartedAt"] == started
    models = compose.folder / "weights" / "models"
    assert (models / name / "1" / "model.onnx").stat().st_uid == models.stat().st_uid
    assert models.stat().st_uid in (EXPORT_USER, Path.home().stat().st_uid)


def test_a_service_that_is_killed_is_started_again(compose: Compose, client: httpx.Client, photos: list[bytes]) -> None:
    before = compose.inspect("service")

    # All but the init, which a signal from within cannot kill.
    kill = """
import os
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        os.kill(int(name), 9)"""
    compose("exec", "-T", "service", "python", "-c", kill, check=False)

    await_true(lambda: compose.inspect("service")["RestartCount"] == before["RestartCount"] + 1, LONG)
    await_true(lambda: compose.inspect("service")["State"]["Health"]["Status"] == "healthy", LONG)
    assert compose.inspect("service")["State"]["StartedAt"] != before["State"]["StartedAt"]
    assert client.post("/classify", content=photos[0], params={"model": BUNDLED}).status_code == 200


@contextmanager
def half_sent(client: httpx.Client, photo: bytes) -> Iterator[HTTPConnection]:
    """A connection that has sent a request but for the second half of its body."""
    connection = HTTPConnection(client.base_url.host, client.base_url.port, timeout=PATIENCE)
    connection.putrequest("POST", f"/classify?model={BUNDLED}")
    connection.putheader("Content-Type", "image/jpeg")
    connection.putheader("Content-Length", str(len(photo)))
    connection.endheaders(photo[: len(photo) // 2])
    try:
        yield connection
    finally:
        connection.close()


def test_a_stop_under_load_fails_no_accepted_request(
    compose: Compose, client: httpx.Client, photos: list[bytes]
) -> None:
    """Neither those that come while the service drains, nor one whose body ends after listening has ended."""
    answers: SimpleQueue[int | str] = SimpleQueue()
    enough = Event()

    def load(photo: bytes) -> None:
        with compose.client("service") as own:
            while not enough.is_set():
                try:
                    answers.put(own.post("/classify", content=photo, params={"model": BUNDLED}).status_code)
                except httpx.TransportError as error:
                    answers.put(repr(error))
                    return

    def await_answers(count: int) -> None:
        for _ in range(count):
            assert answers.get(timeout=PATIENCE) == 200

    with ThreadPoolExecutor(CLIENTS + 1) as pool, half_sent(client, photos[0]) as late:
        loads = [pool.submit(load, photo) for photo in photos[:CLIENTS]]
        try:
            await_answers(3 * CLIENTS)
            stopped = pool.submit(compose, "stop", "service")
            await_true(lambda: readiness(client) == 503)
            await_answers(answers.qsize() + 3 * CLIENTS)
        finally:
            enough.set()
        for each in loads:
            each.result()
        await_answers(answers.qsize())
        await_true(lambda: readiness(client) is None)
        late.send(photos[0][len(photos[0]) // 2 :])
        assert late.getresponse().status == 200
        stopped.result()

    state = compose.inspect("service")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
