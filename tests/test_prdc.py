"""Precision, recall, density and coverage by hand, against all distances, and against the prdc package's numbers."""

import numpy as np
import pytest

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_blocks
from dcgan_jax.metrics.prdc import Prdc, prdc
from tests.golden_features import golden_features


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_blocks, "BLOCK", 128)


def column(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


def test_by_hand() -> None:
    """One feature, k = 1. Radii of the real rows 0, 1, 3, 10: 1, 1, 2, 7; of the samples 0.5, 2, 20: 1.5, 1.5, 18."""
    found = prdc(column(0, 1, 3, 10), column(0.5, 2, 20), k=1)
    # 0.5 is within the balls of 0 and 1. 2 is within that of 3; it lies at the radius of 1. 20 is within none.
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx(3 / 3)
    assert found.coverage == pytest.approx(3 / 4)  # of 0, 1 and 3
    assert found.recall == pytest.approx(4 / 4)  # 10 is within the ball of 20


def test_by_hand_with_two_neighbors() -> None:
    """Radii of 0, 1, 3, 10: 3, 2, 3, 9; of 0, 1, 20: 20, 19, 20."""
    found = prdc(column(0, 1, 3, 10), column(0, 1, 20), k=2)
    # 0 is within the balls of 0 and 1 and at the radius of 3. 1 is within those of 0, 1, 3, and at the radius of 10.
    assert found == pytest.approx(Prdc(precision=2 / 3, recall=1, density=(2 + 3) / 3 / 2, coverage=3 / 4))


def measures(real: np.ndarray, fake: np.ndarray, k: int) -> Prdc:
    """The definitions, from all distances in float64."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=2)

    real_radii, fake_radii = (np.sort(distances(rows, rows), 1)[:, k] for rows in (real, fake))
    apart = distances(real, fake)
    within = apart < real_radii[:, None]
    return Prdc(
        within.any(0).mean(), (apart < fake_radii).any(1).mean(), within.sum(0).mean() / k, within.any(1).mean()
    )


@pytest.mark.parametrize("k", [1, 5, 20])
def test_in_blocks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 rows, the last one partly filled or not; far from 0, where products are large. 20 > 16."""
    monkeypatch.setattr(feature_blocks, "BLOCK", 16)
    rng = np.random.default_rng(k)
    real, fake = rng.normal(100, 1, (48, 4)).astype(np.float32), rng.normal(100.2, 0.8, (61, 4)).astype(np.float32)
    assert prdc(real, fake, k) == pytest.approx(measures(real, fake, k))
    assert prdc(fake, real, k) == pytest.approx(measures(fake, real, k))


def test_a_copy() -> None:
    """Every row is within its own ball and those of k - 1 others on average; whose neighbour is k-th is a tie."""
    rows = np.random.default_rng(0).normal(size=(500, 32)).astype(np.float32)
    assert prdc(rows, rows) == Prdc(1, 1, 1, 1)
    assert prdc(rows, rows[::-1]) == Prdc(1, 1, 1, 1)


def test_copies_within_a_set() -> None:
    """More than k equal rows have balls of radius 0, which nothing is within."""
    rows = np.repeat(np.random.default_rng(0).normal(size=(4, 32)), 7, axis=0)
    assert prdc(rows, rows) == Prdc(0, 0, 0, 0)


def test_sets_far_apart() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 8))
    assert prdc(rows, rows + 1e4) == Prdc(0, 0, 0, 0)


def test_against_prdc() -> None:
    """Made with prdc 0.2: compute_prdc of these features."""
    real, fake, expected = golden_features()
    found = prdc(real, fake)._asdict()
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-6)


def test_bad_input() -> None:
    rows = np.zeros((6, 3))
    for k in (0, 5):
        with pytest.raises(UserError, match=f"k={k} must be from 1 to 4: there are 6 real and 5 fake rows"):
            prdc(rows, rows[:5], k)
    with pytest.raises(UserError, match="the fake features have NaN or infinity in row 0"):
        prdc(rows, rows + np.inf)
