"""Differences of means over training seeds, and how far chance explains them.

    interval   of the difference of two means, 95 %; the variances may differ [Welch 1947]
    p          two-sided: how often seeds alone would differ by as much if both means were equal
    p_holm     the same, corrected for the number of comparisons [Holm 1979]: among all comparisons of equal means, the
               probability that any is below 5 % is at most 5 %. This holds although all share one baseline

Welch's test takes the values of both sides as independent draws of normal distributions. Runs of different seeds are
independent. Two variations have the same seeds, so a run shares its noise and the order of its images with one of the
other side; where that moves both the same way, p is too large. That distances are normal is an assumption, and a
handful of seeds cannot test it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

LEVEL = 0.05  # of intervals and marks, the usual one


class Difference(NamedTuple):
    """Attributes:

    mean: of the one side less that of the other.
    low, high: of its interval.
    degrees_of_freedom: of Welch and Satterthwaite; from the smaller number of values less 1 to the sum less 2.
    p: from 0 to 1.
    """

    mean: float
    low: float
    high: float
    degrees_of_freedom: float
    p: float


class Comparison(NamedTuple):
    """A `Difference` from the baseline, and its p-value after Holm's correction."""

    mean: float
    low: float
    high: float
    degrees_of_freedom: float
    p: float
    p_holm: float

    @property
    def mark(self) -> str:
        """'lower *' or 'higher *' if the difference survives the correction; otherwise ''."""
        return ("lower *" if self.mean < 0 else "higher *") if self.p_holm < LEVEL else ""


def welch(values: Sequence[float], others: Sequence[float]) -> Difference:
    """The mean of `values` less that of `others`. Each side has two values or more, and not all of them are equal."""
    test = scipy.stats.ttest_ind(values, others, equal_var=False)
    interval = test.confidence_interval(1.0 - LEVEL)
    mean = np.mean(values) - np.mean(others)
    return Difference(*map(float, (mean, interval.low, interval.high, test.df, test.pvalue)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values, in the order given.

    The smallest of n is multiplied by n, the next one by n - 1, and so on; none is below one before it, nor above 1.
    """
    order = np.argsort(p_values)
    factors = len(order) - np.arange(len(order))
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    return [float(p) for p in corrected]


def compare(groups: Mapping[str, Sequence[float]], baseline: str) -> dict[str, Comparison]:
    """Every group of values against that of the baseline.

    Groups of fewer than two values are left out: they are no comparisons, and Holm's method does not count them.
    """
    enough = {name: values for name, values in groups.items() if len(values) > 1}
    if baseline not in enough:
        return {}
    found = {name: welch(values, enough[baseline]) for name, values in enough.items() if name != baseline}
    corrected = holm([difference.p for difference in found.values()])
    return {name: Comparison(*found[name], p_holm) for name, p_holm in zip(found, corrected, strict=True)}
