"""Kernel distance by hand, against float64 over all pairs, and against torch-fidelity's numbers."""

import numpy as np
import pytest

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_blocks, kid
from tests.golden_features import golden_features


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_blocks, "BLOCK", 16)


def test_by_hand() -> None:
    """One feature: k(x, y) = (x y + 1)^3. Of {0, 1} and {1, 2}: 1 + 27 - 2 * (1 + 1 + 8 + 27) / 4."""
    a, b = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert kid.whole_distance(a, b) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)
    np.testing.assert_allclose(kid.subset_distances(a, b, subsets=3, subset_size=2), 9.5)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, in float64."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x.astype(np.float64) @ y.T.astype(np.float64) / x.shape[1] + 1) ** 3

    xx, yy = kernel(a, a), kernel(b, b)
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return float(sum(within) - 2 * kernel(a, b).mean())


def test_all_pairs_in_blocks() -> None:
    """Three blocks, the last one partly filled, against four whole ones."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, (43, 12)).astype(np.float32), rng.normal(0.8, 1, (64, 12))
    assert kid.whole_distance(a, b) == pytest.approx(distance(a, b), rel=1e-5)
    assert kid.whole_distance(b, a) == pytest.approx(distance(a, b), rel=1e-5)


def test_subsets_are_drawn_from_the_seed() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 6)), rng.normal(0.3, 1, (50, 6))
    choice = np.random.RandomState(7)
    expected = []
    for _ in range(4):
        rows = choice.choice(40, 10, replace=False)
        expected.append(distance(a[rows], b[choice.choice(50, 10, replace=False)]))
    np.testing.assert_allclose(kid.subset_distances(a, b, 4, 10, seed=7), expected, rtol=1e-4, atol=1e-6)
    found = kid.kernel_distance(a, b, 4, 10, seed=7)
    assert found == pytest.approx((np.mean(expected), np.std(expected), distance(a, b)), rel=1e-4)


def test_no_bias() -> None:
    """Two sets of one distribution: 0 on average, whatever their size, and so sometimes below it."""
    rng = np.random.default_rng(2)
    found = [kid.whole_distance(*rng.normal(size=(2, 8, 4))) for _ in range(200)]
    assert min(found) < 0
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_against_torch_fidelity() -> None:
    """Made with torch-fidelity 0.4.0: kid_features_to_metric of these features, 20 subsets of 50, seed 2020."""
    real, fake, expected = golden_features()
    found = kid.kernel_distance(real, fake, subsets=20, subset_size=50)
    assert found.mean == pytest.approx(expected["kid_mean"], rel=1e-4)
    assert found.std == pytest.approx(expected["kid_std"], rel=1e-4)


def test_bad_input() -> None:
    rows = np.zeros((20, 3))
    with pytest.raises(UserError, match=r"3 \(first\) and 4 \(second\) features"):
        kid.whole_distance(rows, np.zeros((20, 4)))
    with pytest.raises(UserError, match="NaN or infinity in row 7"):
        kid.whole_distance(rows, np.where(np.arange(20)[:, None] == 7, np.nan, rows))
    with pytest.raises(UserError, match=r"float|shape \[20\]"):
        kid.whole_distance(rows, np.zeros(20))
    with pytest.raises(UserError, match="subsets of 1000 rows need as many features of each set, not 20 and 20"):
        kid.subset_distances(rows, rows)
    with pytest.raises(UserError, match="two rows or more"):
        kid.whole_distance(rows[:1], rows)
    with pytest.raises(UserError, match="0 subsets"):
        kid.subset_distances(rows, rows, subsets=0)
