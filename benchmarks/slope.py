"""Whether a series grows: a straight line through what is left of it at its lowest."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, mean

BLOCKS = 10
"""A series is cut into so many, and the line goes through the least of each. What grows without end is in the least,
too; what comes and goes, as a second model does while it is loaded beside the first, is not, however long it stays."""

T_95 = 2.306
"""Student's t for 95 % and `BLOCKS` - 2 degrees of freedom."""


@dataclass(frozen=True)
class Slope:
    """Of a straight line through a series, in units an hour, with its 95 % confidence interval."""

    least: Sequence[float]
    """Values that the line goes through."""
    per_hour: float
    low: float
    high: float

    def is_zero(self, hours: float, allowed: float) -> bool:
        """Whether it cannot be told from zero, or falls, and is known well enough to say so.

        Args:
            hours: the length of the whole series.
            allowed: how much the series may at worst have grown in that time.
        """
        return self.low <= 0 and self.high * hours <= allowed


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The line through the least values of `BLOCKS` blocks; times in seconds. Needs a value a block."""
    size = len(values) // BLOCKS
    blocks = [slice(number * size, (number + 1) * size) for number in range(BLOCKS)]
    hours = [mean(times[block]) / 3600 for block in blocks]
    least = [min(values[block]) for block in blocks]
    line = linear_regression(hours, least)
    residuals = [value - line.intercept - line.slope * hour for hour, value in zip(hours, least, strict=True)]
    spread = sum((hour - mean(hours)) ** 2 for hour in hours)
    error = (sum(each**2 for each in residuals) / (BLOCKS - 2) / spread) ** 0.5
    return Slope(least, line.slope, line.slope - T_95 * error, line.slope + T_95 * error)
