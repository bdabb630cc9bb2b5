"""Kernel distance between sets of features: the squared maximum mean discrepancy of a polynomial kernel, unbiased.

    k(x, y) = (x . y / features + 1)^3
    MMD^2 = mean of k(x, x') over x != x'  +  mean of k(y, y') over y != y'  -  2 mean of k(x, y)

Binkowski et al. 2018 (Demystifying MMD GANs, section 4) use it with Inception features and call it KID. Its expectation
does not depend on how many rows there are, and it is below 0 now and then. What is called KID in tables is the mean
over random subsets; the estimate over all pairs of rows is the same quantity with the least spread.

The ones of the three kernels cancel, so what is summed is k - 1, which loses fewer digits. Products are float32, sums
of a row too, sums over rows float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_blocks

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # of torch-fidelity; the numbers of rows are those of the paper's code


class KernelDistance(NamedTuple):
    """Mean and standard deviation over the subsets, and the estimate over all pairs of rows."""

    mean: float
    std: float
    whole: float


def kernel_distance(
    a: np.ndarray,
    b: np.ndarray,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
    progress: str = "",
) -> KernelDistance:
    """Both forms of the distance, see `subset_distances` and `whole_distance`, which say what is needed and raised."""
    parts = subset_distances(a, b, subsets, subset_size, seed)
    return KernelDistance(float(parts.mean()), float(parts.std()), whole_distance(a, b, progress))


def subset_distances(
    a: np.ndarray, b: np.ndarray, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> np.ndarray:
    """The distances of random subsets, float64 [subsets].

    Rows are chosen as torch-fidelity does: by one np.random.RandomState(seed), for `a`, then for `b`, without
    replacement within a subset. So the numbers agree with those of torch-fidelity if its first input is `a`.

    Args:
      a, b: float [rows, features].
      subsets: at least 1.
      subset_size: rows of each subset, at least 2.
      seed: of the choice.

    Raises:
      UserError: a set has fewer rows than a subset, or see `feature_blocks.check_features`.
    """
    feature_blocks.check_features(first=a, second=b)
    if subsets < 1 or subset_size < 2:
        raise UserError(f"{subsets} subsets of {subset_size} rows: there must be 1 or more, of 2 rows or more.")
    if min(len(a), len(b)) < subset_size:
        raise UserError(
            f"subsets of {subset_size} rows need as many features of each set, not {len(a)} and {len(b)}: draw more "
            "samples, or take smaller subsets and say so beside the result."
        )
    rng = np.random.RandomState(seed)
    distances = np.empty(subsets)
    for i in range(subsets):
        x = np.asarray(a[rng.choice(len(a), subset_size, replace=False)], np.float32)
        y = np.asarray(b[rng.choice(len(b), subset_size, replace=False)], np.float32)
        xx, yy, xy = (np.asarray(sums, np.float64).sum() for sums in _subset_sums(x, y))
        distances[i] = (xx + yy) / (subset_size * (subset_size - 1)) - 2 * xy / subset_size**2
    return distances


def whole_distance(a: np.ndarray, b: np.ndarray, progress: str = "") -> float:
    """The distance over all pairs of rows.

    It reads the sets in blocks and so needs 200 MB besides them at 2,048 features; they may be memory-mapped.

    Args:
      a, b: float [rows, features], two rows or more.
      progress: stands beside progress bars; empty: none.

    Raises:
      UserError: a set has one row, or see `feature_blocks.check_features`.
    """
    feature_blocks.check_features(first=a, second=b)
    if min(len(a), len(b)) < 2:
        raise UserError(f"the distance needs two rows or more of each set, not {len(a)} and {len(b)}.")
    xx, yy, xy = _total(a, None, progress), _total(b, None, progress), _total(a, b, progress)
    return xx / (len(a) * (len(a) - 1)) + yy / (len(b) * (len(b) - 1)) - 2 * xy / (len(a) * len(b))


def _total(a: np.ndarray, b: np.ndarray | None, progress: str) -> float:
    """Sum of k - 1 over all pairs of rows of two sets, or of different rows of one set. Rows of zeros add nothing."""
    total, first = 0.0, -1
    for i, j in feature_blocks.pairs(len(a), None if b is None else len(b), progress):
        if i != first:
            (rows, _), first = feature_blocks.load(a, i), i
        if b is None and i == j:
            total += np.asarray(_sums_without_diagonal(rows), np.float64).sum()
        else:
            columns, _ = feature_blocks.load(a if b is None else b, j)
            total += (2 if b is None else 1) * np.asarray(_sums(rows, columns), np.float64).sum()
    return float(total)


def _kernel_less_1(x: jax.Array, y: jax.Array) -> jax.Array:
    p = jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST) / x.shape[1]
    return p * (3.0 + p * (3.0 + p))


@jax.jit
def _sums(x: jax.Array, y: jax.Array) -> jax.Array:
    return _kernel_less_1(x, y).sum(1)


@jax.jit
def _sums_without_diagonal(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.eye(len(x), dtype=bool), 0.0, _kernel_less_1(x, x)).sum(1)


@jax.jit
def _subset_sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _sums_without_diagonal(x), _sums_without_diagonal(y), _sums(x, y)
