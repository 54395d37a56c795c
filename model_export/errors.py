"""Every reason for which an export stops; no model is written then.

ExportError
 ├─ CheckpointError    the checkpoint cannot be read, or is not a Strip-MLP's
 ├─ OptionError        what was asked for is impossible, or contradicts the weights
 ├─ OutputError        the model's file cannot be written
 └─ ParityFailed       the exported file does not compute what the checkpoint computes
"""

from service.artifact import ParityReport


class ExportError(Exception):
    """Base of the hierarchy. The message says what was wrong with what, and what to do."""


class CheckpointError(ExportError):
    """The checkpoint cannot be used."""


class OptionError(ExportError):
    """An option, or what the checkpoint's own configuration says, cannot be followed."""


class OutputError(ExportError):
    """The output folder does not take the model."""


class ParityFailed(ExportError):
    """The gate did not pass; `report` has the numbers."""

    def __init__(self, report: ParityReport) -> None:
        super().__init__(
            "The exported graph does not reproduce the checkpoint's answers within the gate; no model was written."
        )
        self.report = report
