"""A tiny model in place of a Strip-MLP: three logits, the picture's mean red, green and blue over `LEVEL`."""

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from service.artifact import METADATA_KEY, Architecture, Artifact, ParityReport, ParityRow, Preprocessing

SIZE = 32

LEVEL = 64.0
"""Keeps the probabilities of a strong colour away from 1."""


def parity(*, passed: bool = True) -> ParityReport:
    """A report with two rows, of which the second has the larger error."""
    rows = tuple(
        ParityRow(
            source="random pixels",
            batch_size=1,
            pictures=1,
            max_abs_logit_error=error,
            mean_abs_logit_error=error,
            max_abs_probability_error=error,
            top1_agreement=1.0,
            top5_agreement=1.0,
        )
        for error in (0.125, 0.25)
    )
    return ParityReport(
        reference="the test", candidate="the test", logit_range=1.0, max_abs_logit_error_allowed=1.0, rows=rows,
        passed=passed,
    )  # fmt: skip


def artifact(**changes: Any) -> Artifact:
    """The model's document; the changes are not validated."""
    document = Artifact(
        name="colours",
        variant=None,
        architecture=Architecture(embed_dim=8, depths=(1, 1, 1, 1), patch_size=4, image_size=SIZE, num_classes=3),
        labels=("red", "green", "blue"),
        preprocessing=Preprocessing(
            image_size=SIZE, resize_side=SIZE, crop=True, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
        ),
        precision="fp32",
        checkpoint_sha256="c0" * 32,
        libraries={"onnx": onnx.__version__},
        parity=parity(),
    )
    return document.model_copy(update=changes)


def save(
    path: Path,
    metadata: str | None = None,
    *,
    input_name: str = "pixels",
    input_type: int = TensorProto.UINT8,
    size: int = SIZE,
    batch: int | str = "batch",
    largest_batch: int = 1 << 30,
    numbers_up_to: float = 1000,
    at_white: str | None = None,
    rounds: int = 0,
    mib: float = 0,
    outputs: tuple[str, str] = ("logits", "probabilities"),
) -> Path:
    """Write the model as an ONNX file; a keyword makes it another model than its document promises.

    At a white picture it may have its run `raise`, or `linger` for so many rounds of a loop. A run takes so many MiB of
    memory for each picture.
    """
    logits, probabilities = outputs
    nodes = [
        helper.make_node("Cast", [input_name], ["samples"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["samples", "axes"], ["all_means"], keepdims=0),
        # Refuses a batch above the largest, which no shape inference can foresee.
        helper.make_node("Shape", ["all_means"], ["shape"]),
        helper.make_node("Min", ["shape", "largest"], ["bounded"]),
        helper.make_node("Reshape", ["all_means", "bounded"], ["means"]),
        # The logarithm of a mean's distance from the limit, times 0: no number at the limit and beyond.
        helper.make_node("Sub", ["limit", "means"], ["left"]),
        helper.make_node("Log", ["left"], ["logarithm"]),
        helper.make_node("Mul", ["logarithm", "zero"], ["nothing"]),
        helper.make_node("Div", ["means", "level"], ["levels"]),
        *_whiteness(at_white, rounds),
        helper.make_node("Size", ["means"], ["three_a_picture"]),
        helper.make_node("Mul", ["three_a_picture", "room"], ["floats"]),
        helper.make_node("ConstantOfShape", ["floats"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zeros_alone"], keepdims=0),
        helper.make_node("Sum", ["levels", "nothing", "trouble", "zeros_alone"], [logits]),
        helper.make_node("Softmax", [logits], [probabilities]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(input_name, input_type, [batch, size, size, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in outputs],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("largest", TensorProto.INT64, [2], [largest_batch, 3]),
            helper.make_tensor("level", TensorProto.FLOAT, [], [LEVEL]),
            helper.make_tensor("limit", TensorProto.FLOAT, [], [numbers_up_to]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("room", TensorProto.INT64, [1], [max(1, int(mib * (1 << 20) / 12))]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata is not None:
        helper.set_model_props(model, {METADATA_KEY: metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def _whiteness(then: str | None, rounds: int) -> list[onnx.NodeProto]:
    """Nodes whose output `trouble` is 0, if a white picture lets it come."""

    def constant(name: str, kind: int, shape: list[int], value: float) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, [value]))

    nodes = [
        constant("none", TensorProto.FLOAT, [1], 0.0),
        constant("nearly", TensorProto.FLOAT, [], 254.0),
        constant("colours", TensorProto.INT64, [1], 1),
        helper.make_node("ReduceMin", ["means", "colours"], ["darkest"], keepdims=0),
        helper.make_node("ReduceMax", ["darkest"], ["whitest"], keepdims=0),
        helper.make_node("Greater", ["whitest", "nearly"], ["is_white"]),
        helper.make_node("Cast", ["is_white"], ["number"], to=TensorProto.INT64),
    ]
    match then:
        case "raise":  # there is nothing at place 1
            return [*nodes, helper.make_node("Gather", ["none", "number"], ["trouble"])]
        case "linger":
            body = helper.make_graph(
                [
                    helper.make_node("Identity", ["goes_on"], ["still"]),
                    helper.make_node("Identity", ["before"], ["after"]),
                ],
                "round",
                [
                    helper.make_tensor_value_info("round", TensorProto.INT64, []),
                    helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]),
                ],
                [
                    helper.make_tensor_value_info("still", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("after", TensorProto.FLOAT, [1]),
                ],
            )
            return [
                *nodes,
                constant("rounds", TensorProto.INT64, [], rounds),
                helper.make_node("Mul", ["number", "rounds"], ["many"]),
                helper.make_node("Loop", ["many", "", "none"], ["trouble"], body=body),
            ]
    return [constant("trouble", TensorProto.FLOAT, [1], 0.0)]


def save_served(models: Path, name: str = "colours", version: int = 1, **changes: Any) -> Path:
    """Put the model into a repository, ready to be served but for the changes to its document."""
    return save(models / name / str(version) / "model.onnx", artifact(**changes).model_dump_json())
