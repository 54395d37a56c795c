"""How good a model's answers are, summed up picture by picture, so that memory does not grow with their number."""

import heapq
import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from service.session import Scores

BINS = 15
"""Of equal width, for the calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks, section 2)."""

MISTAKES = 24
"""Most confident mistakes that are kept."""

CONFIDENCE = 0.95
"""Of the interval around the accuracy."""


@dataclass(frozen=True, order=True)
class Mistake:
    """A picture that was taken for another class; ordered by how sure the model was."""

    probability: float
    path: str
    class_id: int
    taken_for: int


@dataclass
class Measures:
    """Of one model on pictures of known classes.

    Args:
        classes: how many the model knows.
    """

    classes: int
    confusion: NDArray[np.int64] = field(init=False)
    """Pictures by class (rows) and the class that they were taken for (columns)."""
    in_top5: int = 0
    bins: NDArray[np.float64] = field(init=False)
    """Of each bin of top-1 probability: pictures, right ones, sum of probabilities; float64 (BINS, 3)."""
    log_loss_sum: float = 0
    mistakes: list[Mistake] = field(default_factory=list)
    """A heap, its least sure first."""

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.classes, self.classes), np.int64)
        self.bins = np.zeros((BINS, 3))

    def add(self, path: str, class_id: int, scores: Scores) -> None:
        """One picture more. Of equal probabilities the first class counts, as in the service."""
        probabilities = scores.probabilities.astype(np.float64)
        order = np.argsort(-scores.probabilities, kind="stable")
        best = int(order[0])
        probability = float(probabilities[best])
        self.confusion[class_id, best] += 1
        self.in_top5 += class_id in order[:5]
        self.log_loss_sum -= math.log(max(probabilities[class_id], np.finfo(np.float32).tiny))
        self.bins[min(int(probability * BINS), BINS - 1)] += 1, best == class_id, probability
        if best != class_id:
            mistake = Mistake(probability, path, class_id, best)
            if len(self.mistakes) < MISTAKES:
                heapq.heappush(self.mistakes, mistake)
            else:
                heapq.heappushpop(self.mistakes, mistake)

    @property
    def pictures(self) -> int:
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        return int(np.trace(self.confusion))

    @property
    def top1(self) -> float:
        return self.right / self.pictures

    @property
    def top5(self) -> float:
        return self.in_top5 / self.pictures

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval of the top-1 accuracy (Wilson 1927)."""
        z, n = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), self.pictures
        middle = (self.top1 + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(self.top1 * (1 - self.top1) / n + z * z / (4 * n * n))
        # At its ends, rounding would leave the accuracy just outside.
        return min(max(0.0, middle - half), self.top1), max(min(1.0, middle + half), self.top1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: how far the probability of the answer is from how often it is right."""
        return float(np.abs(self.bins[:, 1] - self.bins[:, 2]).sum() / self.pictures)

    @property
    def log_loss(self) -> float:
        """Mean negative logarithm of the right class's probability, natural."""
        return self.log_loss_sum / self.pictures

    def recall(self, class_id: int) -> float | None:
        """How many of a class's pictures are taken for it; None if there are none."""
        count = self.confusion[class_id].sum()
        return float(self.confusion[class_id, class_id] / count) if count else None

    def precision(self, class_id: int) -> float | None:
        """How many of the pictures taken for a class are of it; None if there are none."""
        count = self.confusion[:, class_id].sum()
        return float(self.confusion[class_id, class_id] / count) if count else None

    def worst_pairs(self, most: int) -> list[tuple[int, int, int]]:
        """Class, what it was taken for, and how often; most often first."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(int(place), self.classes) for place in order]
        return [(one, other, int(wrong[one, other])) for one, other in pairs if wrong[one, other]]
