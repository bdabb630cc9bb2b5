"""Frechet distance between sets of feature vectors, each taken as a normal distribution.

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) [Heusel et al. 2017 use it with Inception features and call it FID]. Nothing
here is FID: the features are up to the caller. Everything is float64; moments are streamed.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

_PART = 8192  # rows


@dataclass
class Moments:
    """Running count, mean [features] and sum of squared deviations [features, features] of rows [n, features]."""

    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scatter: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, rows: np.ndarray) -> "Moments":
        """Adds rows [n, features]; parts are merged as Chan, Golub and LeVeque (1979) do. Returns itself."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        centred = rows - mean
        if not self.count:
            self.count, self.mean, self.scatter = len(rows), mean, centred.T @ centred
            return self
        apart, total = mean - self.mean, self.count + len(rows)
        self.scatter += centred.T @ centred + np.outer(apart, apart) * (self.count * len(rows) / total)
        self.mean = self.mean + apart * (len(rows) / total)
        self.count = total
        return self

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, [features, features]; needs two rows."""
        return self.scatter / (self.count - 1)


def moments_of(rows: np.ndarray) -> Moments:
    """Of rows [n, features], in parts, as their float64 copy would be large."""
    moments = Moments()
    for begin in range(0, len(rows), _PART):
        moments.add(rows[begin : begin + _PART])
    return moments


def spread(a: Moments, b: Moments) -> float:
    """Total variance of a, relative to that of b; nan if b has none."""
    total = float(np.trace(b.covariance))
    return float(np.trace(a.covariance)) / total if total else math.nan


def frechet_distance(a: Moments, b: Moments) -> float:
    """The distance above, squared as usual. At least 0; it falls with the number of rows, so compare equal numbers.

    The trace of (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of S C2 S with S = C1^(1/2): symmetric
    problems only, which stay stable where covariances are singular.
    """
    values, vectors = scipy.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(scipy.linalg.eigvalsh(root @ b.covariance @ root), 0.0)).sum()
    distance = np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross
    return float(max(distance, 0.0))
