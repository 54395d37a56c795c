"""The export from end to end: read, infer, simplify, write, lower the precision, prove, publish."""

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import onnx
from onnx import helper
from pydantic import ValidationError
from rich.progress import Progress

from model_export.architecture import infer_architecture, load_network
from model_export.calibration import LEAST, CalibrationSet
from model_export.checkpoint import Checkpoint, read_checkpoint
from model_export.errors import OptionError, OutputError, ParityFailed
from model_export.graph import build_graph
from model_export.labels import read_labels
from model_export.precision import Proven, Prover
from model_export.sample_pictures import read_pictures, sample_pictures
from model_export.simplify import simplify
from model_export.variants import variant_name
from service.artifact import METADATA_KEY, Architecture, Artifact, Interpolation, Precision, Preprocessing, Triple
from service.cpus import usable_cpus
from service.errors import UnusableModel
from service.repository import MODEL_FILE
from service.session import Session

T = TypeVar("T")

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
"""The authors normalise every data set with ImageNet's."""

LIBRARIES = ("strip-mlp-serving", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow")


@dataclass(frozen=True)
class ExportOptions:
    """What to export and where to. None leaves a choice to the checkpoint's configuration, then to the default."""

    checkpoint: Path
    output: Path
    name: str | None = None
    version: int | None = None
    labels: str | None = None
    crop: bool | None = None
    interpolation: Interpolation | None = None
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    pictures: Path | None = None
    precision: Precision = "fp32"
    calibration: Path | None = None
    """Pictures for int8."""


@dataclass(frozen=True)
class Exported:
    """A written model."""

    path: Path
    artifact: Artifact


def export(options: ExportOptions, progress: Progress) -> Exported:
    """Export a checkpoint into a model repository. The file appears whole and proven, or not at all.

    Raises:
        ExportError: in one of its kinds; no model was written.
    """
    _check_calibration(options)
    own_pictures = read_pictures(options.pictures) if options.pictures is not None else []
    checkpoint = read_checkpoint(options.checkpoint)
    architecture = infer_architecture(checkpoint)
    artifact = _describe(options, checkpoint, architecture)
    destination = _destination(options, artifact.name)
    network = load_network(checkpoint.state_dict, architecture)
    model = build_graph(simplify(network, artifact.preprocessing))
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".export-", dir=options.output) as folder:
            staged = Path(folder) / destination.name / MODEL_FILE
            staged.parent.mkdir()
            proven = _prove(
                options,
                Prover(network, sample_pictures() + own_pictures, partial(_save, path=staged), progress),
                model,
                artifact,
            )
            artifact = artifact.model_copy(update={"parity": proven.report})
            if not proven.report.passed:
                raise ParityFailed(proven.report)
            _check_same_answers(proven.session, _save(proven.model, artifact, staged))
            destination.parent.mkdir(exist_ok=True)
            staged.parent.rename(destination)
    except (OSError, UnusableModel) as error:
        raise OutputError(f"cannot write {destination / MODEL_FILE}: {error}") from error
    return Exported(destination / MODEL_FILE, artifact)


def _check_calibration(options: ExportOptions) -> None:
    if options.precision == "int8" and options.calibration is None:
        raise OptionError(
            "--precision int8 needs --calibration: a directory of pictures like those to be classified, at least "
            f"{LEAST}, which tell the ranges of the activations and whether the answers stay the same"
        )
    if options.precision != "int8" and options.calibration is not None:
        raise OptionError(f"--calibration is for --precision int8, not for {options.precision}")


def _prove(options: ExportOptions, prover: Prover, model: onnx.ModelProto, artifact: Artifact) -> Proven:
    if options.calibration is not None:
        pictures = CalibrationSet.read(options.calibration, artifact, prover.progress)
        return prover.in_8_bits(model, artifact, pictures)
    if options.precision == "fp16":
        return prover.in_half(model, artifact)
    return prover.against_checkpoint(model, artifact)


def _describe(options: ExportOptions, checkpoint: Checkpoint, architecture: Architecture) -> Artifact:
    """Everything that the artifact says but its parity."""
    config, size = checkpoint.config, architecture.image_size
    crop = _first(options.crop, config.crop, True)
    try:
        return Artifact(
            name=options.name if options.name is not None else _default_name(options, checkpoint),
            variant=variant_name(architecture),
            architecture=architecture,
            labels=read_labels(options.labels, config.dataset, architecture.num_classes),
            preprocessing=Preprocessing.model_validate(
                {
                    "image_size": size,
                    "resize_side": int((256 / 224) * size) if crop else size,
                    "crop": crop,
                    "interpolation": _first(options.interpolation, config.interpolation, "bicubic"),
                    "mean": options.mean,
                    "std": options.std,
                }
            ),
            precision=options.precision,
            checkpoint_sha256=checkpoint.sha256,
            libraries=_library_versions(),
            parity=None,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise OptionError(f"{field} is {first['input']!r}: {first['msg']}; give --{field}") from error


def _default_name(options: ExportOptions, checkpoint: Checkpoint) -> str:
    """A lower precision has a name of its own, or it would replace the model in float32 as its newest version."""
    name = _first(checkpoint.config.name, None, options.checkpoint.name.partition(".")[0])
    return name if options.precision == "fp32" else f"{name}-{options.precision}"


def _first(option: T | None, configured: T | None, default: T) -> T:
    return option if option is not None else configured if configured is not None else default


def _library_versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = installed_version(library)
        except ModuleNotFoundError:  # of the two runtimes, one is there
            continue
    return versions


def _destination(options: ExportOptions, name: str) -> Path:
    """The new version's folder: the one asked for, or the one after the highest that is there."""
    folder = options.output / name
    version = options.version
    if version is None:
        present = [int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal()]
        version = max(present, default=0) + 1
    destination = folder / str(version)
    if destination.exists():
        raise OptionError(f"{destination} exists already; choose another --version or remove it")
    return destination


def _save(model: onnx.ModelProto, artifact: Artifact, path: Path) -> Session:
    """Write the model with its metadata, and open it as the service does."""
    helper.set_model_props(model, {METADATA_KEY: artifact.model_dump_json()})
    onnx.save(model, path)
    return Session.open(path, device="cpu", threads=usable_cpus())


def _check_same_answers(proven: Session, final: Session) -> None:
    """The final file, which differs by its metadata, is the proven one: bit for bit the same on one batch."""
    size = final.artifact.architecture.image_size
    pixels = np.arange(2 * size * size * 3, dtype=np.uint8).reshape(2, size, size, 3)
    if not np.array_equal(proven.run(pixels).logits, final.run(pixels).logits):
        raise OutputError("the file on disk does not answer as the one that was checked; is the disk failing?")
