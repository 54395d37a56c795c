from pathlib import Path

import pytest

from model_export.errors import OptionError
from model_export.labels import CONFIG_DATASETS, KNOWN, read_labels
from tests.model_export.checkpoints import SMALL_LABELS

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"imagenet-1k": 1000, "cifar-10": 10, "cifar-100": 100, "caltech-101": 101}


def test_imagenet_is_in_the_order_of_its_wnids() -> None:
    labels = read_labels("imagenet-1k", None, 1000)
    assert labels[0] == "tench, Tinca tinca"
    assert labels[207] == "golden retriever"
    assert labels[999].startswith("toilet tissue, ")


def test_cifar_10_is_alphabetical() -> None:
    assert read_labels("cifar-10", None, 10) == CIFAR_10


def test_cifar_100_is_alphabetical() -> None:
    labels = read_labels("cifar-100", None, 100)
    assert list(labels) == sorted(set(labels))
    assert (labels[0], labels[-1]) == ("apple", "worm")


def test_caltech_101_is_in_ascii_order_without_its_background() -> None:
    labels = read_labels("caltech-101", None, 101)
    assert labels[:5] == ("Faces", "Faces_easy", "Leopards", "Motorbikes", "accordion")
    assert list(labels) == sorted(set(labels))
    assert "BACKGROUND_Google" not in labels


@pytest.mark.parametrize("known", KNOWN)
def test_known_labels_are_words_without_padding(known: str) -> None:
    labels = read_labels(known, None, COUNTS[known])
    assert all(label and label == label.strip() for label in labels)


@pytest.mark.parametrize(("dataset", "known"), CONFIG_DATASETS.items())
def test_the_training_configuration_tells_the_labels(dataset: str, known: str) -> None:
    assert read_labels(None, dataset, COUNTS[known]) == read_labels(known, None, COUNTS[known])


def test_what_is_given_goes_before_the_training_configuration(labels_file: Path) -> None:
    assert read_labels(str(labels_file), "CIFAR10", 7) == SMALL_LABELS


def test_a_file_has_a_label_a_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("  Käse \r\n茶\r\nice cream, gelato".encode())
    assert read_labels(str(file), None, 3) == ("Käse", "茶", "ice cream, gelato")


def test_a_file_from_a_windows_editor_has_no_byte_order_mark_in_its_first_label(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("ant\r\nbee\r\n".encode("utf-8-sig"))
    assert read_labels(str(file), None, 2) == ("ant", "bee")


def test_an_image_folder_gives_the_names_of_its_sub_folders(tmp_path: Path) -> None:
    # As many as no file system lists in order by chance.
    names = list("heAgcBfdia")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "README.txt").touch()
    assert read_labels(str(tmp_path), None, 10) == tuple(sorted(names))


@pytest.mark.parametrize("num_classes", [6, 8])
def test_as_many_labels_as_classes(labels_file: Path, num_classes: int) -> None:
    with pytest.raises(OptionError, match=rf"seven.txt' gives 7 labels, the weights have {num_classes} classes"):
        read_labels(str(labels_file), None, num_classes)


def test_known_labels_of_another_number_of_classes() -> None:
    with pytest.raises(OptionError, match="'imagenet-1k' gives 1000 labels, the weights have 10 classes"):
        read_labels(None, "imagenet-1k", 10)


@pytest.mark.parametrize(
    ("dataset", "reason"), [(None, "has no configuration"), ("my_seven_classes", "trained on 'my_seven_classes'")]
)
def test_without_labels_the_message_lists_what_to_give(dataset: str | None, reason: str) -> None:
    with pytest.raises(OptionError, match=reason) as caught:
        read_labels(None, dataset, 7)
    assert all(word in str(caught.value) for word in ("--labels", *KNOWN, "text file", "ImageFolder"))


def test_an_empty_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("ant\n \nbee\n")
    with pytest.raises(OptionError, match="line 2 is empty"):
        read_labels(str(file), None, 3)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff", None], ids=["binary", "missing"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(OptionError, match="no directory and no readable text file") as caught:
        read_labels(str(file), None, 3)
    assert str(file) in str(caught.value)
