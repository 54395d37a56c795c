"""The architecture that a state dict's key names and shapes tell, and the network that it fills."""

import re

import torch
from torch import Tensor

from model_export.checkpoint import Checkpoint, StateDict
from model_export.errors import CheckpointError, OptionError
from model_export.network import StripMLP
from service.artifact import Architecture

SHOWN = 5
"""How many keys of each kind an error names."""

TRACKING_KEY = "num_batches_tracked"
"""BatchNorm's counter, of no use at inference; some tools leave it out."""


def infer_architecture(checkpoint: Checkpoint) -> Architecture:
    """Read the architecture off the weights, and check that the checkpoint's own configuration agrees.

    Raises:
        CheckpointError: the weights are not a Strip-MLP's.
        OptionError: the configuration contradicts the weights.
    """
    state, config = checkpoint.state_dict, checkpoint.config
    patch_embed = _shape(state, "patch_embed.weight", 4)
    table = _shape(state, "blocks1.0.token_mixing.smlp_block.relate_pos_h.embeddings_table", 2)
    head = _shape(state, "head.weight", 2)
    patch, side = patch_embed[2], (table[0] - 1) // 2
    # The weights tell the side in patches; a picture a few pixels larger gives the same.
    image_size = side * patch
    if config.image_size is not None and patch > 0 and config.image_size // patch == side:
        image_size = config.image_size
    try:
        architecture = Architecture(
            embed_dim=patch_embed[0],
            depths=(_depth(state, 1), _depth(state, 2), _depth(state, 3), _depth(state, 4)),
            patch_size=patch,
            image_size=image_size,
            num_classes=head[0],
        )
    except ValueError as error:
        raise CheckpointError(f"the weights' shapes are no Strip-MLP's: {error}") from error
    claims = {
        "DATA.IMG_SIZE": (config.image_size, architecture.image_size),
        "MODEL.NUM_CLASSES": (config.num_classes, architecture.num_classes),
        "MODEL.STRIP_MLP.EMBED_DIM": (config.embed_dim, architecture.embed_dim),
        "MODEL.STRIP_MLP.LAYERS": (config.depths, architecture.depths),
    }
    for place, (claimed, found) in claims.items():
        if claimed is not None and claimed != found:
            raise OptionError(
                f"the checkpoint contradicts itself: its config says {place} = {claimed}, its weights have {found}"
            )
    return architecture


def load_network(state: StateDict, architecture: Architecture) -> StripMLP:
    """The network in float64 and evaluation mode, with these weights.

    Raises:
        CheckpointError: a weight is missing, unexpected, misshapen or not finite; the message names the first ones.
    """
    with torch.device("meta"):
        network = StripMLP(architecture)
    expected = {
        key: tuple(value.shape) for key, value in network.state_dict().items() if not key.endswith(TRACKING_KEY)
    }
    found = {key: tuple(value.shape) for key, value in state.items() if not key.endswith(TRACKING_KEY)}
    problems = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "misshapen": [
            f"{key} is {found[key]} instead of {shape}"
            for key, shape in expected.items()
            if key in found and found[key] != shape
        ],
        "without finite real numbers": [key for key in expected if key in found and not _is_usable(state[key])],
    }
    lines = [
        f"{kind} ({len(keys)}): {', '.join(keys[:SHOWN])}{', …' if len(keys) > SHOWN else ''}"
        for kind, keys in problems.items()
        if keys
    ]
    if lines:
        raise CheckpointError("the weights do not fill a Strip-MLP; " + "; ".join(lines))
    network = network.to_empty(device="cpu").double().eval()
    network.load_state_dict({key: state[key].double() for key in expected}, strict=False)
    return network


def _is_usable(weight: Tensor) -> bool:
    dense = weight.layout == torch.strided and weight.device.type == "cpu" and not weight.is_quantized
    return dense and not weight.is_complex() and bool(torch.isfinite(weight.double()).all())


def _shape(state: StateDict, key: str, dimensions: int) -> tuple[int, ...]:
    if key not in state:
        first = ", ".join(list(state)[:SHOWN])
        raise CheckpointError(f"not a Strip-MLP's weights: '{key}' is missing; the file's first keys are {first}")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions:
        raise CheckpointError(
            f"not a Strip-MLP's weights: '{key}' is {shape}, which should have {dimensions} dimensions"
        )
    return shape


def _depth(state: StateDict, stage: int) -> int:
    matches = (re.match(rf"blocks{stage}\.(\d+)\.", key) for key in state)
    # Counted, not the highest: a stray key must not make a billion blocks, and is named as unexpected later.
    return len({match[1] for match in matches if match})
