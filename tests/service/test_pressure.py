"""Many requests at once, over a real socket: each gets its own answer, and none is forgotten."""

import asyncio
import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from PIL import Image

from service import tuning
from service.preprocessing import Pixels
from service.session import Scores, Session
from tests.service import colours
from tests.service.live import PATIENCE, await_true, live_service, metric
from tests.service.pictures import encode
from tests.service.processes import running

T = TypeVar("T")

Colour = tuple[int, int, int]

CLIENTS = 100

STORM_SECONDS = float(os.environ.get("STRIPMLP_STORM_SECONDS", "10"))

MARK: Colour = (1, 2, 3)
"""The colour on which the session is made to fail."""

HANG_UP_SHARE = 0.2


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """A connection that is kept for as many requests as the service likes."""

    def __init__(self, url: httpx.URL) -> None:
        self._url = url
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, content: bytes, path: str = "/classify", **headers: str) -> None:
        """Send a request; a GET if it has no content."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._url.host, self._url.port)
        fields = {"Host": "h", "Content-Length": str(len(content)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self._streams[1].write(f"{'POST' if content else 'GET'} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content)
        await self._streams[1].drain()

    async def receive(self) -> Answer:
        """The answer to what was sent."""
        assert self._streams is not None
        async with asyncio.timeout(2 * PATIENCE):
            head = (await self._streams[0].readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            body = await self._streams[0].readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            await self.close()
        return Answer(int(head[0].split()[1]), headers, body)

    async def ask(self, content: bytes, path: str = "/classify", **headers: str) -> Answer:
        await self.send(content, path, **headers)
        return await self.receive()

    async def close(self) -> None:
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.close()
            with suppress(ConnectionError):  # the service was first
                await writer.wait_closed()


@asynccontextmanager
async def connected(client: httpx.Client) -> AsyncIterator[Connection]:
    connection = Connection(client.base_url)
    try:
        yield connection
    finally:
        await connection.close()


async def shared_out(client: httpx.Client, tasks: Iterable[T], do: Callable[[Connection, T], Awaitable[None]]) -> None:
    """Do every task, each of the clients one after another."""
    waiting = iter(tasks)

    async def work() -> None:
        async with connected(client) as connection:
            for task in waiting:
                await do(connection, task)

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(work())


def plain(colour: Colour) -> bytes:
    return encode(Image.new("RGB", (colours.SIZE, colours.SIZE), colour))


def palette() -> list[Colour]:
    """2,025 colours, of which the model says something else each: adding the same to all channels changes nothing."""
    return [(128, green, blue) for green, blue in itertools.product(range(0, 225, 5), repeat=2)]


def probabilities(colour: Colour) -> dict[str, float]:
    """What the model has to say of it."""
    powers = np.exp(np.array(colour) / colours.LEVEL)
    return dict(zip(("red", "green", "blue"), (powers / powers.sum()).tolist(), strict=True))


def assert_said(result: Any, colour: Colour) -> None:
    said = {each["label"]: each["probability"] for each in result["predictions"]}
    assert said == pytest.approx(probabilities(colour), abs=1e-5), colour


def multipart(pictures: Sequence[bytes]) -> tuple[bytes, str]:
    """The body and its content type."""
    parts = [
        b'--next\r\nContent-Disposition: form-data; name="files"; filename="%d"\r\n\r\n%b\r\n' % (number, data)
        for number, data in enumerate(pictures)
    ]
    return b"".join(parts) + b"--next--\r\n", "multipart/form-data; boundary=next"


def test_each_of_2000_requests_gets_its_own_answer(colour_models: Path) -> None:
    wanted = palette()[:2000]
    assert len({tuple(round(each, 4) for each in probabilities(colour).values()) for colour in wanted}) == 2000
    answered: list[Colour] = []

    async def ask(connection: Connection, colour: Colour) -> None:
        answer = await connection.ask(plain(colour))
        assert answer.status == 200, answer.body
        (result,) = answer.json["results"]
        assert_said(result, colour)
        answered.append(colour)

    with live_service(colour_models, batch_limit=16) as client:
        asyncio.run(shared_out(client, wanted, ask))

        assert sorted(answered) == sorted(wanted)
        assert metric(client, "stripmlp_images_total", outcome="ok") == 2000
        assert metric(client, "stripmlp_batch_size_sum") == 2000
        assert metric(client, "stripmlp_batch_size_count") < 2000  # else nothing could have been mixed up


def test_neighbours_of_poison_are_right_every_time(colour_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Session.run

    def fail_on_mark(session: Session, pixels: Pixels) -> Scores:
        if (pixels[:, 0, 0] == MARK).all(axis=-1).any():
            raise RuntimeError("poisoned")
        return run(session, pixels)

    monkeypatch.setattr(Session, "run", fail_on_mark)
    chance = random.Random(1)
    good = palette()
    requests: list[list[Colour | None]] = [
        chance.sample([*chance.sample(good, chance.randint(1, 4)), MARK, None], chance.randint(1, 3))
        + chance.sample(good, 1)
        for _ in range(400)
    ]
    poison = {kind: sum(request.count(kind) for request in requests) for kind in (None, MARK)}
    assert min(poison.values()) > 100

    async def ask(connection: Connection, request: list[Colour | None]) -> None:
        body, content_type = multipart([plain(each) if each else b"no picture" for each in request])
        answer = await connection.ask(body, Content_Type=content_type)
        assert answer.status == 200, answer.body
        results = answer.json["results"]
        assert len(results) == len(request)
        for result, each in zip(results, request, strict=True):
            if each is None:
                assert result["error"]["code"] == "unsupported_picture"
            elif each == MARK:
                assert result["error"]["code"] == "inference_failed"
            else:
                assert_said(result, each)

    with live_service(colour_models, batch_limit=16) as client:
        asyncio.run(shared_out(client, requests, ask))

        assert metric(client, "stripmlp_images_total", outcome="invalid") == poison[None]
        assert metric(client, "stripmlp_images_total", outcome="failed") == poison[MARK]
        pictures = sum(len(request) for request in requests)
        assert metric(client, "stripmlp_images_total", outcome="ok") == pictures - sum(poison.values())


def test_no_request_fails_while_models_are_reloaded_20_times(
    colour_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SECONDS", 0)  # how fast they are is of no interest here
    admin = {"Authorization": "Bearer secret"}
    colours.save_served(colour_models, labels=("1", "b", "c"))
    seen: Counter[int] = Counter()
    picture = plain((255, 0, 0))

    async def scenario(client: httpx.Client) -> None:
        over = asyncio.Event()
        answered = asyncio.Condition()

        async def load() -> None:
            async with connected(client) as connection:
                while not over.is_set():
                    answer = await connection.ask(picture)
                    assert answer.status == 200, answer.body
                    version = answer.json["model"]["version"]
                    assert answer.json["results"][0]["predictions"][0]["label"] == str(version)
                    async with answered:
                        seen[version] += 1
                        answered.notify_all()

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(load())
            for version in range(1, 22):
                if version > 1:
                    colours.save_served(colour_models, version=version, labels=(str(version), "b", "c"))
                    reloaded = await asyncio.to_thread(client.post, "/models/reload", headers=admin)
                    assert [model["version"] for model in reloaded.json()["models"]] == [version], reloaded.text
                async with asyncio.timeout(PATIENCE), answered:
                    while seen[version] < 16:
                        await answered.wait()
            over.set()

    with live_service(colour_models, max_batch=2, admin_token="secret") as client:
        asyncio.run(scenario(client))

        assert set(seen) == set(range(1, 22))
        assert metric(client, "stripmlp_images_total") == seen.total()
        assert metric(client, "stripmlp_images_total", outcome="ok") == seen.total()


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_when_the_service_ends_under_load(colour_models: Path, workers: int) -> None:
    """As long as its clients stop asking when it is no longer ready, as a load balancer makes them."""
    sent, answered = itertools.count(), itertools.count()
    pictures = [plain(colour) for colour in palette()[:50]]
    options = ("--models", str(colour_models), "--max-batch", "4", "--drain-seconds", "2")

    with running(*options, workers=workers) as (process, client):

        async def scenario() -> None:
            unready = asyncio.Event()
            busy = asyncio.Semaphore(0)

            async def load(number: int) -> None:
                async with connected(client) as connection:
                    while not unready.is_set():
                        next(sent)
                        answer = await connection.ask(pictures[number])
                        assert answer.status == 200, answer.body
                        next(answered)
                        busy.release()

            async def watch() -> None:
                async with connected(client) as connection:
                    while (await connection.ask(b"", "/readyz")).status == 200:  # noqa: ASYNC110 - it is what they do
                        await asyncio.sleep(0.5)  # load balancers ask now and then
                    await asyncio.sleep(0.5)  # and take a moment to act
                unready.set()

            async with asyncio.TaskGroup() as group:
                for number in range(len(pictures)):
                    group.create_task(load(number))
                for _ in range(500):
                    await busy.acquire()
                process.signal(signal.SIGTERM)
                group.create_task(watch())

        asyncio.run(scenario())
        client.close()

        assert process.wait() == 0
    assert next(sent) == next(answered) > 500
    assert "Traceback" not in process.messages


def test_a_storm_leaves_no_picture_uncounted(colour_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_seconds, limit = 0.02, 2
    times_capacity = 3
    run = Session.run

    def slow(session: Session, pixels: Pixels) -> Scores:
        time.sleep(run_seconds)  # the work that a larger model would do
        return run(session, pixels)

    monkeypatch.setattr(Session, "run", slow)
    chance = random.Random(1)
    pictures = [plain(colour) for colour in palette()[:50]]
    statuses: Counter[int] = Counter()

    async def request(client: httpx.Client) -> None:
        headers = chance.choice([{}, *({"X_Request_Timeout_Ms": str(each)} for each in (50, 200, 1000, 10_000))])
        async with connected(client) as connection:
            await connection.send(chance.choice(pictures), **headers)
            if chance.random() < HANG_UP_SHARE:
                await asyncio.sleep(chance.uniform(0, 0.1))  # the client's patience
                statuses[0] += 1
                return
            answer = await connection.receive()
        statuses[answer.status] += 1
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1

    async def storm(client: httpx.Client) -> None:
        loop = asyncio.get_running_loop()
        pause = run_seconds / limit / times_capacity
        start = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(STORM_SECONDS / pause)):
                await asyncio.sleep(start + number * pause - loop.time())
                group.create_task(request(client))

    with live_service(
        colour_models, batch_limit=limit, instances=1, decode_threads=2, max_queue=64, max_images=1
    ) as client:
        impatient = client.post("/classify", content=pictures[0], headers={"X-Request-Timeout-Ms": "1"})
        statuses[impatient.status_code] += 1  # later on such requests are refused, with luck every one
        asyncio.run(storm(client))

        await_true(lambda: metric(client, "stripmlp_images_total") >= statuses.total())
        assert metric(client, "stripmlp_images_total") == statuses.total()
        assert metric(client, "stripmlp_queue_images") == 0
        assert metric(client, "stripmlp_in_flight_requests") == 1  # the one for the metrics
        assert metric(client, "stripmlp_images_total", outcome="failed") == 0
        assert metric(client, "stripmlp_images_total", outcome="invalid") == 0
        assert client.get("/readyz").status_code == 200
        for status, outcome in ((200, "ok"), (429, "refused"), (504, "expired")):
            assert metric(client, "stripmlp_images_total", outcome=outcome) >= statuses[status] > 0
        assert metric(client, "stripmlp_images_total", outcome="cancelled") > 0
    assert statuses.keys() == {0, 200, 429, 504}
