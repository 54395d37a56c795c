from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_export.network import GlobalResponseNorm, RelativePosition, StripMixing, StripMLP, strip_groups
from tests.model_export.checkpoints import SMALL, random_network

# Channels of a stage with 5 and 1 strip groups of 4, and with 20 groups of 2.
strip_mixings = st.builds(StripMixing, st.sampled_from([8, 40, 80]), st.integers(1, 4)).map(
    lambda mixing: mixing.double().eval()
)


@pytest.mark.parametrize(
    ("channels", "groups"), [(8, 1), (16, 2), (40, 5), (80, 20), (96, 12), (112, 14), (160, 40), (240, 60), (896, 112)]
)
def test_strip_patch_is_2_in_multiples_of_80_channels_and_else_4(channels: int, groups: int) -> None:
    assert strip_groups(channels) == groups


@given(channels=st.integers(1, 4), side=st.integers(1, 6))
@settings(max_examples=20)
def test_position_depends_on_column_minus_row(channels: int, side: int) -> None:
    position = RelativePosition(channels, side)
    table, result = position.embeddings_table, position()
    assert result.shape == (channels, side, side)
    for channel, i, j in product(range(channels), range(side), range(side)):
        assert result[channel, i, j] == table[j - i + side, channel]


@given(mixing=strip_mixings, batch=st.integers(1, 2))
@settings(max_examples=15)
def test_rows_are_mixed_as_the_paper_says(mixing: StripMixing, batch: int) -> None:
    x = _strip_input(mixing, batch)
    torch.testing.assert_close(mixing.mix_rows(x), _mix_rows_by_definition(x, mixing))


@given(mixing=strip_mixings, batch=st.integers(1, 2))
@settings(max_examples=15)
def test_columns_are_mixed_as_rows_of_the_transposed_map(mixing: StripMixing, batch: int) -> None:
    x = _strip_input(mixing, batch)
    mixed = mixing.mix_columns(x)
    mixing.proj_h = mixing.proj_w
    torch.testing.assert_close(mixed, _mix_rows_by_definition(x.transpose(2, 3), mixing).transpose(2, 3))


def test_response_norm_as_defined() -> None:
    torch.manual_seed(0)
    norm = GlobalResponseNorm(6).double()
    with torch.no_grad():
        norm.gamma.normal_()
        norm.beta.normal_()
    x = torch.randn(2, 3, 3, 6, dtype=torch.float64)
    length = np.sqrt((x.numpy() ** 2).sum(axis=(1, 2)))
    share = torch.from_numpy(length / (length.mean(axis=1, keepdims=True) + 1e-6))[:, None, None, :]
    torch.testing.assert_close(norm(x), norm.gamma * x * share + norm.beta + x)


def test_local_mixing_weighs_each_branch_by_picture_and_channel() -> None:
    torch.manual_seed(0)
    mixing = StripMixing(16, 4).double().eval()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    wide, tall = mixing.fc_h(x), mixing.fc_w(x)
    weights = mixing.reweight((wide + tall + x).mean(dim=(2, 3), keepdim=True))
    expected = torch.empty_like(x)
    for picture, channel in product(range(3), range(8)):
        a, b, c = weights[picture, 3 * channel : 3 * channel + 3, 0, 0].softmax(0)
        expected[picture, channel] = a * tall[picture, channel] + b * wide[picture, channel] + c * x[picture, channel]
    torch.testing.assert_close(mixing.local_mixing(x), expected)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_picture_is_answered_the_same_in_any_company(batch: int) -> None:
    network = random_network(SMALL).double()
    torch.manual_seed(1)
    pictures = torch.randn(batch, 3, 32, 32, dtype=torch.float64)
    together = network(pictures)
    assert together.shape == (batch, 7)
    torch.testing.assert_close(together, torch.cat([network(picture[None]) for picture in pictures]))


def test_answering_leaves_the_weights_and_statistics_alone() -> None:
    network = random_network(SMALL)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_every_weight_matters() -> None:
    network = random_network(SMALL).double()
    network(torch.randn(2, 3, 32, 32, dtype=torch.float64)).square().sum().backward()
    # The strip layers' outer taps see only padding where the map is one pixel wide, so entries may be zero.
    idle = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


def test_pixels_beyond_the_last_whole_patch_are_not_seen() -> None:
    network = StripMLP(SMALL.model_copy(update={"image_size": 35})).eval()
    picture = torch.randn(1, 3, 35, 35)
    cut = picture.clone()
    cut[:, :, 32:], cut[:, :, :, 32:] = 0, 0
    assert torch.equal(network(picture), network(cut))


def _strip_input(mixing: StripMixing, batch: int) -> Tensor:
    return torch.randn(batch, mixing.BN.num_features, mixing.side, mixing.side, dtype=torch.float64)


def _mix_rows_by_definition(x: Tensor, mixing: StripMixing) -> Tensor:
    """s[c1, g, i, w'] = bias + sum over w, d in {-1, 0, 1} of K[g, w', w, d] · u[c1, g, i + d, w]."""
    side, groups = mixing.side, mixing.groups
    kernel = mixing.proj_h.weight.reshape(groups, side, side, 3)
    assert mixing.proj_h.bias is not None
    bias = mixing.proj_h.bias.reshape(groups, side)
    result = torch.empty_like(x)
    for channel, row in product(range(x.shape[1]), range(side)):
        group = channel % groups
        total = bias[group].expand(len(x), side)
        for d in (-1, 0, 1):
            if 0 <= row + d < side:
                total = total + x[:, channel, row + d] @ kernel[group, :, :, d + 1].T
        result[:, channel, row] = total
    return result
