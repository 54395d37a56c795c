from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_export.graph import build_graph
from model_export.reference import reference_logits
from model_export.simplify import SimplifiedNetwork, simplify
from model_export.variants import VARIANTS
from service.artifact import Architecture, Preprocessing
from service.preprocessing import Pixels
from tests.model_export.checkpoints import SMALL, random_network

TOLERANCE = 1e-4


def _architecture(embed_dim: int, image_size: int, patch_size: int, *depths: int) -> Architecture:
    return Architecture(
        embed_dim=embed_dim,
        depths=depths or (1, 1, 1, 1),
        patch_size=patch_size,
        image_size=image_size,
        num_classes=7,
    )


def _preprocessing(image_size: int) -> Preprocessing:
    return Preprocessing(
        image_size=image_size,
        resize_side=image_size,
        crop=True,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def _run(model: onnx.ModelProto, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"pixels": pixels})
    return logits, probabilities


def _pixels(batch: int, size: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def _assert_answers_agree(architecture: Architecture, seed: int, batches: tuple[int, ...]) -> None:
    network = random_network(architecture, seed).double()
    preprocessing = _preprocessing(architecture.image_size)
    model = build_graph(simplify(network, preprocessing))
    for batch in batches:
        pixels = _pixels(batch, architecture.image_size)
        expected = reference_logits(network, torch.from_numpy(pixels), preprocessing)
        logits, probabilities = _run(model, pixels)
        assert logits.shape == (batch, architecture.num_classes)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(probabilities, expected.softmax(dim=1), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "architecture",
    [
        _architecture(16, 32, 4, 1, 2, 1, 3),
        _architecture(80, 32, 4),
        _architecture(40, 32, 4),
        _architecture(24, 36, 4),
        _architecture(24, 23, 2),
        _architecture(16, 16, 2, 2, 1, 1, 1),
        _architecture(8, 10, 1),
        _architecture(8, 68, 4),
    ],
    ids=[
        "several blocks",
        "strip patch 2",
        "strip patch 4, then 2",
        "odd map side",
        "every map side odd, pixels left over",
        "patch 2",
        "patch 1",
        "last map of 2 pixels",
    ],
)
def test_the_graph_computes_what_the_unsimplified_network_computes(architecture: Architecture) -> None:
    _assert_answers_agree(architecture, seed=0, batches=(1, 2, 5))


@given(
    architecture=st.builds(
        Architecture,
        embed_dim=st.sampled_from([8, 16, 24, 40]),
        depths=st.tuples(*[st.integers(1, 2)] * 4),
        patch_size=st.sampled_from([2, 4]),
        image_size=st.integers(32, 50),
        num_classes=st.integers(1, 9),
    ),
    seed=st.integers(0, 1000),
    batch=st.integers(1, 5),
)
@settings(max_examples=10)
def test_any_graph_computes_what_its_network_computes(architecture: Architecture, seed: int, batch: int) -> None:
    _assert_answers_agree(architecture, seed, (batch,))


@pytest.fixture(scope="module")
def simplified() -> SimplifiedNetwork:
    return simplify(random_network(SMALL).double(), _preprocessing(32))


@pytest.fixture(scope="module")
def model(simplified: SimplifiedNetwork) -> onnx.ModelProto:
    return build_graph(simplified)


def _places(part: object, *path: str | int) -> list[tuple[str | int, ...]]:
    """Where the arrays are in a simplified network."""
    if isinstance(part, np.ndarray):
        return [path]
    if isinstance(part, tuple):
        return [place for index, item in enumerate(part) for place in _places(item, *path, index)]
    if is_dataclass(part):
        return [place for field in fields(part) for place in _places(getattr(part, field.name), *path, field.name)]
    return []


def _changed(part: Any, path: tuple[str | int, ...]) -> Any:
    if not path:
        # Not by one factor: a LayerNorm would take it out again.
        return part * np.linspace(1, 1.1, part.size).reshape(part.shape)
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return (*part[:step], _changed(part[step], rest), *part[step + 1 :])
    return replace(part, **{step: _changed(getattr(part, step), rest)})


def test_every_weight_counts_for_more_than_the_tolerance(simplified: SimplifiedNetwork, model: onnx.ModelProto) -> None:
    # If it did not, the comparisons above could not tell a wrong one.
    pixels = _pixels(2, 32)
    expected, _ = _run(model, pixels)
    for place in (place for place in _places(simplified) if place[1:2] not in [(1,), (2,)]):
        logits, _ = _run(build_graph(_changed(simplified, place)), pixels)
        assert np.abs(logits - expected).max() > TOLERANCE, place


@pytest.mark.parametrize("architecture", [SMALL, _architecture(80, 36, 4)], ids=["small", "odd side"])
def test_the_graph_is_valid_onnx(architecture: Architecture) -> None:
    network = random_network(architecture).double()
    onnx.checker.check_model(build_graph(simplify(network, _preprocessing(architecture.image_size))), full_check=True)


def test_input_and_outputs(model: onnx.ModelProto) -> None:
    def signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [side.dim_param or side.dim_value for side in tensor.shape.dim]

    assert [signature(value) for value in model.graph.input] == [
        ("pixels", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])
    ]
    assert [signature(value) for value in model.graph.output] == [
        ("logits", onnx.TensorProto.FLOAT, ["batch", 7]),
        ("probabilities", onnx.TensorProto.FLOAT, ["batch", 7]),
    ]


def test_pixels_go_straight_to_the_patch_embedding(model: onnx.ModelProto) -> None:
    assert [(node.op_type, node.name) for node in model.graph.node[:3]] == [
        ("Cast", "input/to_float"),
        ("Transpose", "input/to_nchw"),
        ("Conv", "patch_embed"),
    ]
    assert all(
        node.input[0] == before.output[0] for before, node in zip(model.graph.node, model.graph.node[1:3], strict=False)
    )


def test_norms_and_position_tables_are_gone(model: onnx.ModelProto) -> None:
    assert not {node.op_type for node in model.graph.node} & {"BatchNormalization", "Sub"}
    tables = {(2 * SMALL.stage_side(stage) + 1, SMALL.stage_channels(stage) // 2) for stage in (1, 2, 3, 4)}
    weights = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    assert not tables & (set(weights.values()) | {shape[::-1] for shape in weights.values()})
    assert not [name for name in weights if "pos" in name or "table" in name]


def test_names_are_given_once_and_tell_the_place(model: onnx.ModelProto) -> None:
    nodes = [node.name for node in model.graph.node]
    weights = [weight.name for weight in model.graph.initializer]
    assert len(set(nodes)) == len(nodes)
    assert len(set(weights)) == len(weights)
    assert {name.rpartition("/tokens/")[0] for name in nodes if "/tokens/" in name} == {
        f"stage{stage}/block{block}" for stage, depth in enumerate(SMALL.depths, 1) for block in range(depth)
    }
    assert set(weights) == {name for node in model.graph.node for name in node.input} & set(weights)


def test_weights_are_in_single_precision(model: onnx.ModelProto) -> None:
    kinds = {weight.data_type for weight in model.graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_a_published_variant_at_full_size() -> None:
    architecture = VARIANTS[0].architecture()
    _assert_answers_agree(architecture, seed=0, batches=(1,))
