import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_export.architecture import infer_architecture, load_network
from model_export.errors import CheckpointError, OptionError
from service.artifact import Architecture
from tests.model_export.checkpoints import SMALL, meta_state_dict, random_network, unread_checkpoint

TABLE = "blocks1.0.token_mixing.smlp_block.relate_pos_h.embeddings_table"

depths = st.integers(1, 3)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    patch = draw(st.sampled_from([2, 4]))
    return Architecture(
        embed_dim=8 * draw(st.integers(1, 16)),
        depths=draw(st.tuples(depths, depths, depths, depths)),
        patch_size=patch,
        image_size=patch * draw(st.integers(8, 70)),
        num_classes=draw(st.integers(1, 2000)),
    )


@given(architectures())
@settings(max_examples=30)
def test_weights_tell_their_architecture(architecture: Architecture) -> None:
    assert infer_architecture(unread_checkpoint(meta_state_dict(architecture))) == architecture


@given(st.data())
@settings(max_examples=15)
def test_the_configuration_tells_the_pixels_beyond_the_last_patch(data: st.DataObject) -> None:
    patch = data.draw(st.sampled_from([2, 4]))
    beyond = data.draw(st.integers(0, patch - 1))
    architecture = SMALL.model_copy(update={"patch_size": patch, "image_size": 8 * patch + beyond})
    checkpoint = unread_checkpoint(meta_state_dict(architecture), image_size=architecture.image_size)
    assert infer_architecture(checkpoint) == architecture


def test_a_configuration_that_agrees_changes_nothing() -> None:
    config = SMALL.model_dump(include={"embed_dim", "depths", "image_size", "num_classes"})
    assert infer_architecture(unread_checkpoint(meta_state_dict(SMALL), **config)) == SMALL


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_size": 36}, "DATA.IMG_SIZE = 36, its weights have 32"),
        ({"image_size": 31}, "DATA.IMG_SIZE = 31, its weights have 32"),
        ({"num_classes": 10}, "MODEL.NUM_CLASSES = 10, its weights have 7"),
        ({"embed_dim": 32}, "MODEL.STRIP_MLP.EMBED_DIM = 32, its weights have 16"),
        ({"depths": (1, 1, 1, 1)}, "MODEL.STRIP_MLP.LAYERS = (1, 1, 1, 1), its weights have (1, 2, 1, 1)"),
        ({"depths": (1, 2, 1)}, "MODEL.STRIP_MLP.LAYERS = (1, 2, 1), its weights have (1, 2, 1, 1)"),
    ],
)
def test_a_configuration_that_contradicts_the_weights(config: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        infer_architecture(unread_checkpoint(meta_state_dict(SMALL), **config))


@pytest.mark.parametrize("key", ["patch_embed.weight", TABLE, "head.weight"])
def test_weights_of_another_network_are_refused_with_what_they_lack(key: str) -> None:
    state = meta_state_dict(SMALL)
    del state[key]
    with pytest.raises(CheckpointError, match=re.escape(f"'{key}' is missing")):
        infer_architecture(unread_checkpoint(state))


def test_the_message_shows_what_a_foreign_file_has() -> None:
    with pytest.raises(CheckpointError, match=r"not a Strip-MLP's.*patch_embed\.weight.*first keys are weight, bias"):
        infer_architecture(unread_checkpoint(torch.nn.Linear(3, 2).state_dict()))


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("head.weight", (7,), r"'head.weight' is \(7,\), which should have 2 dimensions"),
        ("patch_embed.weight", (12, 3, 4, 4), "multiple of 8"),
        ("patch_embed.weight", (0, 3, 4, 4), "greater than 0"),
        ("patch_embed.weight", (16, 3, 0, 0), "shapes are no Strip-MLP's"),
        (TABLE, (9, 8), "leaves no pixel for stage 4"),
        (TABLE, (0, 8), "shapes are no Strip-MLP's"),
    ],
)
@pytest.mark.parametrize("config", [{}, {"image_size": 32}], ids=["without config", "with config"])
def test_impossible_shapes(key: str, shape: tuple[int, ...], message: str, config: dict[str, Any]) -> None:
    state = meta_state_dict(SMALL) | {key: torch.empty(shape, device="meta")}
    with pytest.raises(CheckpointError, match=message):
        infer_architecture(unread_checkpoint(state, **config))


def test_a_stage_without_blocks() -> None:
    state = {key: value for key, value in meta_state_dict(SMALL).items() if not key.startswith("blocks3.")}
    with pytest.raises(CheckpointError, match=re.escape("every stage needs a block, depths are (1, 2, 0, 1)")):
        infer_architecture(unread_checkpoint(state))


def test_a_stray_block_number_makes_no_blocks() -> None:
    state = meta_state_dict(SMALL)
    state["blocks1.999999999.x"] = state["head.bias"]
    architecture = infer_architecture(unread_checkpoint(state))
    assert architecture.depths == (2, 2, 1, 1)


def test_the_network_computes_in_double_precision_what_the_weights_say() -> None:
    original = random_network(SMALL)
    network = load_network(original.state_dict(), SMALL)
    picture = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert not network.training
    assert torch.equal(network(picture), original.double()(picture))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_weights_of_low_precision_are_taken_as_they_are(dtype: torch.dtype) -> None:
    state = random_network(SMALL).state_dict()
    state["head.weight"] = state["head.weight"].to(dtype)
    assert torch.equal(load_network(state, SMALL).head.weight, state["head.weight"].double())


def test_counters_of_the_batch_norms_may_be_left_out() -> None:
    state = {key: value for key, value in random_network(SMALL).state_dict().items() if "num_batches" not in key}
    load_network(state, SMALL)


@given(st.sampled_from([key for key in meta_state_dict(SMALL) if "num_batches" not in key]))
@settings(max_examples=10)
def test_a_missing_weight_is_named(key: str) -> None:
    state = random_network(SMALL).state_dict()
    del state[key]
    with pytest.raises(CheckpointError, match=re.escape(f"missing (1): {key}") + "$"):
        load_network(state, SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema.weight": torch.zeros(1)}, "unexpected (1): ema.weight"),
        ({"norm.bias": torch.zeros(7)}, "misshapen (1): norm.bias is (7,) instead of (128,)"),
        ({"norm.bias": torch.full((128,), torch.nan)}, "without finite real numbers (1): norm.bias"),
        ({"head.bias": torch.full((7,), -torch.inf)}, "without finite real numbers (1): head.bias"),
    ],
    ids=["unexpected", "misshapen", "not a number", "infinite"],
)
def test_a_weight_that_does_not_fit_is_named(changes: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_network(random_network(SMALL).state_dict() | changes, SMALL)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(7, 128, dtype=torch.complex64),
        torch.zeros(7, 128).to_sparse(),
        torch.zeros(7, 128, device="meta"),
    ],
    ids=["complex", "sparse", "without data"],
)
def test_a_weight_that_is_no_array_of_usable_numbers_is_named(weight: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        load_network(random_network(SMALL).state_dict() | {"head.weight": weight}, SMALL)


def test_of_every_kind_the_first_five_are_named() -> None:
    state = random_network(SMALL).state_dict()
    lacking = {key: value for key, value in state.items() if not key.startswith("blocks2.")}
    extra = {f"extra{index}": torch.zeros(1) for index in range(6)}
    with pytest.raises(CheckpointError) as caught:
        load_network(lacking | extra, SMALL)
    message = str(caught.value)
    assert re.search(r"missing \(\d\d\): (blocks2\S+, ){5}…; ", message)
    assert "unexpected (6): extra0, extra1, extra2, extra3, extra4, …" in message
