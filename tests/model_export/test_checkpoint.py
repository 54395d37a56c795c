import builtins
import hashlib
import importlib
import io
import operator
import os
import pickle
import re
import sys
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from model_export.checkpoint import TrainingConfig, read_checkpoint
from model_export.errors import CheckpointError
from tests.model_export.checkpoints import SMALL, random_network, save_training_checkpoint, training_config

STATE: dict[str, Tensor] = random_network(SMALL).state_dict()

TORCH_ADVICE = re.compile(r"False|torch\.jit|[Rr]e-running")
"""What torch recommends instead of a safe load must not reach the user."""


def _prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in STATE.items()}


FORMS: dict[str, dict[str, Any]] = {
    "bare": STATE,
    "under model": {"model": STATE},
    "under state_dict": {"state_dict": STATE},
    "under state_dict, model is a name": {"model": "strip_mlp", "state_dict": STATE},
    "with NumPy scalars": {"model": STATE, "max_accuracy": np.float64(81.2), "epoch": np.int64(299)},
    "with NumPy arrays": {"model": STATE, "accuracies": np.arange(3.0), "names": np.array(["a", "b"])},
    "with arguments and paths": {"model": STATE, "args": Namespace(lr=0.1), "output": Path("runs/1")},
    "as parameters": {key: torch.nn.Parameter(value, value.is_floating_point()) for key, value in STATE.items()},
    "DataParallel": _prefixed("module."),
    "compiled": _prefixed("_orig_mod."),
    "DataParallel of compiled": _prefixed("module._orig_mod."),
    "compiled DataParallel": _prefixed("_orig_mod.module."),
    "under model, DataParallel": {"model": _prefixed("module.")},
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_weights_are_found(tmp_path: Path, content: dict[str, Any], *, as_zip: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    checkpoint = read_checkpoint(path)
    _assert_same(checkpoint.state_dict, STATE)
    assert checkpoint.config == TrainingConfig()
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    _assert_same(read_checkpoint(path).state_dict, STATE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    half = {key: value.to(dtype) if value.is_floating_point() else value for key, value in STATE.items()}
    torch.save(half, tmp_path / "half.pth")
    _assert_same(read_checkpoint(tmp_path / "half.pth").state_dict, half)


def test_scalars_that_older_numpy_pickled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"model": STATE, "max_accuracy": np.float64(81.2)}, buffer, _use_new_zipfile_serialization=False)
    new_name, old_name = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new_name in buffer.getvalue()
    path = tmp_path / "older.pth"
    path.write_bytes(buffer.getvalue().replace(new_name, old_name))
    _assert_same(read_checkpoint(path).state_dict, STATE)


def test_the_authors_training_checkpoint(tmp_path: Path) -> None:
    path = save_training_checkpoint(tmp_path / "small.pth", STATE, training_config(SMALL, TEST={"CROP": False}))
    checkpoint = read_checkpoint(path)
    _assert_same(checkpoint.state_dict, STATE)
    assert checkpoint.config == TrainingConfig(
        name="small",
        dataset="CIFAR10",
        image_size=32,
        interpolation="bicubic",
        crop=False,
        num_classes=7,
        embed_dim=16,
        depths=(1, 2, 1, 1),
    )


def test_the_configuration_is_read_without_yacs(small_checkpoint: Path) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("yacs")
    assert b"yacs.config" in zipfile.ZipFile(small_checkpoint).read("small/data.pkl")
    assert read_checkpoint(small_checkpoint).config.name == "small"
    assert "yacs" not in sys.modules


def test_what_the_configuration_leaves_out_is_unknown(tmp_path: Path) -> None:
    path = save_training_checkpoint(tmp_path / "c.pth", STATE, {"DATA": {"DATASET": "CIFAR10"}, "MODEL": "a name"})
    assert read_checkpoint(path).config == TrainingConfig(dataset="CIFAR10")


def test_a_configuration_of_other_types_is_named(tmp_path: Path) -> None:
    path = save_training_checkpoint(tmp_path / "c.pth", STATE, training_config(SMALL, DATA={"IMG_SIZE": "large"}))
    with pytest.raises(CheckpointError, match=r"config's DATA\.IMG_SIZE is 'large'"):
        read_checkpoint(path)


class _Call:
    """Pickles as a call of a function, which may itself be such a call."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.parts = function, arguments

    def __call__(self) -> None: ...

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.parts


ATTACKS: dict[str, Callable[[str], _Call]] = {
    "system": lambda marker: _Call(os.system, f"mkdir '{marker}'"),
    "mkdir": lambda marker: _Call(os.mkdir, marker),
    "eval": lambda marker: _Call(builtins.eval, f"__import__('os').mkdir({marker!r})"),
    "exec": lambda marker: _Call(builtins.exec, f"import os; os.mkdir({marker!r})"),
    "getattr": lambda marker: _Call(_Call(getattr, _Call(importlib.import_module, "os"), "mkdir"), marker),
    "methodcaller": lambda marker: _Call(
        _Call(operator.methodcaller, "mkdir", marker), _Call(importlib.import_module, "os")
    ),
    "partial": lambda marker: _Call(_Call(partial, os.mkdir, marker)),
}

HIDING_PLACES: dict[str, Callable[[_Call], Any]] = {
    "bare": lambda attack: attack,
    "in a training checkpoint": lambda attack: {"model": STATE, "optimizer": attack},
    "in the configuration": lambda attack: {"model": STATE, "config": {"DATA": {"DATASET": attack}}},
    "among the weights": lambda attack: STATE | {"head.bias": attack},
}


@pytest.mark.parametrize("hide", HIDING_PLACES.values(), ids=HIDING_PLACES)
@pytest.mark.parametrize("build", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_not_run(
    tmp_path: Path, build: Callable[[str], _Call], hide: Callable[[_Call], Any], *, as_zip: bool
) -> None:
    marker = tmp_path / "marker"
    attack = build(str(marker))
    path = tmp_path / "checkpoint.pth"
    torch.save(hide(attack), path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError, match="Nothing of it was run") as caught:
        read_checkpoint(path)
    assert not TORCH_ADVICE.search(str(caught.value))
    assert not marker.exists()
    # The attack is a real one: the usual unpickler falls for it.
    pickle.loads(pickle.dumps(attack))
    assert marker.is_dir()


def _archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", content)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))
    return buffer.getvalue()


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


DAMAGED = {
    "empty": b"",
    "truncated": _saved(STATE)[: 1 << 16],
    "text": b"patch_embed.weight 0.1 0.2\n",
    "text that begins like an archive": b"PK is a shop\n",
    "zip of something else": _archive(hello_txt=b"hello"),
    "zip without anything": _archive(),
    "tar": _tar(),
    "TorchScript": _archive(constants_pkl=pickle.dumps(()), data_pkl=pickle.dumps({}), version=b"3"),
    "picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_is_no_checkpoint_is_called_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or no PyTorch checkpoint") as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not TORCH_ADVICE.search(str(caught.value))


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 100], ids=["empty", "text", "binary"])
def test_damaged_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([STATE], "holds a list, not a state dict"),
        (STATE["head.bias"], "holds a Tensor, not a state dict"),
        ({}, r"holds no state dict.*\(it is empty\)"),
        ({"model": {}}, r"holds no state dict.*\(it is empty\)"),
        (STATE | {"epoch": 3}, r"holds no state dict.*\('epoch' is a int\)"),
        ({"model": STATE | {"epoch": [3]}}, r"holds no state dict.*\('epoch' is a list\)"),
        ({"epoch": 3}, r"holds no state dict.*\('epoch' is a int\)"),
    ],
)
def test_content_without_weights_is_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "checkpoint.pth")


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "."])
def test_a_path_without_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a file"):
        read_checkpoint(tmp_path / name)


@given(
    st.one_of(
        st.binary(max_size=100),
        st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4),
    )
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_bytes_nothing_else_is_raised(tmp_path: Path, damage: bytes | list[tuple[int, int]]) -> None:
    if isinstance(damage, bytes):
        content = damage
    else:
        whole = bytearray(_saved({"model": {"head.bias": STATE["head.bias"]}, "config": {"DATA": {"IMG_SIZE": 32}}}))
        for place, value in damage:
            whole[place % len(whole)] = value
        content = bytes(whole)
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    message = None
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        message = str(error)
    assert message is None or str(path) in message  # a damaged file may still be readable


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert all(found[key].dtype == value.dtype for key, value in expected.items())
