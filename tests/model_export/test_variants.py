import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model_export.architecture import infer_architecture
from model_export.network import StripMLP
from model_export.variants import VARIANTS, Variant, variant_name
from tests.model_export.checkpoints import meta_state_dict, unread_checkpoint

# The paper's table 1, to the unit where the authors' code tells it.
PUBLISHED = {
    "Strip-MLP-T*": (18_243_920, 2.52, 518),
    "Strip-MLP-T": (24_903_920, 3.65, 770),
    "Strip-MLP-S": (42_568_600, 6.80, 1022),
    "Strip-MLP-B": (57_216_480, 9.18, 1022),
}

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)


def test_there_are_the_four_published_variants() -> None:
    assert [variant.name for variant in VARIANTS] == list(PUBLISHED)


@each_variant
def test_size_and_arithmetic_are_the_published_ones(variant: Variant) -> None:
    with torch.device("meta"):
        network = StripMLP(variant.architecture()).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, 224, 224))
    parameters, gigamacs, entries = PUBLISHED[variant.name]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert round(counter.get_total_flops() / 2 / 1e9, 2) == gigamacs
    assert len(network.state_dict()) == entries


@each_variant
@pytest.mark.parametrize("num_classes", [10, 100, 101, 1000])
def test_every_variant_is_recognised_by_its_weights(variant: Variant, num_classes: int) -> None:
    architecture = variant.architecture(num_classes)
    inferred = infer_architecture(unread_checkpoint(meta_state_dict(architecture)))
    assert inferred == architecture
    assert variant_name(inferred) == variant.name


@pytest.mark.parametrize(
    "change", [{"image_size": 256}, {"patch_size": 2}, {"depths": (2, 2, 7, 2)}, {"embed_dim": 88}], ids=str
)
def test_what_departs_from_a_variant_has_no_name(change: dict[str, object]) -> None:
    assert variant_name(VARIANTS[0].architecture().model_copy(update=change)) is None
