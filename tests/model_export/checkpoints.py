"""Checkpoints in the authors' training form, with weights as a trained network might have them."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from model_export.checkpoint import Checkpoint, TrainingConfig
from model_export.network import StripMLP
from service.artifact import Architecture

SMALL = Architecture(embed_dim=16, depths=(1, 2, 1, 1), patch_size=4, image_size=32, num_classes=7)

SMALL_LABELS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")

QUIET = Progress(disable=True)


def random_network(architecture: Architecture, seed: int = 0) -> StripMLP:
    """Random weights; every statistic, gain and table that starts trivial gets values too."""
    torch.manual_seed(seed)
    network = StripMLP(architecture).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.Conv2d | nn.Linear):
                # PyTorch's start lets signals fade, so that the strip layers would hardly count in the logits.
                module.weight.mul_(3**0.5)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        for name, parameter in network.named_parameters():
            if "grn" in name or "embeddings_table" in name:
                parameter.normal_(0, 0.3)
    return network


def unread_checkpoint(state_dict: Mapping[str, torch.Tensor], **config: Any) -> Checkpoint:
    """A checkpoint that never was a file. Config by the fields of `TrainingConfig`."""
    return Checkpoint(dict(state_dict), TrainingConfig(**config), "0" * 64)


def meta_state_dict(architecture: Architecture) -> dict[str, torch.Tensor]:
    """Names and shapes alone, which cost nothing at any size."""
    with torch.device("meta"):
        return StripMLP(architecture).state_dict()


def training_config(architecture: Architecture, **changes: Any) -> dict[str, Any]:
    """The part of the authors' configuration that matters. Changes by section: `DATA={"DATASET": "CIFAR10"}`."""
    config: dict[str, Any] = {
        "DATA": {"DATASET": "CIFAR10", "IMG_SIZE": architecture.image_size, "INTERPOLATION": "bicubic"},
        "MODEL": {
            "NAME": "small",
            "NUM_CLASSES": architecture.num_classes,
            "STRIP_MLP": {"EMBED_DIM": architecture.embed_dim, "LAYERS": list(architecture.depths)},
        },
        "TEST": {"CROP": True},
    }
    for section, values in changes.items():
        config[section] = config[section] | values
    return config


def save_training_checkpoint(path: Path, state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Path:
    """As the authors' `save_checkpoint`: the configuration is a pickled `yacs.config.CfgNode`."""
    with _yacs() as node:
        torch.save(
            {
                "model": dict(state_dict),
                "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
                "lr_scheduler": {"last_epoch": 299},
                "max_accuracy": 81.2,
                "epoch": 299,
                "config": _as_nodes(config, node),
            },
            path,
        )
    return path


@contextmanager
def _yacs() -> Iterator[type[dict[str, Any]]]:
    """A stand-in for yacs while pickling: the project neither has nor needs it."""
    package, module = ModuleType("yacs"), ModuleType("yacs.config")
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    vars(module)["CfgNode"] = node
    sys.modules.update({"yacs": package, "yacs.config": module})
    try:
        yield node
    finally:
        del sys.modules["yacs"], sys.modules["yacs.config"]


def _as_nodes(config: Mapping[str, Any], node: type[dict[str, Any]]) -> dict[str, Any]:
    result = node({key: _as_nodes(value, node) if isinstance(value, dict) else value for key, value in config.items()})
    result.__dict__.update({"__immutable__": True, "__deprecated_keys__": set(), "__new_allowed__": False})
    return result
