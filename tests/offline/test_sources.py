"""Pictures from object stores and Parquet files."""

import json
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from offline.errors import OfflineError, UnreadableFile
from offline.sources import source_of
from service.errors import PictureTooLarge
from tests.offline.conftest import COLOURS, Command
from tests.service.live import live_service
from tests.service.pictures import png

LIMIT = 1 << 20


def read(place: str) -> dict[str, bytes]:
    source = source_of([place], LIMIT)
    return {picture.name: source.read(picture.where) for picture in source.pictures}


def table(**columns: list[object]) -> arrow.Table:
    return arrow.table(columns)


def test_a_folder_of_an_object_store_gives_its_pictures_by_their_urls(pictures: Path) -> None:
    (pictures / "notes.txt").write_text("no picture")
    files = sorted(pictures.rglob("*.png"))

    assert read(f"file://{pictures}") == {f"file://{file}": file.read_bytes() for file in files}


def test_rows_of_parquet_files_give_theirs_wherever_those_are(tmp_path: Path) -> None:
    folder = tmp_path / "rows.parquet"
    folder.mkdir()
    for number, colour in enumerate(COLOURS):
        parquet.write_table(table(path=[colour], bytes=[png(colour)], more=[1]), folder / f"{number}.parquet")

    expected = {colour: png(colour) for colour in COLOURS}
    assert read(str(folder)) == expected
    assert read(f"file://{folder}") == expected
    assert read(str(folder / "1.parquet")) == {"lime": png("lime")}


def test_a_picture_that_cannot_be_had_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(LIMIT + 1))
    (tmp_path / "gone.png").write_bytes(b"")
    objects = source_of([f"file://{tmp_path}"], LIMIT)
    gone, large = objects.pictures
    Path(gone.name.removeprefix("file://")).unlink()
    rows = tmp_path / "rows.parquet"
    parquet.write_table(table(path=["none", "large"], bytes=[None, bytes(LIMIT + 1)]), rows)
    in_rows = source_of([str(rows)], LIMIT)
    none, large_row = in_rows.pictures

    for source, picture in (objects, gone), (in_rows, none):
        with pytest.raises(UnreadableFile):
            source.read(picture.where)
    for source, picture in (objects, large), (in_rows, large_row):
        with pytest.raises(PictureTooLarge, match=str(LIMIT)):
            source.read(picture.where)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nothing.parquet", "nothing.parquet cannot be read"),
        ("other.parquet", "no column bytes"),
        ("numbers.parquet", "int64 in column bytes"),
        ("text.parquet", "text.parquet cannot be read"),
        ("file:///nowhere/at/all", "file:///nowhere/at/all cannot be read"),
        ("nostore://bucket", "nostore://bucket cannot be opened"),
    ],
)
def test_places_that_cannot_be_used_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    parquet.write_table(table(path=["a"], picture=[b""]), tmp_path / "other.parquet")
    parquet.write_table(table(path=["a"], bytes=[1]), tmp_path / "numbers.parquet")
    (tmp_path / "text.parquet").write_text("no table")

    with pytest.raises(OfflineError, match=reason):
        source_of([place], LIMIT)


def test_a_url_beside_others_is_refused(pictures: Path) -> None:
    with pytest.raises(OfflineError, match="has to be the only argument"):
        source_of([str(pictures), f"file://{pictures}"], LIMIT)


def test_rows_that_cannot_be_read_end_the_command_in_a_line(classify: Command, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    parquet.write_table(table(path=["a"] * 9, bytes=[png("red")] * 9), rows, use_dictionary=False)
    whole = bytearray(rows.read_bytes())
    whole[4:40] = bytes(36)  # the first page's header; what is read at the opening stands at the end
    rows.write_bytes(whole)

    done = classify(rows)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {rows} cannot be read on: ")


def test_the_command_takes_them_and_resumes(classify: Command, models: Path, tmp_path: Path, pictures: Path) -> None:
    rows = tmp_path / "rows.parquet"
    # Names need not be different, and tell nothing of the picture.
    parquet.write_table(table(path=["a", "b", "b"], bytes=[png("blue"), b"none", png("red")]), rows)
    with live_service(models) as client:
        answers = [classify(rows), classify(rows, "--url", client.base_url)]

    for done in answers:
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        labels = [row["predictions"][0]["label"] if "predictions" in row else row["error"]["code"] for row in found]
        assert [(row["path"], label) for row, label in zip(found, labels, strict=True)] == [
            ("a", "blue"),
            ("b", "unsupported_picture"),
            ("b", "red"),
        ]
    output = tmp_path / "out.jsonl"
    assert classify(f"file://{pictures}/a", "--output", output).stderr == "3 classified\n"
    assert classify(f"file://{pictures}", "--output", output, "--resume").stderr == "6 classified\n"
    assert classify(tmp_path / "none.parquet").returncode == 1
