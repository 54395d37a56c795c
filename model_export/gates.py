"""What a file may differ by, by its precision. A file that differs by more is not written."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.artifact import Accuracy, ParityRow

ABSOLUTE_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 1e-4
"""Of the range of the reference's logits."""


@dataclass(frozen=True)
class Gate:
    """The largest differences that pass; None bounds nothing."""

    logit_error: float | None
    probability_error: float | None
    top1_agreement: float
    """The least share of pictures with the same best class."""
    accuracy_loss: float | None
    """Of the share of pictures that are classified rightly, where their classes are known."""

    def passes(self, rows: Sequence[ParityRow], accuracy: Accuracy | None = None) -> bool:
        """Whether every row is within the gate. Not-a-number compares false, and so fails."""
        return all(self._passes(row) for row in rows) and (
            accuracy is None
            or self.accuracy_loss is None
            or accuracy.reference - accuracy.candidate <= self.accuracy_loss
        )

    def _passes(self, row: ParityRow) -> bool:
        return (
            (self.logit_error is None or row.max_abs_logit_error <= self.logit_error)
            and (self.probability_error is None or row.max_abs_probability_error <= self.probability_error)
            and row.top1_agreement >= self.top1_agreement
        )


def single_gate(logit_range: float) -> Gate:
    """For float32, by the range of the reference's logits."""
    # No probability is further off than the logits of its picture.
    allowed = max(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * logit_range)
    return Gate(logit_error=allowed, probability_error=allowed, top1_agreement=1, accuracy_loss=None)


HALF_GATE = Gate(logit_error=None, probability_error=2e-3, top1_agreement=0.999, accuracy_loss=None)
EIGHT_BIT_GATE = Gate(logit_error=None, probability_error=None, top1_agreement=0.99, accuracy_loss=0.005)
