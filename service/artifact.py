"""What a served model says about itself: one JSON document in the ONNX file's metadata.

The exporter writes it, the service reads it; both validate it with the classes below. Every change that
an older reader would misunderstand raises `SCHEMA_VERSION`.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import UnusableModel

METADATA_KEY = "strip_mlp_artifact"
"""Key of the JSON document in the ONNX model's `metadata_props`."""

SCHEMA_VERSION: Final = 1

MODEL_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a model's name, and so its folder in the repository, may look like."""

Interpolation = Literal["bilinear", "hamming", "bicubic", "lanczos"]
"""Those of Pillow's filters that the authors' configuration knows, by their lower-case names."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]

Precision = Literal["fp32", "fp16", "int8"]
"""Of weights and arithmetic; int8 stands for 8-bit products in float32 surroundings."""

Triple = tuple[_Finite, _Finite, _Finite]
"""A value for each of red, green and blue."""


def _positive(values: Triple) -> Triple:
    if min(values) <= 0:
        raise ValueError("every value must be above 0")
    return values


class _Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Contract):
    """The numbers that fix a Strip-MLP's shape; they follow from its weights alone."""

    embed_dim: int = Field(gt=0, multiple_of=8, description="channels of stage 1")
    depths: tuple[int, int, int, int] = Field(description="blocks in stages 1 to 4")
    patch_size: int = Field(gt=0, description="side of the patch embedding's kernel, pixels")
    alpha: Literal[3] = Field(3, description="expansion of the channel mixing; the authors' code fixes it")
    image_size: int = Field(gt=0, description="side of the square input, pixels")
    num_classes: int = Field(gt=0)

    @model_validator(mode="after")
    def _stages_exist(self) -> Self:
        if min(self.depths) < 1:
            raise ValueError(f"every stage needs a block, depths are {self.depths}")
        if self.stage_side(4) < 1:
            raise ValueError(
                f"image size {self.image_size} with patch size {self.patch_size} leaves no pixel for stage 4"
            )
        return self

    def stage_channels(self, stage: int) -> int:
        """Channels of stage 1 to 4."""
        return self.embed_dim << (stage - 1)

    def stage_side(self, stage: int) -> int:
        """Side of the square feature map of stage 1 to 4."""
        return self.image_size // self.patch_size >> (stage - 1)


class Preprocessing(_Contract):
    """From an upright RGB picture to the network's pixels (the authors' evaluation transform).

    With `crop`, the short side is resized to `resize_side` and the centre square of `image_size` is cut
    out; without it, the picture is resized to the square directly. `mean` and `std` (of values in 0 to 1)
    are folded into the weights and given for information.
    """

    image_size: int = Field(gt=0, description="side of the square input, pixels")
    resize_side: int = Field(gt=0, description="pixels")
    crop: bool
    interpolation: Interpolation
    mean: Triple
    std: Annotated[Triple, AfterValidator(_positive)]

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize_side < self.image_size:
            raise ValueError(f"resize side {self.resize_side} is smaller than the image size {self.image_size}")
        return self


Source = Literal["random pixels", "encoded pictures", "held-back pictures"]
"""Of pictures that a file is proven with."""


class ParityRow(_Contract):
    """Candidate against reference over the pictures of one source, run in batches of one size."""

    source: Source
    batch_size: int
    pictures: int
    max_abs_logit_error: float
    mean_abs_logit_error: float
    max_abs_probability_error: float
    top1_agreement: float = Field(ge=0, le=1)
    top5_agreement: float = Field(ge=0, le=1, description="share of pictures whose sets of five best classes agree")


class Accuracy(_Contract):
    """Shares of pictures of known class whose best class is the right one."""

    pictures: int
    reference: float = Field(ge=0, le=1)
    candidate: float = Field(ge=0, le=1)


class ParityReport(_Contract):
    """The proof that the file computes what the checkpoint computes, as nearly as its precision allows."""

    reference: str
    candidate: str
    pictures: str | None = Field(None, description="which pictures those held back are")
    logit_range: float = Field(description="largest minus smallest logit of the reference")
    max_abs_logit_error_allowed: float | None = Field(description="none: not bounded")
    max_abs_probability_error_allowed: float | None = Field(None, description="none: not bounded")
    top1_agreement_required: float = 1
    accuracy: Accuracy | None = Field(None, description="none where no picture's class is known")
    accuracy_loss_allowed: float | None = Field(None, description="none: not bounded")
    rows: tuple[ParityRow, ...] = Field(min_length=1)
    passed: bool


class Artifact(_Contract):
    """The whole document."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=MODEL_NAME_PATTERN)
    variant: str | None = Field(description="the published variant that has this architecture, if any")
    architecture: Architecture
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    precision: Precision
    checkpoint_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    libraries: dict[str, str] = Field(description="versions the export was made with")
    parity: ParityReport | None = Field(description="none only while the export is still checking the file")

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if len(self.labels) != self.architecture.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.architecture.num_classes} classes")
        if self.preprocessing.image_size != self.architecture.image_size:
            raise ValueError(
                f"preprocessing makes {self.preprocessing.image_size} px, "
                f"the network takes {self.architecture.image_size} px"
            )
        return self

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> Self:
        """Read the document from an ONNX model's metadata.

        Args:
            metadata: the model's `metadata_props` as a mapping.
            source: how to call the file in messages.

        Raises:
            UnusableModel: there is no document, its schema is another one, or it does not validate.
        """
        advice = "Export the checkpoint again with this version's strip-mlp-export."
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise UnusableModel(
                f"{source} has no '{METADATA_KEY}' metadata, so its labels and preprocessing are unknown. "
                "Only files written by strip-mlp-export can be served."
            )
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise UnusableModel(f"{source}: its '{METADATA_KEY}' metadata is not JSON ({error}). {advice}") from error
        found = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(found, bool) or found != SCHEMA_VERSION:
            raise UnusableModel(
                f"{source} has metadata schema {found!r}, this service knows {SCHEMA_VERSION}. {advice}"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the document"
            raise UnusableModel(f"{source}: metadata is invalid at {place}: {first['msg']}. {advice}") from error

    def require_parity(self, source: str) -> None:
        """Refuse a file that was not shown to compute what its checkpoint computes.

        Raises:
            UnusableModel: there is no parity report, or it did not pass.
        """
        if self.parity is None:
            raise UnusableModel(f"{source} has no parity report. Export the checkpoint again with strip-mlp-export.")
        if not self.parity.passed:
            raise UnusableModel(
                f"{source} did not pass its parity check, so it would answer differently from its checkpoint. "
                "Export the checkpoint again with strip-mlp-export and read its report."
            )
