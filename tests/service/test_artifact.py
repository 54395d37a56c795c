"""The document in a model's metadata: what is refused, and that nothing is lost on the way."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.artifact import METADATA_KEY, Architecture, Artifact, Preprocessing
from service.errors import UnusableModel
from tests.service.colours import artifact, parity

positive = st.floats(0, exclude_min=True, allow_infinity=False)


@st.composite
def artifacts(draw: st.DrawFn) -> Artifact:
    size = draw(st.integers(32, 1000))
    labels = draw(st.lists(st.text(), min_size=1, max_size=20))
    return artifact(
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True)),
        variant=draw(st.none() | st.text()),
        architecture=Architecture(
            embed_dim=8 * draw(st.integers(1, 20)),
            depths=draw(st.tuples(*[st.integers(1, 30)] * 4)),
            patch_size=draw(st.integers(1, 4)),
            image_size=size,
            num_classes=len(labels),
        ),
        labels=tuple(labels),
        preprocessing=Preprocessing(
            image_size=size,
            resize_side=draw(st.integers(size, 2000)),
            crop=draw(st.booleans()),
            interpolation=draw(st.sampled_from(["bilinear", "hamming", "bicubic", "lanczos"])),
            mean=draw(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3)),
            std=draw(st.tuples(positive, positive, positive)),
        ),
        libraries=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        parity=draw(st.none() | st.builds(parity, passed=st.booleans())),
    )


@given(artifacts())
@settings(max_examples=50)
def test_round_trip_through_metadata(document: Artifact) -> None:
    assert Artifact.from_metadata({METADATA_KEY: document.model_dump_json()}, "it") == document


def changed(**changes: Any) -> str:
    return json.dumps(artifact().model_dump(mode="json") | changes)


ARCHITECTURE = artifact().architecture.model_dump(mode="json")
PREPROCESSING = artifact().preprocessing.model_dump(mode="json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json", "its 'strip_mlp_artifact' metadata is not JSON"),
        ("[1, 2]", "metadata schema None, this service knows 1"),
        ("{}", "metadata schema None, this service knows 1"),
        (changed(schema_version=True), "metadata schema True, this service knows 1"),
        (changed(schema_version=2), "metadata schema 2, this service knows 1"),
        (changed(precision="int4"), "invalid at precision: Input should be 'fp32', 'fp16' or 'int8'"),
        (changed(name="../etc"), "invalid at name: "),
        (changed(name="colours\n"), "invalid at name: "),
        (changed(checkpoint_sha256="c0"), "invalid at checkpoint_sha256: "),
        (changed(colour="blue"), "invalid at colour: Extra inputs are not permitted"),
        (changed(labels=["red", "green"]), "invalid at the document: .*2 labels for 3 classes"),
        (changed(architecture={**ARCHITECTURE, "depths": [1, 1, 1]}), r"invalid at architecture\.depths\.3: "),
        (changed(architecture={**ARCHITECTURE, "depths": [1, 1, 0, 1]}), "every stage needs a block"),
        (changed(architecture={**ARCHITECTURE, "patch_size": 5}), "image size 32 with patch size 5 leaves no pixel"),
        (changed(architecture={**ARCHITECTURE, "embed_dim": 12}), "invalid at architecture.embed_dim: "),
        (changed(architecture={**ARCHITECTURE, "alpha": 4}), "invalid at architecture.alpha: "),
        (changed(architecture={**ARCHITECTURE, "image_size": 64}), "preprocessing makes 32 px, the network takes 64"),
        (changed(preprocessing={**PREPROCESSING, "resize_side": 31}), "resize side 31 is smaller than .* 32"),
        (changed(preprocessing={**PREPROCESSING, "std": [1, 0, 1]}), "every value must be above 0"),
        (
            changed(preprocessing={**PREPROCESSING, "mean": [0, 0, float("nan")]}),
            r"invalid at preprocessing\.mean\.2: ",
        ),
        (changed(preprocessing={**PREPROCESSING, "interpolation": "nearest"}), "preprocessing.interpolation: "),
        (changed(parity={**parity().model_dump(mode="json"), "rows": []}), "invalid at parity.rows: "),
    ],
)
def test_documents_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UnusableModel, match=f"(?s)^models/model.onnx.*{message}.*Export the checkpoint again"):
        Artifact.from_metadata({METADATA_KEY: text}, "models/model.onnx")


def test_a_file_without_the_document_is_refused() -> None:
    with pytest.raises(UnusableModel, match=r"^it has no 'strip_mlp_artifact' metadata.*written by strip-mlp-export"):
        Artifact.from_metadata({"author": "someone"}, "it")


def test_a_file_without_parity_report_is_refused() -> None:
    with pytest.raises(UnusableModel, match=r"^it has no parity report"):
        artifact(parity=None).require_parity("it")


def test_a_file_that_failed_its_parity_check_is_refused() -> None:
    with pytest.raises(UnusableModel, match=r"^it did not pass its parity check"):
        artifact(parity=parity(passed=False)).require_parity("it")


def test_a_file_that_passed_its_parity_check_is_accepted() -> None:
    artifact().require_parity("it")


def test_shapes_of_the_stages() -> None:
    tiny_224 = Architecture(embed_dim=80, depths=(2, 8, 14, 2), patch_size=4, image_size=224, num_classes=1000)

    assert [tiny_224.stage_channels(stage) for stage in (1, 2, 3, 4)] == [80, 160, 320, 640]
    assert [tiny_224.stage_side(stage) for stage in (1, 2, 3, 4)] == [56, 28, 14, 7]


def test_documents_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        artifact().__setattr__("name", "other")
