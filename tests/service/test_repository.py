"""Finding model files."""

from pathlib import Path

import pytest

from service.errors import UnusableModel
from service.repository import ModelFile, find_models


def put(folder: Path, *places: str) -> None:
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_models_come_by_name_and_by_number_of_version(tmp_path: Path) -> None:
    put(tmp_path, "b/10/model.onnx", "b/9/model.onnx", "a.1_x-y/3/model.onnx")

    assert find_models(tmp_path) == [
        ModelFile("a.1_x-y", 3, tmp_path / "a.1_x-y/3/model.onnx"),
        ModelFile("b", 9, tmp_path / "b/9/model.onnx"),
        ModelFile("b", 10, tmp_path / "b/10/model.onnx"),
    ]


def test_all_else_is_passed_over(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a/1/model.onnx",
        "a/1/report.json",
        "a/2/other.onnx",
        "a/notes.txt",
        "README.md",
        "model.onnx",
        "a/model.onnx",
        "a/1/deeper/model.onnx",
        ".a/1/model.onnx",
        "a/.1/model.onnx",
        ".a.partial/x/model.onnx",
    )

    assert [(model.name, model.version) for model in find_models(tmp_path)] == [("a", 1)]


@pytest.mark.parametrize(
    "place", ["a/v1/model.onnx", "a/1.0/model.onnx", "a/-1/model.onnx", "a b/1/model.onnx", "-a/1/model.onnx"]
)
def test_folders_that_cannot_be_a_models_are_refused(tmp_path: Path, place: str) -> None:
    put(tmp_path, "good/1/model.onnx", place)

    with pytest.raises(UnusableModel, match=f"{place} is not at <name>/<version>/model.onnx"):
        find_models(tmp_path)


def test_a_name_that_ends_in_a_line_break_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a\n/1/model.onnx")

    with pytest.raises(UnusableModel, match="is not at"):
        find_models(tmp_path)


@pytest.mark.parametrize("version", ["0", "00"])
def test_a_version_that_no_request_can_name_is_refused(tmp_path: Path, version: str) -> None:
    put(tmp_path, f"a/{version}/model.onnx")

    with pytest.raises(UnusableModel, match="is not at"):
        find_models(tmp_path)


def test_two_folders_of_the_same_version_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a/1/model.onnx", "a/01/model.onnx")

    with pytest.raises(UnusableModel):
        find_models(tmp_path)


def test_a_missing_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="missing is not a directory; set --models"):
        find_models(tmp_path / "missing")


def test_a_file_is_no_repository(tmp_path: Path) -> None:
    put(tmp_path, "file")

    with pytest.raises(UnusableModel, match="file is not a directory"):
        find_models(tmp_path / "file")


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"has no <name>/<version>/model.onnx"):
        find_models(tmp_path)
