"""The service on a real cluster of two nodes: under load, as nodes die, replicas come and go, and models change."""

import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.two_nodes import TwoNodes, two_nodes
from tests.docker.compose import free_port
from tests.service import colours
from tests.service.live import await_true
from tests.service.pictures import encode, png

CLIENTS = 4

PATIENCE = 120
"""Seconds for Ray to start what is missing."""

RIGHT = {"red": png("red"), "blue": png("blue")}

LARGE = {label: encode(Image.new("RGB", (3000, 3000), label)) for label in RIGHT}
"""They keep a service at work for longer than they keep the client, so that there are always several in work."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    colours.save_served(folder)
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return int(free_port())


@pytest.fixture(scope="module")
def cluster(models: Path, port: int) -> Iterator[TwoNodes]:
    with two_nodes(models=models, port=port, poll_seconds=0, admin_token="secret", replicas=1) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: TwoNodes, port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        yield client


class Load:
    """Clients that send pictures until they are told to stop, and try again what is not answered."""

    def __init__(self, pictures: Mapping[str, bytes]) -> None:
        self._pictures = pictures
        self.statuses: Counter[int] = Counter()
        """Of all answers; 0 is a connection that broke."""
        self.wrong: list[str] = []
        self.over = threading.Event()

    def go_on(self, url: str) -> None:
        while not self.over.is_set():
            for label, picture in self._pictures.items():
                status = 0
                with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                    try:
                        answer = client.post("/classify", content=picture, headers={"Content-Type": "image/png"})
                    except httpx.TransportError:
                        pass
                    else:
                        status = answer.status_code
                        if status == 200 and answer.json()["results"][0]["predictions"][0]["label"] != label:
                            self.wrong.append(answer.text)
                self.statuses[status] += 1


@contextmanager
def load(client: httpx.Client, pictures: Mapping[str, bytes] = RIGHT) -> Iterator[Load]:
    load = Load(pictures)
    threads = [threading.Thread(target=load.go_on, args=(str(client.base_url),)) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        before = load.statuses[200]
        await_true(lambda: load.statuses[200] > before + 20)
        yield load
    finally:
        load.over.set()
        for thread in threads:
            thread.join()


def await_more(load: Load, count: int = 100) -> None:
    """Until so many more pictures were answered."""
    enough = load.statuses[200] + count
    await_true(lambda: load.over.wait(0.05) or load.statuses[200] >= enough, PATIENCE)


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """As the administrator; again if Ray's proxy gave it to a replica that hangs."""
    for _ in range(5):
        with suppress(httpx.ReadTimeout):
            return client.request(method, path, headers={"Authorization": "Bearer secret"}, timeout=20)
    raise AssertionError(f"no answer from {path}")


