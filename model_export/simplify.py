"""The algebra that leaves a trained network's function alone and makes it cheaper to run.

Every step is exact in real arithmetic and is done here in float64, on float64 weights:

- a BatchNorm after a convolution or a linear layer folds into it, the last one into the head;
- `patch_embed` takes raw 0 to 255 pixels, so that the graph's input can be uint8;
- the strip layers are linear, so the position tables and biases that enter them become one constant map
  each, added after the following 1x1 convolution;
- `fuse_w` and `fuse` have nothing between them and become one 1x1 convolution;
- LayerNorm's weight and bias fold into `fc1`, GRN's beta into the bias of `fc2`;
- the bias of `fc2` is left out of the block and added by everything that takes its result: the next block's first
  norm and residual, the merging convolution, or the head.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.network import STAGES, Block, ChannelMixing, StripMLP, TokenMixing
from service.artifact import Architecture, Preprocessing

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """A convolution (out, in, rows, columns) or a matrix (in, out), with its bias (out,)."""

    weight: Weights
    bias: Weights


@dataclass(frozen=True)
class SimplifiedTokenMixing:
    """C channels, h = C / 2, g strip groups, S the feature map's side."""

    entry_scale: Weights
    """(C,), with `entry_shift` what is left of the BatchNorm in front of the first GELU."""
    entry_shift: Weights
    """(C,)."""
    entry_conv: Weights
    """Depthwise (C, 1, 3, 3)."""
    spread: Affine
    """1x1 convolution (C, C, 1, 1)."""
    row_strips: Weights
    """(g, S to, S from, 3 rows: above, same, below). Channel c uses those of group c % g."""
    row_fuse: Weights
    """1x1 convolution (h, C, 1, 1) of [mixed rows, first half]."""
    row_map: Weights
    """(h, S, S), added after `row_fuse`."""
    column_strips: Weights
    """(g, S to, S from, 3 columns: before, same, after)."""
    local_wide: Weights
    """Depthwise (h, 1, 3, 7)."""
    local_tall: Weights
    """Depthwise (h, 1, 7, 3)."""
    reweight1: Affine
    """Matrix (h, h / 2)."""
    reweight2: Affine
    """Matrix (h / 2, 3 h), its columns ordered by (branch, channel) and the branches tall, wide, none."""
    fuse: Weights
    """1x1 convolution (C, 3 h, 1, 1) of [first half, mixed columns, local mixing]."""
    output_map: Weights
    """(C, S, S), added to the result."""


@dataclass(frozen=True)
class SimplifiedChannelMixing:
    """C channels."""

    conv: Weights
    """Depthwise (C, 1, 7, 7)."""
    norm_epsilon: float
    expand: Affine
    """Matrix (C, 3 C), after a LayerNorm without parameters."""
    response_gain: Weights
    """(3 C,): GRN's gamma."""
    response_epsilon: float
    contract: Weights
    """Matrix (3 C, C), without the bias that the block leaves to what follows."""


@dataclass(frozen=True)
class SimplifiedBlock:
    """Token mixing, then channel mixing, each with its residual."""

    tokens: SimplifiedTokenMixing
    channels: SimplifiedChannelMixing


@dataclass(frozen=True)
class SimplifiedNetwork:
    """The whole network, from raw pixels (0 to 255) in NCHW to logits."""

    architecture: Architecture
    patch_embed: Affine
    stages: tuple[tuple[SimplifiedBlock, ...], ...]
    merging1: Affine
    merging2: Affine
    merging3: Affine
    conv_s1_28: Weights
    conv_s1_14: Weights
    conv_s2_14: Weights
    head: Affine


@torch.no_grad()
def simplify(network: StripMLP, preprocessing: Preprocessing) -> SimplifiedNetwork:
    """Fold a float64 network and the normalisation of its preprocessing. The network is left as it is."""
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64)[:, None, None]
    std = torch.tensor(preprocessing.std, dtype=torch.float64)[:, None, None]
    embed = network.patch_embed.weight
    norm_scale, norm_shift = _scale_and_shift(network.norm)
    head = network.head.weight * norm_scale
    stages = [_Stage.of(network.get_submodule(f"blocks{stage}")) for stage in STAGES]
    return SimplifiedNetwork(
        architecture=network.architecture,
        patch_embed=_affine(embed / (255 * std), -(embed * mean / std).sum(dim=(1, 2, 3))),
        stages=tuple(stage.blocks for stage in stages),
        merging1=_merging(network.merging1, stages[0].bias),
        merging2=_merging(network.merging2, stages[1].bias),
        merging3=_merging(network.merging3, stages[2].bias),
        conv_s1_28=_array(network.conv_s1_28.weight),
        conv_s1_14=_array(network.conv_s1_14.weight),
        conv_s2_14=_array(network.conv_s2_14.weight),
        head=_affine(head.T, network.head.bias + network.head.weight @ norm_shift + head @ stages[3].bias),
    )


