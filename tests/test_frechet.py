"""Frechet distance by hand and against SciPy's general matrix square root."""

import numpy as np
import pytest
import scipy.linalg

from dcgan_jax.metrics.frechet import Moments, frechet_distance, spread
from tests.golden_features import golden_features


def test_moments_in_parts_are_those_of_the_whole() -> None:
    rows = np.random.default_rng(0).normal(1e3, 1.0, (50, 4)).astype(np.float32)
    moments = Moments().add(rows[:1]).add(rows[1:20]).add(rows[20:])
    assert moments.count == 50
    np.testing.assert_allclose(moments.mean, rows.astype(np.float64).mean(0))
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T.astype(np.float64)), rtol=1e-6)


def normal(mean: list[float], covariance: np.ndarray) -> Moments:
    return Moments(2, np.array(mean), covariance)  # of two rows the scatter is the covariance


def test_by_hand() -> None:
    """Diagonal: 3^2 + (2 - 1)^2 + (5 - 1)^2 with standard deviations 2, 5 against 1, 1."""
    a, b = normal([0.0, 3.0], np.diag([4.0, 25.0])), normal([0.0, 0.0], np.eye(2))
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 16)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert spread(a, b) == pytest.approx(29 / 2) and np.isnan(spread(a, normal([0.0, 0.0], np.zeros((2, 2)))))


def test_against_the_definition() -> None:
    rng = np.random.default_rng(1)
    a, b = (Moments().add(rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))) for _ in range(2))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_singular_covariances() -> None:
    """Fewer rows than features: one set is the other, shifted by 2 in each of 8 features."""
    rows = np.random.default_rng(2).normal(size=(5, 8))
    assert frechet_distance(Moments().add(rows), Moments().add(rows + 2)) == pytest.approx(32, rel=1e-5)


def test_against_pytorch_fid() -> None:
    """Made with pytorch-fid 0.3.0: calculate_frechet_distance of these features' moments."""
    real, fake, expected = golden_features()
    found = frechet_distance(Moments().add(real), Moments().add(fake))
    assert found == pytest.approx(expected["frechet"], rel=1e-9)
