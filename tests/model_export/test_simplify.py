"""Each step of the algebra by itself, in the float64 in which it is exact; test_graph.py has the whole."""

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model_export.network import Block, StripMLP
from model_export.simplify import (
    SimplifiedChannelMixing,
    SimplifiedNetwork,
    SimplifiedTokenMixing,
    Weights,
    simplify,
)
from service.artifact import Architecture, Preprocessing
from tests.model_export.checkpoints import random_network

# Side 9, so rows and columns have both neighbours and ends; 40 channels, so 5 groups share 4 channels each.
SIDE, HALF, GROUPS = 9, 20, 5
ARCHITECTURE = Architecture(embed_dim=40, depths=(1, 1, 1, 1), patch_size=4, image_size=36, num_classes=6)
PREPROCESSING = Preprocessing(
    image_size=36, resize_side=41, crop=True, interpolation="bicubic", mean=(0.1, 0.2, 0.7), std=(0.5, 0.3, 0.9)
)


@pytest.fixture(scope="module")
def network() -> StripMLP:
    return random_network(ARCHITECTURE).double().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def simplified(network: StripMLP) -> SimplifiedNetwork:
    return simplify(network, PREPROCESSING)


@pytest.fixture
def block(network: StripMLP) -> Block:
    block = network.blocks1[0]
    assert isinstance(block, Block)
    return block


@pytest.fixture
def tokens(simplified: SimplifiedNetwork) -> SimplifiedTokenMixing:
    return simplified.stages[0][0].tokens


@pytest.fixture
def channels(simplified: SimplifiedNetwork) -> SimplifiedChannelMixing:
    return simplified.stages[0][0].channels


def test_the_network_is_left_as_it_is(network: StripMLP) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    simplify(network, PREPROCESSING)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_blocks_are_those_of_the_stages() -> None:
    deep = ARCHITECTURE.model_copy(update={"depths": (1, 2, 3, 1)})
    simplified = simplify(random_network(deep).double(), PREPROCESSING)
    assert tuple(len(stage) for stage in simplified.stages) == (1, 2, 3, 1)
    assert len({block.tokens.fuse.tobytes() for stage in simplified.stages for block in stage}) == 7


def test_patches_are_embedded_from_raw_pixels(network: StripMLP, simplified: SimplifiedNetwork) -> None:
    pixels = torch.randint(256, (2, 3, 36, 36), dtype=torch.float64)
    mean, std = (_tensor(np.array(triple))[:, None, None] for triple in (PREPROCESSING.mean, PREPROCESSING.std))
    embed = simplified.patch_embed
    _assert_equal(
        functional.conv2d(pixels, _tensor(embed.weight), _tensor(embed.bias), stride=4),
        network.patch_embed((pixels / 255 - mean) / std),
    )


def test_last_norm_and_last_bias_are_in_the_head(network: StripMLP, simplified: SimplifiedNetwork) -> None:
    x = _random(2, 320, 1, 1)
    bias = _left_out(cast("Block", network.blocks4[-1]))[:, None, None]
    _assert_equal(
        x.mean(dim=(2, 3)) @ _tensor(simplified.head.weight) + _tensor(simplified.head.bias),
        network.head(network.norm(x + bias).mean(dim=(2, 3))),
    )


def test_entry_norm_is_a_scale_and_a_shift(block: Block, tokens: SimplifiedTokenMixing) -> None:
    x = _random(2, 40, SIDE, SIDE)
    norm = block.token_mixing.dwsc.conv_merge.BN
    scale, shift = (_tensor(each)[:, None, None] for each in (tokens.entry_scale, tokens.entry_shift))
    _assert_equal(x * scale + shift, norm(x))


def test_spread_holds_its_norm(block: Block, tokens: SimplifiedTokenMixing) -> None:
    x = _random(2, 40, SIDE, SIDE)
    spread = block.token_mixing.smlp_block.mlp
    _assert_equal(functional.conv2d(x, _tensor(tokens.spread.weight), _tensor(tokens.spread.bias)), spread(x))


def test_rows_are_mixed_by_strips_and_one_map(block: Block, tokens: SimplifiedTokenMixing) -> None:
    x = _random(2, HALF, SIDE, SIDE)
    strips = block.token_mixing.smlp_block
    neighbours = functional.pad(x, (0, 0, 1, 1)).unfold(2, 3, 1).reshape(2, -1, GROUPS, SIDE, SIDE, 3)
    rows = torch.einsum("gowd,ncgiwd->ncgio", _tensor(tokens.row_strips), neighbours).reshape(2, HALF, SIDE, SIDE)
    _assert_equal(
        functional.conv2d(torch.cat([rows, x], dim=1), _tensor(tokens.row_fuse)) + _tensor(tokens.row_map),
        strips.BN(strips.fuse_h(torch.cat([strips.mix_rows(x + strips.relate_pos_h()), x], dim=1))),
    )


