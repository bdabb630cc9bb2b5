"""Precision, recall, density and coverage of samples, from k nearest neighbours among features.

The ball of a row reaches to its k-th nearest neighbour of the same set, itself not counted.

    precision  share of samples within the ball of some real row [Kynkaanniemi et al. 2019]
    recall     share of real rows within the ball of some sample [the same]
    density    real balls that a sample is within, mean over samples, divided by k [Naeem et al. 2020]
    coverage   share of real rows whose ball has some sample within [the same]

Ties: a row at the radius itself is not within, as in the `prdc` package of Naeem et al. (torch-fidelity and the code of
Kynkaanniemi et al. count it). Squared distances come from float32 products, so what is nearer to the radius than their
rounding counts as a tie; a copy of a set has the distances of that set.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_blocks

NEAREST = 5  # k of Naeem et al.; Kynkaanniemi et al. have 3
# Of the sum of two squared norms: ten standard deviations of a squared distance's rounding error at 2,048 features.
_ROUNDING = 5e-7


class Prdc(NamedTuple):
    """The four measures; all but density are at most 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: np.ndarray, fake: np.ndarray, k: int = NEAREST, progress: str = "") -> Prdc:
    """The measures above, exactly: every distance is computed.

    It reads the sets in blocks and so needs 300 MB besides them at 2,048 features, and (k + 4) * 4 bytes a row; they
    may be memory-mapped.

    Args:
      real, fake: float [rows, features]; the measures depend on how many rows there are, so compare equal numbers.
      k: at least 1.
      progress: stands beside progress bars; empty: none.

    Raises:
      UserError: k is out of range, or see `feature_blocks.check_features`.
    """
    feature_blocks.check_features(real=real, fake=fake)
    most = min(len(real), len(fake)) - 1
    if not 1 <= k <= most:
        raise UserError(f"k={k} must be from 1 to {most}: there are {len(real)} real and {len(fake)} fake rows.")
    real_centre, fake_centre = feature_blocks.centre_of(real), feature_blocks.centre_of(fake)
    real_radii, fake_radii = (
        _squared_radii(real, real_centre, k, progress),
        _squared_radii(fake, fake_centre, k, progress),
    )

    centre = (real_centre + fake_centre) / 2
    balls = np.zeros(len(fake), np.int64)  # real ones that a sample is within
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    first = -1
    for i, j in feature_blocks.pairs(len(real), len(fake), progress):
        if i != first:
            (rows, count), first = feature_blocks.load(real, i, centre), i
        columns, column_count = feature_blocks.load(fake, j, centre)
        found = _within(rows, columns, count, column_count, _padded(real_radii, i), _padded(fake_radii, j))
        balls[j : j + column_count] += np.asarray(found[0])[:column_count]
        covered[i : i + count] |= np.asarray(found[1])[:count]
        recalled[i : i + count] |= np.asarray(found[2])[:count]
    return Prdc(float((balls > 0).mean()), float(recalled.mean()), float(balls.mean() / k), float(covered.mean()))


def _squared_radii(rows: np.ndarray, centre: np.ndarray, k: int, progress: str) -> np.ndarray:
    """Squared distances to the k-th nearest other rows, float32 [rows]. Each pair of blocks is multiplied once."""
    nearest = np.full((len(rows), k), np.inf, np.float32)

    def add(begin: int, count: int, distances: jax.Array) -> None:
        both = np.concatenate([nearest[begin : begin + count], np.asarray(distances)[:count]], 1)
        nearest[begin : begin + count] = np.partition(both, k - 1, 1)[:, :k]

    first = -1
    for i, j in feature_blocks.pairs(len(rows), None, progress):
        if i != first:
            (a, count), first = feature_blocks.load(rows, i, centre), i
        b, b_count = (a, count) if i == j else feature_blocks.load(rows, j, centre)
        of_a, of_b = _nearest(a, b, count, b_count, i == j, min(k, feature_blocks.BLOCK))
        add(i, count, of_a)
        if i != j:
            add(j, b_count, of_b)
    return nearest.max(1)


def _padded(values: np.ndarray, begin: int) -> np.ndarray:
    part = values[begin : begin + feature_blocks.BLOCK]
    return np.pad(part, (0, feature_blocks.BLOCK - len(part)))


def _squared_distances(a: jax.Array, b: jax.Array, a_count: int, b_count: int) -> tuple[jax.Array, jax.Array]:
    """Between the rows of two blocks, and the sums of their squared norms; both infinite for rows past the counts."""
    a_squares, b_squares = (
        jnp.where(jnp.arange(len(rows)) < count, jnp.square(rows).sum(1), jnp.inf)
        for rows, count in ((a, a_count), (b, b_count))
    )
    squares = a_squares[:, None] + b_squares[None]
    return squares - 2.0 * jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST), squares


@partial(jax.jit, static_argnums=5)
def _nearest(a: jax.Array, b: jax.Array, a_count: int, b_count: int, same: bool, k: int) -> tuple[jax.Array, jax.Array]:
    """Squared distances of the k nearest rows of `b` to each row of `a`, and the other way round; each [BLOCK, k]."""
    distances, _ = _squared_distances(a, b, a_count, b_count)
    distances = jnp.where(same & jnp.eye(len(a), dtype=bool), jnp.inf, distances)
    return -lax.top_k(-distances, k)[0], -lax.top_k(-distances.T, k)[0]


@jax.jit
def _within(
    real: jax.Array, fake: jax.Array, real_count: int, fake_count: int, real_radii: jax.Array, fake_radii: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Real balls around each fake row; whether each real ball has a fake row within; whether a fake ball has it."""
    distances, squares = _squared_distances(real, fake, real_count, fake_count)
    distances = distances + _ROUNDING * squares
    within_real = distances < real_radii[:, None]
    return within_real.sum(0), within_real.any(1), (distances < fake_radii[None]).any(1)
