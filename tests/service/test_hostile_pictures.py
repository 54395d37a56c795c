"""Files from fuzz corpora, sent to a service process: each is answered in time, and harms no other."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.decoding import FORMATS
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.live import classify, metric
from tests.service.pictures import encode, smooth
from tests.service.processes import Process, children, running

SECONDS = 2
"""Within which each file is answered: past them the service says 504, which fails here."""

MAX_PIXELS = 20_000_000

MEBIBYTE = 1 << 20

FILES = 448
"""In the archive."""


@dataclass(frozen=True)
class Odd:
    """An odd file, and whether Pillow can decode it."""

    name: str
    data: bytes
    decodable: bool


@pytest.fixture(scope="module")
def odd_files(shared: Path) -> list[Odd]:
    with zipfile.ZipFile(shared / "data" / "odd_images.zip") as archive:
        expected = [json.loads(line) for line in archive.read("expected.jsonl").splitlines()]
        files = [Odd(each["name"], archive.read(each["name"]), _decodable(each)) for each in expected]
    assert len(files) == FILES
    return files


def _decodable(each: dict[str, Any]) -> bool:
    accepted = each["pillow"] == "ok" and each["format"] in (*FORMATS, "MPO") and each["mode"] != "F"
    return accepted and each["size"][0] * each["size"][1] <= MAX_PIXELS


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Process, httpx.Client]]:
    with running("--max-pixels", str(MAX_PIXELS), "--timeout-ms", str(1000 * SECONDS)) as service:
        yield service


def processes_of(pid: int) -> list[int]:
    """The process and all that it has started."""
    return [pid, *(each for child in children(pid) for each in processes_of(child))]


def peak_mib(pid: int) -> float:
    """Most that a process ever had resident (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def test_every_odd_file_alone(service: tuple[Process, httpx.Client], odd_files: list[Odd]) -> None:
    _, client = service
    before = metric(client, "stripmlp_images_total")
    for each in odd_files:
        answer = client.post("/classify", content=each.data, headers={"content-type": "image/jpeg"})

        # An empty body is a request without a picture.
        allowed = {200} if each.decodable else {413, 415, 422} if each.data else {400}
        assert answer.status_code in allowed, (each.name, answer.text)
    assert metric(client, "stripmlp_images_total") - before == len(odd_files)
    assert metric(client, "stripmlp_decoder_deaths_total") == 0


def test_odd_files_among_good_ones(service: tuple[Process, httpx.Client], odd_files: list[Odd]) -> None:
    _, client = service
    deaths = metric(client, "stripmlp_decoder_deaths_total")
    good = [encode(smooth(40, 30, seed=seed)) for seed in range(4)]
    alone = [classify(client, picture).json()["results"][0]["predictions"] for picture in good]
    for start in range(0, len(odd_files), 8):
        part = odd_files[start : start + 8]
        pictures = [
            picture for pair in zip([*good, *good], [each.data for each in part], strict=False) for picture in pair
        ]

        answer = classify(client, *pictures)

        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        for place, result in enumerate(results):
            if place % 2:
                odd = part[place // 2]
                assert ("predictions" in result) is odd.decodable, (odd.name, result)
                assert odd.decodable or result["error"]["code"] in (
                    "picture_too_large",
                    "unsupported_picture",
                    "broken_picture",
                )
            else:
                # Batches of other sizes round differently in the last places.
                assert [each["label"] for each in result["predictions"]] == [
                    each["label"] for each in alone[place // 2 % len(good)]
                ]
                assert [each["probability"] for each in result["predictions"]] == pytest.approx(
                    [each["probability"] for each in alone[place // 2 % len(good)]], abs=1e-5
                )
    assert metric(client, "stripmlp_decoder_deaths_total") == deaths


def documented_mib(settings: Settings, decoders: int, models: int, size: int) -> float:
    """What a service takes at most, by the formula in docs/operations.md.

    Args:
        settings: the service's.
        decoders: its decoder processes.
        models: the size of their files, bytes.
        size: of the pictures that the largest of them takes, pixels.
    """
    page = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    formula = page.partition("**Memory**, in bytes")[2].split("```")[1].removeprefix("text")
    meanings = {
        "--max-queue-mb": settings.max_queue_mb * MEBIBYTE,
        "--max-image-mb": settings.max_image_mb * MEBIBYTE,
        "--max-queue": settings.max_queue,
        "--max-connections": settings.max_connections,
        "--max-pixels": settings.max_pixels,
        "--decode-threads": decoders,
        "the models": models,
        "size": size,
        " MiB": f" * {MEBIBYTE}",
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{SUPERSCRIPT TWO}": "**2",
    }
    for written, meant in meanings.items():
        formula = formula.replace(written, str(meant))
    return float(eval(" ".join(formula.split()))) / MEBIBYTE


def test_memory_stays_within_the_documented_bound(service: tuple[Process, httpx.Client], odd_files: list[Odd]) -> None:
    """The most that each process ever had, after the tests above or at least one request of all kinds."""
    process, client = service
    before = metric(client, "stripmlp_images_total", outcome="ok")
    for start in range(0, len(odd_files), 64):
        part = [("files", (each.name, each.data)) for each in odd_files[start : start + 64]]
        answer = client.post("/classify", files=part, headers={"X-Request-Timeout-Ms": "60000"})
        assert answer.status_code == 200, answer.text
    assert metric(client, "stripmlp_images_total", outcome="ok") - before == sum(each.decodable for each in odd_files)
    settings = Settings(max_pixels=MAX_PIXELS)
    models = [file.stat().st_size for file in settings.models.rglob("model.onnx")]
    (model,) = client.get("/models").json()["models"]
    alone, with_a_decoder = (
        documented_mib(settings, decoders, sum(models), model["artifact"]["preprocessing"]["image_size"])
        for decoders in (0, 1)
    )

    decoders = [each for child in children(process.pid) for each in children(child)]
    others = set(processes_of(process.pid)) - set(decoders)

    assert 1 <= len(decoders) <= settings.cores + 1
    assert max(map(peak_mib, decoders)) <= with_a_decoder - alone
    assert sum(map(peak_mib, others)) <= alone
    assert client.get("/readyz").status_code == 200
