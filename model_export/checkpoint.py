"""Reading checkpoints without running anything they contain.

PyTorch's weights-only unpickler builds tensors and plain containers and refuses every other call. What training
checkpoints hold besides is met with inert stand-ins: the authors' `yacs` configuration becomes a dictionary.
"""

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model_export.errors import CheckpointError

StateDict = dict[str, Tensor]

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put in front of every key."""


class _Dropped:
    """Stands in for what is of no use here; takes whatever a pickle gives it and keeps none of it."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# A yacs node is a dict subclass with attributes; of the containers that the unpickler fills, OrderedDict alone
# takes attributes too. Accuracies are often NumPy scalars, and arguments and paths are stored beside the weights.
STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (OrderedDict, "yacs.config.CfgNode"),
    *(
        (_Dropped, name)
        for name in (
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "numpy.ndarray",
            "numpy.dtype",
            "_codecs.encode",
            "argparse.Namespace",
            "pathlib.PosixPath",
            "pathlib.WindowsPath",
        )
    ),
]


REFUSALS = ("GLOBAL", "call reduce", "Can only")
"""What torch's unpickler says when it meets something that it will not call or build."""


class TrainingConfig(BaseModel):
    """What a training checkpoint's `config` says, as far as the export uses it; None where it says nothing."""

    model_config = ConfigDict(frozen=True)

    name: str | None = None
    dataset: str | None = None
    image_size: int | None = None
    interpolation: str | None = None
    crop: bool | None = None
    num_classes: int | None = None
    embed_dim: int | None = None
    depths: tuple[int, ...] | None = None


CONFIG_KEYS = {
    "name": ("MODEL", "NAME"),
    "dataset": ("DATA", "DATASET"),
    "image_size": ("DATA", "IMG_SIZE"),
    "interpolation": ("DATA", "INTERPOLATION"),
    "crop": ("TEST", "CROP"),
    "num_classes": ("MODEL", "NUM_CLASSES"),
    "embed_dim": ("MODEL", "STRIP_MLP", "EMBED_DIM"),
    "depths": ("MODEL", "STRIP_MLP", "LAYERS"),
}
"""Where the authors' configuration keeps each of them."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's weights by the authors' names, its configuration, and the SHA-256 of its file."""

    state_dict: StateDict
    config: TrainingConfig
    sha256: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a training checkpoint, a bare state dict, one under `model` or `state_dict`, or a safetensors file.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or would run code when unpickled.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    content: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict or a training checkpoint")
    config = content.get("config")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(_state_dict(content, path), _training_config(config, path), sha256)


def _read_safetensors(path: Path) -> StateDict:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        # torch warns of pickle protocols and TorchScript archives; what it cannot read, it says with an error too.
        with torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the zip reader and the unpickler raise anything
        reason = _reason(error)
        if isinstance(error, UnpicklingError) and any(sign in reason for sign in REFUSALS):
            raise CheckpointError(
                f"{path} is refused: its pickle names more than weights and plain data, and to load that could run "
                f"code ({reason}). Nothing of it was run. Export its state dict alone."
            ) from error
        raise CheckpointError(
            f"{path} is damaged or no PyTorch checkpoint ({type(error).__name__}: {reason})"
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of torch's message that is not its advice to load without this protection."""
    paragraphs = str(error).rpartition("WeightsUnpickler error:")[2].split("\n\n")
    sentences = (paragraph.strip().partition(". ")[0].rstrip(".") for paragraph in paragraphs)
    return next((each for each in sentences if each and each != "Weights only load failed"), "no reason given")


def _state_dict(content: Mapping[Any, Any], path: Path) -> StateDict:
    state = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), content)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(state):
        odd = next(
            (f"'{key}' is a {type(value).__name__}" for key, value in state.items() if not isinstance(value, Tensor)),
            "it is empty",
        )
        raise CheckpointError(
            f"{path} holds no state dict: neither under 'model' or 'state_dict' nor by itself ({odd})"
        )
    while prefix := next((each for each in WRAPPER_PREFIXES if all(key.startswith(each) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _training_config(config: Any, path: Path) -> TrainingConfig:
    values: dict[str, Any] = {}
    for field, keys in CONFIG_KEYS.items():
        value = config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        values[field] = value
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(CONFIG_KEYS[str(first["loc"][0])])
        raise CheckpointError(f"{path}: its config's {place} is {first['input']!r}: {first['msg']}") from error
