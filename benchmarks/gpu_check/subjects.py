"""The models that are checked: files that somebody names, and the published variants with random weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper
from pydantic import TypeAdapter

from benchmarks.gpu_check.records import Precision
from service.artifact import METADATA_KEY, Architecture, Artifact, Preprocessing
from service.providers import CPU, CUDA, TENSORRT, GpuOptions, expected_provider
from service.session import Session

LARGEST_BATCH = 256


@dataclass(frozen=True)
class Subject:
    """One model in one precision."""

    model: str
    precision: Precision
    path: Path
    single: Path
    """The same in float32; without rounding it would answer the same."""
    cuda_graphs: bool

    def open(self, device: str) -> Session:
        """On the device, as the service opens it."""
        return Session.open(self.path, device=device, threads=1, gpu=self.gpu)

    @property
    def gpu(self) -> GpuOptions:
        """How it runs on a GPU."""
        return GpuOptions(self.precision == "tf32", self.cuda_graphs, largest_batch=LARGEST_BATCH)


def in_precisions(
    singles: Mapping[str, Path], precisions: Sequence[str], folder: Path, *, cuda_graphs: bool
) -> list[Subject]:
    """Every model in every precision.

    Args:
        singles: files in float32 by the models' names.
        precisions: which; `Precision` says what there is.
        folder: where files in float16 go.
        cuda_graphs: whether they run so.
    """
    subjects: list[Subject] = []
    for model, single in singles.items():
        for precision in TypeAdapter(list[Precision]).validate_python(precisions):
            path = single
            if precision == "fp16":
                path = folder / f"{len(subjects)}-fp16.onnx"
                onnx.save(_halved(onnx.load(single)), path)
            subjects.append(Subject(model, precision, path, single, cuda_graphs))
    return subjects


def name_of(file: Path) -> str:
    """What a file of the exporter calls itself."""
    return Artifact.from_metadata({entry.key: entry.value for entry in onnx.load(file).metadata_props}, str(file)).name


def device_kind(device: str) -> str:
    """How onnxruntime calls memory of the device."""
    return {CPU: "cpu", CUDA: "cuda", TENSORRT: "cuda"}[expected_provider(device)]


def _halved(single: onnx.ModelProto) -> onnx.ModelProto:
    # onnxruntime's converter needs `packaging`, which is not there where it was installed without what it depends on.
    from model_export.half import to_half

    half = to_half(single)
    text = next(entry.value for entry in single.metadata_props if entry.key == METADATA_KEY)
    artifact = Artifact.model_validate_json(text).model_copy(update={"precision": "fp16", "parity": None})
    helper.set_model_props(half, {METADATA_KEY: artifact.model_dump_json()})
    return half


def exported(variant: str, folder: Path) -> Path:
    """A published variant with the random weights of an untrained network, and labels 0, 1, 2 …"""
    # torch is needed for this alone.
    import torch

    from model_export.graph import build_graph
    from model_export.network import StripMLP
    from model_export.simplify import simplify
    from model_export.variants import VARIANTS

    path = folder / f"{variant.replace('*', '-star')}.onnx"
    architecture: Architecture = {each.name: each for each in VARIANTS}[f"Strip-MLP-{variant}"].architecture()
    size = architecture.image_size
    preprocessing = Preprocessing(
        image_size=size, resize_side=256, crop=True, interpolation="bicubic",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_graph(simplify(StripMLP(architecture).double().eval(), preprocessing))
    artifact = Artifact(
        name=path.stem,
        variant=f"Strip-MLP-{variant}",
        architecture=architecture,
        labels=tuple(map(str, range(architecture.num_classes))),
        preprocessing=preprocessing,
        precision="fp32",
        checkpoint_sha256="0" * 64,
        libraries={},
        parity=None,
    )
    helper.set_model_props(model, {METADATA_KEY: artifact.model_dump_json()})
    onnx.save(model, path)
    return path
