import math
from typing import Any

import pytest

from model_export.gates import EIGHT_BIT_GATE, HALF_GATE, Gate, single_gate
from service.artifact import Accuracy, ParityRow


def row(**changes: Any) -> ParityRow:
    exact = {"max_abs_logit_error": 0, "mean_abs_logit_error": 0, "max_abs_probability_error": 0}
    same = {"top1_agreement": 1, "top5_agreement": 1}
    return ParityRow.model_validate(
        {"source": "random pixels", "batch_size": 1, "pictures": 9} | exact | same | changes
    )


@pytest.mark.parametrize(
    ("gate", "passing", "failing"),
    [
        (single_gate(5), {"max_abs_logit_error": 1e-3}, {"max_abs_logit_error": 1.1e-3}),
        (single_gate(100), {"max_abs_logit_error": 1e-2}, {"max_abs_logit_error": 1.1e-2}),
        (single_gate(5), {"max_abs_probability_error": 1e-3}, {"max_abs_probability_error": 1.1e-3}),
        (single_gate(5), {"top1_agreement": 1}, {"top1_agreement": 0.9999}),
        (HALF_GATE, {"max_abs_probability_error": 2e-3}, {"max_abs_probability_error": 2.1e-3}),
        (HALF_GATE, {"top1_agreement": 0.999}, {"top1_agreement": 0.998}),
        (HALF_GATE, {"max_abs_logit_error": 1}, {"max_abs_probability_error": math.nan}),
        (EIGHT_BIT_GATE, {"top1_agreement": 0.99}, {"top1_agreement": 0.989}),
        (EIGHT_BIT_GATE, {"max_abs_probability_error": 0.5}, {"top1_agreement": 0}),
    ],
)
def test_each_bound(gate: Gate, passing: dict[str, float], failing: dict[str, float]) -> None:
    assert gate.passes([row(), row(**passing)])
    assert not gate.passes([row(), row(**failing)])
    assert not gate.passes([row(**failing), row()])


@pytest.mark.parametrize(("candidate", "passes"), [(0.9, True), (0.85, True), (0.846, True), (0.844, False)])
def test_accuracy_may_be_half_a_point_lower(candidate: float, *, passes: bool) -> None:
    assert EIGHT_BIT_GATE.passes([row()], Accuracy(pictures=100, reference=0.85, candidate=candidate)) is passes
    assert HALF_GATE.passes([row()], Accuracy(pictures=100, reference=0.85, candidate=candidate))