def replicas_with(client: httpx.Client, name: str, **labels: str) -> set[str]:
    """Those of whose metrics one with this name and these labels is more than 0."""
    return {
        sample.labels["replica"]
        for family in text_string_to_metric_families(ask(client, "GET", "/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items() and sample.value > 0
    }


def running(cluster: TwoNodes, replicas: int, nodes: int) -> Callable[[], bool]:
    def as_asked() -> bool:
        found = cluster.nodes()
        return len(found) == replicas and len(set(found)) == nodes

    return as_asked


def test_everything_is_as_without_a_cluster(client: httpx.Client) -> None:
    answer = client.post("/classify", files=[("files", ("a.png", RIGHT["red"])), ("files", ("b", b"no picture"))])
    assert answer.status_code == 200
    red, other = answer.json()["results"]
    assert red["predictions"][0]["label"] == "red"
    assert other["error"]["code"] == "unsupported_picture"
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/v2/models/colours").json()["name"] == "colours"
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64encode(RIGHT["blue"]).decode()]}
    inferred = client.post("/v2/models/colours/infer", json={"inputs": [tensor]})
    probabilities = {each["name"]: each["data"] for each in inferred.json()["outputs"]}["probabilities"]
    assert max(probabilities) == probabilities[colours.artifact().labels.index("blue")]
    assert "<title>" in client.get("/").text
    assert client.post("/classify", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    refused = ask(client, "POST", "/v2/repository/models/colours/unload")
    assert refused.status_code == 400
    assert "one of several processes" in refused.json()["error"]


def test_another_port_is_refused_where_ray_serve_listens(cluster: TwoNodes, client: httpx.Client, port: int) -> None:
    refusal = cluster.deploy(port=int(free_port()))

    assert refusal is not None
    assert f"Ray Serve listens on 127.0.0.1 port {port} here already" in refusal
    assert client.get("/readyz").status_code == 200


def test_ray_starts_more_replicas_under_load_and_they_end_without_harm(cluster: TwoNodes, client: httpx.Client) -> None:
    assert cluster.deploy(replicas=1, max_replicas=3, ongoing_requests=1) is None
    with load(client, LARGE) as sent:
        await_true(running(cluster, 3, nodes=2), PATIENCE)
        await_more(sent)
        await_true(lambda: len(replicas_with(client, "stripmlp_images_total", outcome="ok")) == 3, PATIENCE)
        cluster.scale(1)
        await_more(sent)
        await_true(running(cluster, 1, nodes=1), PATIENCE)
        await_more(sent)

    assert set(sent.statuses) == {200}
    assert not sent.wrong


def test_reloading_concerns_every_replica(
    cluster: TwoNodes, client: httpx.Client, models: Path, tmp_path: Path
) -> None:
    cluster.scale(3)
    colours.save_served(tmp_path, version=2)
    (tmp_path / "colours" / "2").rename(models / "colours" / "2")

    answer = ask(client, "POST", "/models/reload")

    assert answer.json()["models"][0]["version"] == 2  # of the replica that was asked
    await_true(lambda: len(replicas_with(client, "stripmlp_model_info", version="2")) == 3, PATIENCE)

    assert not replicas_with(client, "stripmlp_model_info", version="1")
    assert {client.post("/classify", content=RIGHT["red"]).json()["model"]["version"] for _ in range(10)} == {2}


def test_a_new_version_is_found_by_every_replica(
    cluster: TwoNodes, client: httpx.Client, models: Path, tmp_path: Path
) -> None:
    assert cluster.deploy(replicas=3, poll_seconds=0.1) is None
    await_true(lambda: len(replicas_with(client, "stripmlp_ready")) == 3, PATIENCE)
    colours.save_served(tmp_path, version=3)

    (tmp_path / "colours" / "3").rename(models / "colours" / "3")

    await_true(lambda: len(replicas_with(client, "stripmlp_model_info", version="3")) == 3, PATIENCE)


def test_a_replica_that_hangs_is_left_out(cluster: TwoNodes, client: httpx.Client) -> None:
    cluster.scale(3)
    await_true(lambda: len(replicas_with(client, "stripmlp_ready")) == 3, PATIENCE)
    with cluster.hung() as name:
        assert ask(client, "POST", "/models/reload").status_code == 200
        found = replicas_with(client, "stripmlp_ready")

    assert len(found) == 2
    assert name not in found


def test_a_node_dies_and_its_replicas_are_started_on_another(cluster: TwoNodes, client: httpx.Client) -> None:
    cluster.scale(3)
    await_true(running(cluster, 3, nodes=2), PATIENCE)
    before = set(cluster.nodes())
    with load(client) as sent:
        cluster.kill_node()
        await_more(sent)
        cluster.add_node()
        await_true(lambda: running(cluster, 3, nodes=2)() and set(cluster.nodes()) != before, PATIENCE)
        await_more(sent)  # what was on its way to the node that died may end only now
        broken = sum(count for status, count in sent.statuses.items() if status != 200)
        await_more(sent)

    assert not sent.wrong
    assert set(sent.statuses) <= {0, 200, 429, 500, 503}
    assert sum(count for status, count in sent.statuses.items() if status != 200) == broken
    await_true(lambda: len(replicas_with(client, "stripmlp_ready")) == 3, PATIENCE)
