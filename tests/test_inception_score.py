"""Inception score by hand and against torch-fidelity's numbers."""

import numpy as np
import pytest

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics.inception_score import inception_score
from tests.golden_features import golden_features


def test_by_hand() -> None:
    """Sure of one of four classes, each as often: 4. The same class always, or no idea: 1."""
    sure = 100.0 * np.eye(4)
    assert inception_score(np.tile(sure, (5, 1)), splits=1) == pytest.approx((4, 0))
    assert inception_score(np.tile(sure[:1], (5, 1)), splits=1) == pytest.approx((1, 0))
    assert inception_score(np.ones((5, 4)), splits=5) == pytest.approx((1, 0))


def test_probabilities() -> None:
    """Rows (3/4, 1/4) and (1/4, 3/4): exp(3/4 log(3/2) + 1/4 log(1/2)). An unlikely class does no harm."""
    p = np.array([[0.75, 0.25, 1e-300], [0.25, 0.75, 1e-300]])
    expected = np.exp(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert inception_score(np.log(p), splits=1).mean == pytest.approx(expected)
    assert inception_score(1e4 * np.eye(3), splits=1).mean == pytest.approx(3)  # probabilities of 0 in float64


def test_splits() -> None:
    """In order, 7 samples in two splits are 3 of one class and 4 of which half are of each: 1 and 2."""
    logits = 100.0 * np.eye(2)[[0, 0, 0, 0, 1, 0, 1]]
    assert inception_score(logits, splits=2, seed=None) == pytest.approx((1.5, 0.5))


def test_against_torch_fidelity() -> None:
    """Made with torch-fidelity 0.4.0: isc_features_to_metric of these numbers."""
    _, fake, expected = golden_features()
    assert inception_score(fake) == pytest.approx((expected["is_mean"], expected["is_std"]), rel=1e-9)


def test_bad_input() -> None:
    with pytest.raises(UserError, match="10 splits of 9 samples"):
        inception_score(np.zeros((9, 4)))
    with pytest.raises(UserError, match="the logits features are float64 of shape"):
        inception_score(np.zeros(9))
