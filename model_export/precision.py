"""From the graph in float32 to one of the precision asked for, with the proof of what it lost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from rich.progress import Progress

from model_export.agreement import check_agreement
from model_export.calibration import CalibrationSet
from model_export.errors import ParityFailed
from model_export.half import to_half
from model_export.network import StripMLP
from model_export.parity import check_parity, run
from model_export.quantisation import BATCH, Quantiser
from model_export.sample_pictures import EncodedPicture
from model_export.sensitivity import quantise
from service.artifact import Artifact, ParityReport
from service.session import Session

Save = Callable[[onnx.ModelProto, Artifact], Session]
"""Writes a graph with its description, and opens it as the service does."""


@dataclass(frozen=True)
class Proven:
    """A graph, opened from its file, and how it compares."""

    model: onnx.ModelProto
    session: Session
    report: ParityReport


@dataclass(frozen=True)
class Prover:
    """Compares graphs of one network with its checkpoint.

    Args:
        network: the unsimplified network in float64.
        pictures: encoded pictures.
        save: writes and opens a graph.
        progress: shows how far it is.
    """

    network: StripMLP
    pictures: Sequence[EncodedPicture]
    save: Save
    progress: Progress

    def against_checkpoint(self, model: onnx.ModelProto, artifact: Artifact) -> Proven:
        """Compare a graph as it is."""
        session = self.save(model, artifact)
        return Proven(model, session, check_parity(self.network, session, self.pictures, self.progress))

    def in_half(self, model: onnx.ModelProto, artifact: Artifact) -> Proven:
        """Convert a graph to half precision and compare it."""
        return self.against_checkpoint(to_half(model), artifact)

    def in_8_bits(self, model: onnx.ModelProto, artifact: Artifact, pictures: CalibrationSet) -> Proven:
        """Quantise a graph and compare it with itself in float32, which is compared first.

        Raises:
            ParityFailed: the graph in float32 does not pass.
        """
        single = self.against_checkpoint(model, artifact.model_copy(update={"precision": "fp32"}))
        if not single.report.passed:
            raise ParityFailed(single.report)
        expected = run(single.session, pictures.calibration.pixels, BATCH, self.progress)
        quantiser = Quantiser.calibrated(model, pictures.calibration.pixels)
        quantised = quantise(quantiser, pictures.calibration.pixels, expected, self.progress)
        session = self.save(quantised, artifact)
        report = check_agreement(single.session, session, pictures.held_back, pictures.described, self.progress)
        return Proven(quantised, session, report)
