"""Window dropout: regression, masks and counts by hand, and the command on a trained run."""

import numpy as np
import pytest

from dcgan_jax.analysis import window_dropout
from dcgan_jax.errors import UserError
from tests import tiny


def test_default_layer_is_the_one_with_maps_of_a_quarter_of_the_side() -> None:
    assert window_dropout.default_layer(tiny.config()) == "deconv1"
    stages = ((8, 2), (6, 2), (4, 2), (4, 2))
    config = tiny.config(data__image_size=64)
    with config.unlocked():
        config.model.generator.stages = stages
    assert window_dropout.default_layer(config) == "deconv2"


def test_cells_need_more_than_half() -> None:
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0, :2] = True  # half of the first 2 x 2 cell: not enough
    mask[0, 2:, 2:] = [[True, True], [True, False]]  # three quarters of the last
    np.testing.assert_array_equal(window_dropout.cells(mask, 2)[0], [[False, False], [False, True]])


def test_cells_of_a_side_that_does_not_divide() -> None:
    mask = np.zeros((1, 7, 7), bool)
    mask[0, :4, 4:] = True
    np.testing.assert_array_equal(window_dropout.cells(mask, 2)[0], [[False, True], [False, False]])


def test_regression_by_hand() -> None:
    """Each feature has mean 1 outside. At zero weights the gradient of the loss is (mean outside - mean inside) / 4 ...

    ... of each kind's half, so 0.25 * (3 - 1) = 0.5 for the first feature and 0 for the second: a penalty above 0.5
    leaves nothing. Below, the loss of the first feature alone is log(1 + exp(-w)) at distance 1 from the threshold,
    with slope 1 / (1 + exp(w)) = penalty.
    """
    inside, outside = np.array([[3.0, 0.0], [3.0, 2.0]]), np.array([[1.0, 0.0], [1.0, 2.0]])
    assert not window_dropout.fit_logistic(inside, outside, 0.51).weights.any()
    fit = window_dropout.fit_logistic(inside, outside, 0.1)
    np.testing.assert_allclose(fit.weights, [np.log(9), 0], atol=1e-4)
    assert fit.intercept == pytest.approx(-2 * np.log(9), abs=1e-3)


def test_regression_weighs_both_kinds_alike_and_maps_by_what_they_do_outside() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.random((50, 2)) + np.array([1.0, 0.0]), rng.random((80, 2))
    one = window_dropout.fit_logistic(inside, outside, 0.05)
    repeated = window_dropout.fit_logistic(inside, np.concatenate([outside] * 3), 0.05)
    np.testing.assert_allclose(one.weights, repeated.weights, atol=1e-3)
    scaled = window_dropout.fit_logistic(inside * [1000, 1], outside * [1000, 1], 0.05)
    np.testing.assert_allclose(one.weights, scaled.weights * [1000, 1], atol=1e-3)


def test_fit_finds_the_map_that_marks_windows() -> None:
    rng = np.random.default_rng(0)
    inside = np.zeros((20, 4, 4), bool)
    inside[:, 1, 2] = True
    maps = 0.5 + rng.random((20, 4, 4, 3)).astype(np.float32)
    maps[..., 1] += inside
    fit = window_dropout.fit_maps(maps, inside, 0.05)
    np.testing.assert_array_equal(fit.weights > 0, [False, True, False])
    assert fit.accuracy > 0.9
    with pytest.raises(UserError, match="no box covers half of a place"):
        window_dropout.fit_maps(maps, np.zeros_like(inside), 0.05)
    with pytest.raises(UserError, match="cover everything"):
        window_dropout.fit_maps(maps, np.ones_like(inside), 0.05)


def test_windows_gone_by_hand() -> None:
    """Two windows of 16 pixels and a speck on a side of 20: one keeps 7 pixels, the other 8."""
    before = np.zeros((1, 20, 20), bool)
    before[0, 0:4, 0:4] = before[0, 10:14, 10:14] = before[0, 19, 19] = True
    after = np.zeros_like(before)
    after[0, 0, :4] = after[0, 1, :3] = after[0, 10:12, 10:14] = True
    assert window_dropout.windows_gone(before, after) == (2, 1)


def test_changes_by_hand() -> None:
    mask = np.zeros((1, 16, 16), bool)
    mask[0, 8, 8] = True
    apart = window_dropout.outside(mask)
    assert apart.sum() == 16 * 16 - 9  # a margin of a pixel
    before = np.zeros((1, 16, 16, 3), np.uint8)
    after = before.copy()
    after[0, 8, 8] = (30, 60, 90)
    after[0, 0, 0] = 247
    assert window_dropout.mean_change(before, after, mask) == 60
    assert window_dropout.mean_change(before, after, apart) == 1
    assert np.isnan(window_dropout.mean_change(before, after, np.zeros_like(mask)))
