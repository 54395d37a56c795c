"""`strip-mlp-classify`, run as people run it."""

import json
import os
import pty
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from tests.offline.conftest import Command, command, environment
from tests.service import colours
from tests.service.live import PATIENCE, live_service
from tests.service.live import classify as ask
from tests.service.pictures import png

LABELS = ("red", "green", "blue")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def best(rows: list[dict[str, Any]]) -> list[str]:
    return [row["predictions"][0]["label"] for row in rows]


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [Path(row["path"]).name for row in rows]


def test_a_folder_is_classified_in_order(classify: Command, pictures: Path) -> None:
    done = classify(pictures)

    assert done.returncode == 0, done.stderr
    rows = lines(done.stdout)
    assert names(rows) == [f"{number}.png" for number in (0, 1, 2, 6, 7, 8, 3, 4, 5)]
    assert best(rows) == [LABELS[int(name[0]) % 3] for name in names(rows)]
    assert all(row["model"] == {"name": "colours", "version": 1} for row in rows)
    assert done.stderr == "9 classified\n"


def test_the_answers_are_the_services(classify: Command, models: Path, pictures: Path) -> None:
    files = sorted(pictures.glob("*.png"))
    with live_service(models) as client:
        results = ask(client, *(file.read_bytes() for file in files), top_k=2).json()["results"]

    rows = lines(classify(*files, "--top-k", 2).stdout)

    assert [row["predictions"] for row in rows] == [result["predictions"] for result in results]


def test_what_cannot_be_classified_is_a_row_with_its_error(classify: Command, tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(png("red")[:60])
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "large.png").write_bytes(png("red") + b"\0" * (20 << 20))
    given = ["text.png", "cut.png", "pipe.png", "none.png", "large.png"]

    arguments = [pictures / "0.png", *(tmp_path / name for name in given), pictures / "1.png"]
    done = classify(*arguments)

    rows = lines(done.stdout)
    assert [row.get("error", {}).get("code") for row in rows] == [
        None,
        "unsupported_picture",
        "broken_picture",
        "unreadable_file",
        "unreadable_file",
        "picture_too_large",
        None,
    ]
    assert best([rows[0], rows[-1]]) == ["red", "green"]
    assert done.returncode == 0
    assert done.stderr == (
        "2 classified, 1 broken_picture, 1 picture_too_large, 2 unreadable_file, 1 unsupported_picture\n"
    )
    assert classify(*arguments, "--strict").returncode == 1
    assert classify(pictures, "--strict").returncode == 0


@pytest.mark.parametrize(("option", "end"), [((), "\n"), (("--null",), "\0")])
def test_paths_come_on_standard_input(classify: Command, pictures: Path, option: tuple[str, ...], end: str) -> None:
    given = end.join(str(pictures / f"{number}.png") for number in (2, 0))
    assert names(lines(classify("-", *option, given=given).stdout)) == ["2.png", "0.png"]
    assert names(lines(classify("-", *option, given=given + end).stdout)) == ["2.png", "0.png"]


def test_patterns_reach_into_folders(classify: Command, pictures: Path) -> None:
    assert names(lines(classify(f"{pictures}/**/[3-7].png").stdout)) == ["6.png", "7.png", "3.png", "4.png", "5.png"]
    done = classify(f"{pictures}/*.jpg")
    assert done.returncode == 1
    assert "no file matches" in done.stderr


