"""Two models' answers for the same pictures."""

import math
from dataclasses import dataclass, field

from service.session import Scores

DIFFERENCES = 50
"""Most pictures with different answers that are kept."""


@dataclass(frozen=True)
class Difference:
    """A picture that the models take for different classes."""

    path: str
    class_id: int
    one: int
    """What the first model takes it for."""
    other: int


@dataclass
class Comparison:
    """Of a model with another."""

    pictures: int = 0
    agree: int = 0
    both_right: int = 0
    one_right: int = 0
    """The first alone."""
    other_right: int = 0
    neither_right: int = 0
    max_abs_probability_difference: float = 0
    differences: list[Difference] = field(default_factory=list)
    """The first ones."""

    def add(self, path: str, class_id: int, one: Scores, other: Scores) -> None:
        """A picture that both have classified."""
        best, others = int(one.probabilities.argmax()), int(other.probabilities.argmax())
        self.pictures += 1
        self.agree += best == others
        match best == class_id, others == class_id:
            case True, True:
                self.both_right += 1
            case True, False:
                self.one_right += 1
            case False, True:
                self.other_right += 1
            case _:
                self.neither_right += 1
        difference = float(abs(one.probabilities - other.probabilities).max())
        self.max_abs_probability_difference = max(self.max_abs_probability_difference, difference)
        if best != others and len(self.differences) < DIFFERENCES:
            self.differences.append(Difference(path, class_id, best, others))

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how probable so uneven a share of what only one gets right is by chance.

        Source: McNemar 1947; the binomial form.
        """
        count, least = self.one_right + self.other_right, min(self.one_right, self.other_right)
        tail = sum(math.comb(count, number) for number in range(least + 1))
        return min(1.0, float(2 * tail / 2**count))
