from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_export import calibration
from model_export.calibration import LEAST, CalibrationSet
from model_export.errors import OptionError
from model_export.export import Exported
from service.artifact import Artifact
from service.decoding import decode
from service.preprocessing import to_pixels
from tests.model_export.checkpoints import QUIET
from tests.service.pictures import encode, noise


@pytest.fixture
def artifact(small_model: Exported) -> Artifact:
    return small_model.artifact


def fill(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:04}.png").write_bytes(encode(noise(8, 8, seed=number)))


def pixels_of(path: Path, artifact: Artifact) -> bytes:
    return to_pixels(decode(path.read_bytes(), max_pixels=1 << 20), artifact.preprocessing).tobytes()


def test_no_picture_is_in_both_parts_and_none_is_lost(tmp_path: Path, artifact: Artifact) -> None:
    fill(tmp_path, LEAST)
    # Large enough for the service to reduce it before it resizes it, which is not exact.
    (tmp_path / "large.png").write_bytes(encode(noise(300, 300)))
    (tmp_path / ".hidden").write_bytes(b"")

    divided = CalibrationSet.read(tmp_path, artifact, QUIET)

    parts = [{each.tobytes() for each in part.pixels} for part in (divided.calibration, divided.held_back)]
    assert [len(part) for part in parts] == [LEAST // 2, LEAST // 2 + 1]
    assert parts[0] | parts[1] == {pixels_of(path, artifact) for path in tmp_path.glob("*.png")}
    assert divided.described.startswith("101 held back of the 201 pictures")


def test_both_parts_are_bounded_and_spread_over_the_classes(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MOST_TO_CALIBRATE", 40)
    monkeypatch.setattr(calibration, "MOST_HELD_BACK", 60)
    for index, label in enumerate(("ant", "gnu", "no label")):
        fill(tmp_path / label, 80, first=80 * index)

    divided = CalibrationSet.read(tmp_path, artifact, QUIET)

    def counts(classes: NDArray[np.intp]) -> dict[int, int]:
        return dict(zip(*(each.tolist() for each in np.unique(classes, return_counts=True)), strict=True))

    assert sum(counts(divided.calibration.classes).values()) == 40
    assert counts(divided.calibration.classes).keys() == {-1, 0, 6}
    assert all(13 <= count <= 14 for count in counts(divided.calibration.classes).values())
    assert sum(counts(divided.held_back.classes).values()) == 60
    assert all(19 <= count <= 21 for count in counts(divided.held_back.classes).values())


@given(st.integers(1, 3000), st.data())
def test_a_spread_is_of_different_pictures(count: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, count))
    chosen = calibration._spread(count, wanted)
    assert len(set(chosen)) == wanted
    assert 0 <= min(chosen) <= max(chosen) < count


def test_too_few_pictures_are_refused(tmp_path: Path, artifact: Artifact) -> None:
    fill(tmp_path, LEAST - 1)
    with pytest.raises(OptionError, match="holds 199 files; at least 200"):
        CalibrationSet.read(tmp_path, artifact, QUIET)


def test_a_folder_that_is_none_is_refused(tmp_path: Path, artifact: Artifact) -> None:
    with pytest.raises(OptionError, match="is not a directory"):
        CalibrationSet.read(tmp_path / "missing", artifact, QUIET)


def test_a_picture_that_cannot_be_used_is_named(tmp_path: Path, artifact: Artifact) -> None:
    fill(tmp_path, LEAST)
    (tmp_path / "0100.png").write_bytes(b"no picture")
    with pytest.raises(OptionError, match=r"0100\.png cannot be used"):
        CalibrationSet.read(tmp_path, artifact, QUIET)