def test_names_of_no_encoding_and_of_several_lines_are_told(classify: Command, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"\xff.png", b"a\nb.png", "größe.png".encode()):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(png("red"))

    for kind in ("jsonl", "csv", "parquet"):
        done = classify(folder, "--output", tmp_path / f"out.{kind}")
        assert done.returncode == 0, done.stderr
    rows = lines((tmp_path / "out.jsonl").read_text("utf-8"))
    assert sorted(names(rows)) == sorted(["\\xff.png", "a\\nb.png", "größe.png"])
    assert best(rows) == ["red"] * 3


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_resumed_output_is_as_if_never_interrupted(
    classify: Command, tmp_path: Path, pictures: Path, kind: str
) -> None:
    (pictures / "4b.png").write_text("no picture")
    whole, parts = tmp_path / f"whole.{kind}", tmp_path / f"parts.{kind}"
    assert classify(pictures, "--output", whole).returncode == 0
    assert classify(*sorted(pictures.glob("*.png"))[:2], "--output", parts).returncode == 0
    if kind != "parquet":
        with parts.open("a") as file:
            # Longer than all that comes, or what is written over it would hide that it is still there.
            file.write(('{"path": "cut off' if kind == "jsonl" else "cut off,colo") + "x" * 10_000)

    refused = classify(pictures, "--output", parts)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    done = classify(pictures, "--output", parts, "--resume")

    assert done.stderr == "7 classified, 1 unsupported_picture\n"
    if kind == "parquet":
        assert parquet.read_table(parts).to_pylist() == parquet.read_table(whole).to_pylist()
        assert len(parquet.read_table(whole)) == 10
    else:
        assert parts.read_text() == whole.read_text()
    assert classify(pictures, "--output", parts, "--resume").stderr == "0 classified\n"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_another_models_output_is_not_resumed(
    classify: Command, tmp_path: Path, models: Path, pictures: Path, kind: str
) -> None:
    output = tmp_path / f"out.{kind}"
    assert classify(pictures / "0.png", "--output", output).returncode == 0
    before = output.read_bytes()

    other_number = classify(pictures, "--output", output, "--resume", "--top-k", 2)
    colours.save_served(models, "colours", 2)
    other_version = classify(pictures, "--output", output, "--resume")

    for done in (other_number, other_version):
        assert done.returncode == 1
        assert "colours version" in done.stderr or "--top-k" in done.stderr
    if kind == "parquet":
        assert len(parquet.read_table(output)) == 1
    else:
        assert output.read_bytes() == before
    assert classify(pictures, "--output", output, "--overwrite").returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_signal_leaves_a_valid_file_that_can_be_resumed(
    classify: Command, models: Path, tmp_path: Path, pictures: Path, number: signal.Signals, status: int, kind: str
) -> None:
    output = tmp_path / f"out.{kind}"
    # Paths come one by one from here, so the command is in the midst of its work when the signal comes.
    with subprocess.Popen(
        command("offline.classify", "-", "--output", output),
        env=environment(models),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        seen = output if kind != "parquet" else output.with_name(output.name + ".unfinished")
        given = 0
        least = {"csv": 300, "jsonl": 1, "parquet": 0}[kind]  # more than a line of headings; Parquet is buffered
        given_up = time.monotonic() + PATIENCE
        while not seen.exists() or seen.stat().st_size < least:
            process.stdin.write(f"{pictures}/{given % 3}.png\n".encode())
            process.stdin.flush()
            given += 1
            assert time.monotonic() < given_up
        process.send_signal(number)
        with suppress(BrokenPipeError):
            while process.poll() is None:
                process.stdin.write(f"{pictures}/{given % 3}.png\n".encode())
                process.stdin.flush()
        assert process.wait(PATIENCE) == status
        with suppress(BrokenPipeError):
            process.stdin.close()
    done = classify(pictures, "--output", output, "--resume")
    assert done.returncode == 0, done.stderr
    if kind == "jsonl":
        assert all(row["predictions"] for row in lines(output.read_text()))


def test_a_terminal_shows_a_table_of_a_few(models: Path, pictures: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("offline.classify", pictures), env=environment(models), stdout=theirs, stderr=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # how the end of a terminal reads
            pass
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    assert b"best classes" in text
    assert text.count(b".png") == 9
    assert b"{" not in text


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--model", "none"], "has no model 'none'; there are colours"),
        (["--model", "colours:7"], "has no version '7'; there are 1"),
        (["--model", "none.onnx"], "model file none.onnx cannot be read"),
        (["--models", "/none"], "is not a directory"),
        (["--device", "abacus"], "setting device"),
        (["--output", "rows.txt"], "has to end in .csv, .jsonl or .parquet"),
        (["--resume"], "--resume needs an --output"),
        (["--output", "/none/rows.csv"], "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused(classify: Command, pictures: Path, arguments: list[str], why: str) -> None:
    done = classify(pictures, *arguments)
    assert done.returncode == 1
    assert why in done.stderr.replace("\n", " ")
    assert done.stdout == ""


def test_something_else_is_not_resumed(classify: Command, tmp_path: Path, pictures: Path) -> None:
    for kind in ("csv", "jsonl", "parquet"):
        output = tmp_path / f"out.{kind}"
        output.write_text("something else\n")
        done = classify(pictures, "--output", output, "--resume")
        assert done.returncode == 1
        assert "cannot be resumed" in done.stderr
        assert output.read_text() == "something else\n"


def test_a_model_may_be_a_file(classify: Command, models: Path, pictures: Path) -> None:
    (file,) = models.glob("*/*/model.onnx")
    assert lines(classify(pictures / "0.png", "--model", file).stdout)[0]["model"] == {"name": "model", "version": 1}


def test_any_number_of_pictures_takes_the_same_memory(models: Path, tmp_path: Path, pictures: Path) -> None:
    paths = [str(pictures / f"{number}.png") for number in range(3)]
    peaks = []
    for number in (1_000, 20_000):
        given = "\n".join(paths[index % 3] for index in range(number)).encode()
        with subprocess.Popen(
            command("offline.classify", "-", "--output", tmp_path / f"{number}.jsonl"),
            env=environment(models),
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdin is not None
            process.stdin.write(given)
            process.stdin.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert len((tmp_path / f"{number}.jsonl").read_text().splitlines()) == number
        peaks.append(used.ru_maxrss)
    # A picture alone is 3.6 KiB of pixels, which would be 67 MiB for the difference.
    assert peaks[1] - peaks[0] < 16 << 10, "KiB"


def test_a_running_service_gives_the_same_rows(classify: Command, models: Path, tmp_path: Path, pictures: Path) -> None:
    (pictures / "4b.png").write_text("no picture")
    with live_service(models) as client:
        sent = classify(pictures, "--url", client.base_url, "--concurrency", 2)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == classify(pictures).stdout
    assert len(lines(sent.stdout)) == 10


def test_a_service_without_room_is_asked_again(classify: Command, models: Path, pictures: Path) -> None:
    with live_service(models, max_queue=3, max_images=3) as client:
        done = classify(pictures, "--url", client.base_url, "--concurrency", 8)
    assert done.stderr == "9 classified\n", "requests of eight are too many, those of one are tried until there is room"


def test_a_service_that_is_not_there_is_an_error(classify: Command, pictures: Path) -> None:
    done = classify(pictures, "--url", "http://127.0.0.1:9/", "--tries", 2)
    assert done.returncode == 1
    assert "does not answer" in done.stderr


def test_a_service_that_knows_no_such_model_is_an_error(classify: Command, models: Path, pictures: Path) -> None:
    with live_service(models) as client:
        done = classify(pictures, "--url", client.base_url, "--model", "none")
    assert done.returncode == 1
    assert "no model 'none'" in done.stderr
