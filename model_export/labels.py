"""Class names in training order: those of known data sets, a file's lines, or an ImageFolder's sub-folders."""

from importlib import resources
from pathlib import Path

from model_export.errors import OptionError

KNOWN = ("imagenet-1k", "cifar-10", "cifar-100", "caltech-101")
"""Data sets whose labels ship with the package, as `labels/<name>.txt`."""

CONFIG_DATASETS = {
    "imagenet-1k": "imagenet-1k",
    "CIFAR10": "cifar-10",
    "CIFAR100": "cifar-100",
    "101_ObjectCategories": "caltech-101",
}
"""What the authors' `DATA.DATASET` calls them."""


def read_labels(source: str | None, dataset: str | None, num_classes: int) -> tuple[str, ...]:
    """The labels of a model.

    Args:
        source: a known data set, a text file with a label a line, or an ImageFolder directory (its sub-folders'
            names in sorted order, which is the order that torchvision's ImageFolder trains with).
        dataset: the training configuration's data set, used where no source is given.
        num_classes: how many labels there must be.

    Raises:
        OptionError: there are no labels to be had, or not as many as classes.
    """
    if source is None:
        if dataset not in CONFIG_DATASETS:
            origin = (
                "has no configuration" if dataset is None else f"was trained on '{dataset}', which is not known here"
            )
            raise OptionError(
                f"the checkpoint {origin}, so its labels must be given: --labels with one of {', '.join(KNOWN)}, "
                "a text file with a label a line, or the ImageFolder directory it was trained on"
            )
        source = CONFIG_DATASETS[dataset]
    labels = _from_source(source)
    if len(labels) != num_classes:
        raise OptionError(f"'{source}' gives {len(labels)} labels, the weights have {num_classes} classes")
    return labels


def _from_source(source: str) -> tuple[str, ...]:
    if source in KNOWN:
        text = (resources.files("model_export") / "labels" / f"{source}.txt").read_text("utf-8")
        return tuple(text.splitlines())
    path = Path(source)
    if source and path.is_dir():
        return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
    try:
        labels = tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"labels '{source}' are none of {', '.join(KNOWN)}, no directory and no readable text file: {error}"
        ) from error
    if "" in labels:
        raise OptionError(f"labels '{source}': line {labels.index('') + 1} is empty; there must be a label a line")
    return labels
