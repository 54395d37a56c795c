"""Finding model files."""

from pathlib import Path

import pytest

from service.errors import UnusableModel
from service.repository import ModelFile, Stamp, find_models


def put(folder: Path, *places: str) -> None:
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_models_come_by_name_and_their_newest_version_first(tmp_path: Path) -> None:
    put(tmp_path, "b/10/model.onnx", "b/9/model.onnx", "a.1_x-y/3/model.onnx")

    def file(name: str, version: int) -> ModelFile:
        path = tmp_path / name / str(version) / "model.onnx"
        return ModelFile(name, version, path, Stamp.of(path))

    found = find_models(tmp_path)

    assert found == {"a.1_x-y": [file("a.1_x-y", 3)], "b": [file("b", 10), file("b", 9)]}
    assert list(found) == ["a.1_x-y", "b"]


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

    assert {name: [file.version for file in files] for name, files in find_models(tmp_path).items()} == {"a": [1]}


def test_a_file_knows_whether_it_is_still_the_same(tmp_path: Path) -> None:
    put(tmp_path, "a/1/model.onnx", "new")
    ((file,),) = find_models(tmp_path).values()
    assert file.unchanged

    (tmp_path / "new").replace(file.path)
    assert not file.unchanged

    ((file,),) = find_models(tmp_path).values()
    file.path.write_text("other")
    assert not file.unchanged

    ((file,),) = find_models(tmp_path).values()
    file.path.unlink()
    assert not file.unchanged


def test_a_file_that_is_gone_before_it_was_looked_at_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, "a/1/model.onnx")
    (tmp_path / "a/2").mkdir()
    (tmp_path / "a/2/model.onnx").symlink_to(tmp_path / "nowhere")

    assert {name: [file.version for file in files] for name, files in find_models(tmp_path).items()} == {"a": [1]}


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
