"""Welch's test by hand, Holm's correction of hand-made p-values, and what is compared and marked."""

import math

import numpy as np
import pytest

from dcgan_jax.evaluation import significance
from dcgan_jax.evaluation.significance import Comparison


def beyond(t: float, degrees: float) -> float:
    """Share of Student's distribution beyond -t and t, from its density by the trapezoidal rule."""
    x = np.linspace(-t, t, 200_001)
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    density = scale * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    return 1 - float(np.trapezoid(density, x))


def test_welch_by_hand() -> None:
    """Means 2 and 5, variances 1 and 20/3 of 3 and 4 values: the difference has variance 1/3 + 5/3 = 2.

    Degrees of freedom: 2^2 / ((1/3)^2 / 2 + (5/3)^2 / 3) = 4 / (53/54).
    """
    found = significance.welch([1.0, 2.0, 3.0], [2.0, 4.0, 6.0, 8.0])
    assert found.mean == pytest.approx(-3)
    assert found.degrees_of_freedom == pytest.approx(216 / 53)
    assert found.p == pytest.approx(beyond(3 / math.sqrt(2), 216 / 53), rel=1e-6)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)
    assert beyond((found.high - found.mean) / math.sqrt(2), 216 / 53) == pytest.approx(0.05, rel=1e-6)


def test_welch_of_two_and_two_values() -> None:
    """Variances 2 and 2: two degrees of freedom, for which p is 1 - t / sqrt(t^2 + 2), and the quantile 4.302653."""
    found = significance.welch([0.0, 2.0], [5.0, 7.0])
    assert found.degrees_of_freedom == pytest.approx(2)
    assert found.p == pytest.approx(1 - math.sqrt(12.5 / 14.5))
    assert (found.low, found.high) == pytest.approx((-5 - 4.302653 * math.sqrt(2), -5 + 4.302653 * math.sqrt(2)))


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which may not be below the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.9], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values: list[float], corrected: list[float]) -> None:
    assert significance.holm(p_values) == pytest.approx(corrected)


GROUPS = {
    "given": [10.0, 11.0, 12.0],
    "far_below": [1.0, 2.0, 1.5],
    "far_above": [30.0, 31.0, 30.5],
    "near": [10.5, 12.5, 11.0],
    "one_value": [0.0],
    "none": [],
}


def test_groups_of_one_value_are_no_comparisons() -> None:
    found = significance.compare(GROUPS, "given")
    assert list(found) == ["far_below", "far_above", "near"]
    for name, comparison in found.items():
        assert comparison[:5] == significance.welch(GROUPS[name], GROUPS["given"])
    p_values = [comparison.p for comparison in found.values()]
    smallest = min(found.values(), key=lambda comparison: comparison.p)
    assert smallest.p_holm == pytest.approx(3 * smallest.p)  # three comparisons, not five
    assert [comparison.p_holm for comparison in found.values()] == significance.holm(p_values)
    assert [comparison.mark for comparison in found.values()] == ["lower *", "higher *", ""]


@pytest.mark.parametrize("baseline", ["one_value", "none", "missing"])
def test_a_baseline_of_one_value_leaves_nothing_to_compare(baseline: str) -> None:
    assert significance.compare(GROUPS, baseline) == {}


@pytest.mark.parametrize(
    ("mean", "p", "p_holm", "mark"),
    [(-1.0, 0.01, 0.04, "lower *"), (1.0, 0.01, 0.04, "higher *"), (-1.0, 0.01, 0.05, ""), (1.0, 0.01, math.nan, "")],
)
def test_the_corrected_value_decides_about_the_mark(mean: float, p: float, p_holm: float, mark: str) -> None:
    assert Comparison(mean, mean - 1, mean + 1, 4.0, p, p_holm).mark == mark
