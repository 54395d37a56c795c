"""Figures by hand, and the laws that they keep."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from offline import measures as module
from offline.comparison import Comparison
from offline.measures import Measures
from service.session import Scores

CLASSES = 7


def scores_of(probabilities: list[float]) -> Scores:
    values = np.array(probabilities, np.float32)
    return Scores(np.log(values + 1e-9), values)


def measured(cases: list[tuple[int, list[float]]], classes: int = 3) -> Measures:
    measures = Measures(classes)
    for number, (class_id, probabilities) in enumerate(cases):
        measures.add(str(number), class_id, scores_of(probabilities))
    return measures


FOUR = measured([(0, [0.5, 0.25, 0.25]), (0, [0.25, 0.5, 0.25]), (1, [0.125, 0.75, 0.125]), (2, [0, 1, 0])])


def test_figures_are_those_by_hand() -> None:
    assert (FOUR.pictures, FOUR.right, FOUR.top1, FOUR.top5) == (4, 2, 0.5, 1)
    assert FOUR.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert [FOUR.recall(number) for number in range(3)] == [0.5, 1, 0]
    assert [FOUR.precision(number) for number in range(3)] == [1, pytest.approx(1 / 3), None]
    # Two answers at 0.5, of which one is right; one at 0.75, right; one at 1, wrong.
    assert FOUR.calibration_error == pytest.approx((abs(1 - 1) + abs(1 - 0.75) + abs(0 - 1)) / 4)
    losses = [0.5, 0.25, 0.75, float(np.finfo(np.float32).tiny)]
    assert FOUR.log_loss == pytest.approx(-sum(map(math.log, losses)) / 4)
    assert FOUR.worst_pairs(5) == [(0, 1, 1), (2, 1, 1)]
    assert FOUR.worst_pairs(1) == [(0, 1, 1)]
    assert [mistake.path for mistake in sorted(FOUR.mistakes, reverse=True)] == ["3", "1"]


def test_the_interval_is_wilsons() -> None:
    # statsmodels.stats.proportion.proportion_confint(2, 4, method="wilson")
    assert FOUR.interval == pytest.approx((0.15003898915214955, 0.8499610108478506))


def test_a_class_without_pictures_has_no_accuracy() -> None:
    assert measured([(0, [1, 0, 0])]).recall(1) is None


def test_only_the_surest_mistakes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MISTAKES", 2)
    cases = [(0, [1 - sure, sure, 0.0]) for sure in (0.75, 0.625, 1.0, 0.875)]
    assert sorted(mistake.probability for mistake in measured(cases).mistakes) == [0.875, 1.0]


def softmax(logits: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in np.exp(logits) / np.exp(logits).sum()]


CASES = st.lists(
    st.tuples(
        st.integers(0, CLASSES - 1),
        st.lists(st.floats(-8, 8), min_size=CLASSES, max_size=CLASSES).map(np.array).map(softmax),
    ),
    min_size=1,
    max_size=40,
)


@given(CASES, st.randoms())
def test_laws(cases: list[tuple[int, list[float]]], random: object) -> None:
    measures = measured(cases, CLASSES)
    low, high = measures.interval
    assert measures.confusion.sum() == len(cases)
    assert 0 <= low <= measures.top1 <= high <= 1
    assert measures.top1 <= measures.top5 <= 1
    assert 0 <= measures.calibration_error <= 1
    assert measures.log_loss >= 0
    wrong = len(cases) - measures.right
    assert sum(count for *_, count in measures.worst_pairs(CLASSES**2)) == wrong
    assert len(measures.mistakes) == min(wrong, module.MISTAKES)
    turned = measured(cases[::-1], CLASSES)
    assert turned.confusion.tolist() == measures.confusion.tolist()
    assert turned.calibration_error == pytest.approx(measures.calibration_error)


@given(st.lists(st.integers(0, CLASSES - 1), min_size=1))
def test_whoever_is_sure_and_right_has_no_error(classes: list[int]) -> None:
    measures = measured([(number, np.eye(CLASSES)[number].tolist()) for number in classes], CLASSES)
    assert (measures.top1, measures.calibration_error, measures.log_loss) == (1, 0, 0)
    assert not measures.mistakes


def test_two_models_are_compared_by_hand() -> None:
    comparison = Comparison()
    a, b, c = [1.0, 0, 0], [0, 1.0, 0], [0, 0.25, 0.75]
    for number, (one, other) in enumerate([(a, a), (a, b), (a, c), (b, a), (b, c), (a, b)]):
        comparison.add(str(number), 0, scores_of(one), scores_of(other))
    assert (comparison.pictures, comparison.agree) == (6, 1)
    assert (comparison.both_right, comparison.one_right, comparison.other_right, comparison.neither_right) == (
        1,
        3,
        1,
        1,
    )
    assert comparison.max_abs_probability_difference == 1
    assert [(each.path, each.one, each.other) for each in comparison.differences] == [
        ("1", 0, 1),
        ("2", 0, 2),
        ("3", 1, 0),
        ("4", 1, 2),
        ("5", 0, 1),
    ]
    # scipy.stats.binomtest(1, 4).pvalue
    assert comparison.p_value == pytest.approx(0.625)


@given(CASES)
def test_a_model_agrees_with_itself(cases: list[tuple[int, list[float]]]) -> None:
    comparison = Comparison()
    for class_id, probabilities in cases:
        comparison.add("", class_id, scores_of(probabilities), scores_of(probabilities))
    assert comparison.agree == comparison.both_right + comparison.neither_right == len(cases)
    assert (comparison.p_value, comparison.max_abs_probability_difference) == (1, 0)
    assert not comparison.differences