@dataclass(frozen=True)
class _Stage:
    blocks: tuple[SimplifiedBlock, ...]
    bias: Tensor
    """(C,), to be added to the last block's result."""

    @classmethod
    def of(cls, stage: nn.Module) -> Self:
        simplified = []
        bias = torch.zeros((), dtype=torch.float64)
        for block in cast("Iterable[Block]", stage):
            tokens = _simplify_token_mixing(block.token_mixing, bias)
            simplified.append(SimplifiedBlock(tokens, _simplify_channel_mixing(block.channel_mixing)))
            last = block.channel_mixing
            bias = last.fc2.bias + last.fc2.weight @ last.grn.beta.flatten()
        return cls(tuple(simplified), bias)


def _merging(merging: nn.Conv2d, bias: Tensor) -> Affine:
    return _affine(merging.weight, torch.einsum("oihw,i->o", merging.weight, bias))


def _simplify_token_mixing(mixing: TokenMixing, bias: Tensor) -> SimplifiedTokenMixing:
    """`bias`, (C,) or (), is to be added to what comes in."""
    merge, strips = mixing.dwsc.conv_merge, mixing.smlp_block
    entry_scale, entry_shift = _scale_and_shift(merge.BN)
    entry_shift = entry_shift + entry_scale * bias
    spread, spread_norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(strips.mlp))
    spread_scale, spread_shift = _scale_and_shift(spread_norm)
    half = strips.BN.num_features
    zeros = torch.zeros(1, half, strips.side, strips.side, dtype=torch.float64)

    row_scale, row_shift = _scale_and_shift(strips.BN)
    row_fuse = strips.fuse_h.weight * row_scale[:, None, None, None]
    row_constant = strips.mix_rows(zeros + strips.relate_pos_h())[0]
    row_map = torch.einsum("oc,chw->ohw", row_fuse[:, :half, 0, 0], row_constant) + row_shift[:, None, None]

    fuse_cascade, fuse_local = strips.fuse.weight[:, :half, 0, 0], strips.fuse.weight[:, half:, 0, 0]
    fuse = torch.cat([fuse_cascade @ strips.fuse_w.weight[:, :, 0, 0], fuse_local], dim=1)
    column_constant = strips.mix_columns(zeros + strips.relate_pos_w())[0]
    output_map = torch.einsum("oc,chw->ohw", fuse[:, half : 2 * half], column_constant) + bias.reshape(-1, 1, 1)

    branches = strips.reweight.fc2

    strips_shape = (strips.groups, strips.side, strips.side, 3)

    return SimplifiedTokenMixing(
        entry_scale=_array(entry_scale),
        entry_shift=_array(entry_shift),
        entry_conv=_array(merge.Conv.weight),
        spread=_affine(spread.weight * spread_scale[:, None, None, None], _bias(spread) * spread_scale + spread_shift),
        row_strips=_array(strips.proj_h.weight.reshape(strips_shape)),
        row_fuse=_array(row_fuse),
        row_map=_array(row_map),
        column_strips=_array(strips.proj_w.weight.reshape(strips_shape)),
        local_wide=_array(strips.fc_h.weight),
        local_tall=_array(strips.fc_w.weight),
        reweight1=_affine(strips.reweight.fc1.weight[:, :, 0, 0].T, _bias(strips.reweight.fc1)),
        reweight2=_affine(
            branches.weight[:, :, 0, 0].reshape(half, 3, -1).transpose(0, 1).flatten(0, 1).T,
            _bias(branches).reshape(half, 3).T.flatten(),
        ),
        fuse=_array(fuse[:, :, None, None]),
        output_map=_array(output_map),
    )


def _simplify_channel_mixing(mixing: ChannelMixing) -> SimplifiedChannelMixing:
    expand, norm = mixing.fc1.weight, mixing.layer_norm
    return SimplifiedChannelMixing(
        conv=_array(mixing.conv_77.weight),
        norm_epsilon=norm.eps,
        expand=_affine((expand * norm.weight).T, mixing.fc1.bias + expand @ norm.bias),
        response_gain=_array(mixing.grn.gamma.flatten()),
        response_epsilon=mixing.grn.epsilon,
        contract=_array(mixing.fc2.weight.T),
    )


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None  # tracking, as constructed
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # constructed with one
    return conv.bias


def _affine(weight: Tensor, bias: Tensor) -> Affine:
    return Affine(_array(weight), _array(bias))


def _array(tensor: Tensor) -> Weights:
    return np.ascontiguousarray(tensor.numpy(), dtype=np.float64)
