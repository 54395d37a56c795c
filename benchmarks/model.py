"""The model file that every server gets, and what each needs to know of it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from benchmarks.peers.common import Contract
from service.artifact import Artifact


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file that the exporter wrote."""

    path: Path
    artifact: Artifact

    @classmethod
    def read(cls, path: Path) -> "ModelFile":
        """Read the file's own description of itself."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        return cls(path.absolute(), Artifact.from_metadata(metadata, str(path)))

    @property
    def contract(self) -> Contract:
        """What the peers' code needs."""
        preprocessing = self.artifact.preprocessing
        return Contract(
            image_size=preprocessing.image_size,
            resize_side=preprocessing.resize_side,
            crop=preprocessing.crop,
            interpolation=preprocessing.interpolation,
            labels=list(self.artifact.labels),
        )

    def lay_out(self, scratch: Path) -> None:
        """Write `contract.json` for the peers and the repository `models` for the service."""
        (scratch / "contract.json").write_text(json.dumps(vars(self.contract)), "utf-8")
        version = scratch / "models" / self.artifact.name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(self.path, version / "model.onnx")