def test_columns_and_both_fusions_are_strips_and_one_map(block: Block, tokens: SimplifiedTokenMixing) -> None:
    first, fused, local = (_random(2, HALF, SIDE, SIDE) for _ in range(3))
    strips = block.token_mixing.smlp_block
    neighbours = functional.pad(fused, (1, 1)).unfold(3, 3, 1).reshape(2, -1, GROUPS, SIDE, SIDE, 3)
    columns = torch.einsum("goid,ncgijd->ncgoj", _tensor(tokens.column_strips), neighbours).reshape(first.shape)
    cascade = strips.fuse_w(torch.cat([first, strips.mix_columns(fused + strips.relate_pos_w())], dim=1))
    _assert_equal(
        functional.conv2d(torch.cat([first, columns, local], dim=1), _tensor(tokens.fuse)) + _tensor(tokens.output_map),
        strips.fuse(torch.cat([cascade, local], dim=1)),
    )


def test_branch_weights_are_ordered_by_branch(block: Block, tokens: SimplifiedTokenMixing) -> None:
    means = _random(2, HALF)
    reweight = block.token_mixing.smlp_block.reweight
    hidden = functional.gelu(means @ _tensor(tokens.reweight1.weight) + _tensor(tokens.reweight1.bias))
    by_branch = (hidden @ _tensor(tokens.reweight2.weight) + _tensor(tokens.reweight2.bias)).reshape(2, 3, HALF)
    _assert_equal(by_branch, reweight(means[:, :, None, None]).reshape(2, HALF, 3).transpose(1, 2))


def test_channel_mixing_needs_no_norm_weights_and_leaves_its_bias_out(
    block: Block, channels: SimplifiedChannelMixing
) -> None:
    x = _random(2, SIDE, SIDE, 40)
    mixing = block.channel_mixing
    norm = functional.layer_norm(x, (40,), eps=channels.norm_epsilon)
    expanded = norm @ _tensor(channels.expand.weight) + _tensor(channels.expand.bias)
    _assert_equal(expanded, mixing.fc1(mixing.layer_norm(x)))

    length = x.norm(dim=(1, 2), keepdim=True)
    share = length / (length.mean(dim=3, keepdim=True) + channels.response_epsilon)
    wide = torch.cat([x, x, x], dim=3)
    responded = wide * (1 + _tensor(channels.response_gain) * torch.cat([share, share, share], dim=3))
    _assert_equal(responded @ _tensor(channels.contract) + _left_out(block), mixing.fc2(mixing.grn(wide)))


def test_the_next_block_adds_the_bias_that_was_left_out() -> None:
    deep = random_network(ARCHITECTURE.model_copy(update={"depths": (2, 1, 1, 1)})).double()
    deep.requires_grad_(requires_grad=False)
    first, second = (cast("Block", block) for block in deep.blocks1)
    bias = _left_out(first)[:, None, None]
    tokens = simplify(deep, PREPROCESSING).stages[0][1].tokens
    x = _random(2, 40, SIDE, SIDE)
    scale, shift = (_tensor(each)[:, None, None] for each in (tokens.entry_scale, tokens.entry_shift))
    _assert_equal(x * scale + shift, second.token_mixing.dwsc.conv_merge.BN(x + bias))
    first.channel_mixing.fc2.bias.zero_()
    first.channel_mixing.grn.beta.zero_()
    without = simplify(deep, PREPROCESSING).stages[0][1].tokens
    _assert_equal(_tensor(tokens.output_map), _tensor(without.output_map) + bias)


def test_merging_adds_the_bias_that_its_stage_left_out(network: StripMLP, simplified: SimplifiedNetwork) -> None:
    mergings = zip(
        (network.merging1, network.merging2, network.merging3),
        (simplified.merging1, simplified.merging2, simplified.merging3),
        strict=True,
    )
    for stage, (merging, affine) in enumerate(mergings, 1):
        last = cast("list[Block]", network.get_submodule(f"blocks{stage}"))[-1]
        x = _random(2, 40 * 2 ** (stage - 1), SIDE, SIDE)
        _assert_equal(
            functional.conv2d(x, _tensor(affine.weight), _tensor(affine.bias), stride=2),
            merging(x + _left_out(last)[:, None, None]),
        )


def _left_out(block: Block) -> Tensor:
    """What a simplified block's result lacks, (C,)."""
    mixing = block.channel_mixing
    return mixing.fc2.bias + mixing.fc2.weight @ mixing.grn.beta.flatten()


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def _tensor(weights: Weights) -> Tensor:
    assert weights.dtype == np.float64
    return torch.from_numpy(weights)


def _assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
