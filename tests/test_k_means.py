"""One layer of k-means: patches, whitening, centroids and features against NumPy."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.evaluation import k_means
from dcgan_jax.machine.errors import UserError
from tests import tiny


def test_patches_are_parts_of_the_images() -> None:
    images = np.arange(2 * 9 * 10 * 3, dtype=np.int64).reshape(2, 9, 10, 3)  # every number occurs once
    patches = k_means.draw_patches(images, 500, np.random.default_rng(0))
    assert patches.shape == (500, 6 * 6 * 3)
    corners = set()
    for patch in patches:
        image, row, column, channel = np.unravel_index(patch[0], images.shape)
        assert channel == 0
        np.testing.assert_array_equal(patch, images[image, row : row + 6, column : column + 6].ravel())
        corners.add((image, row, column))
    assert len(corners) == 2 * 4 * 5  # all places are drawn


def test_contrast_by_hand() -> None:
    """Levels 0 and 10: mean 5, variance (25 + 25) / 1, and 10 added."""
    found = k_means._normalise(jnp.array([[0, 10]], jnp.uint8))
    np.testing.assert_allclose(found, [[-5 / 60**0.5, 5 / 60**0.5]], rtol=1e-6)


def test_whitening_makes_the_covariance_nearly_the_identity() -> None:
    points = np.random.default_rng(0).normal(3, [10.0, 5.0, 20.0], (100_000, 3)) @ [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    mean, white = k_means.whitening(jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(np.cov(((points - np.asarray(mean)) @ np.asarray(white)).T), np.eye(3), atol=0.02)
    np.testing.assert_allclose(white, white.T, atol=1e-6)


def test_centroids_of_separate_groups() -> None:
    """Means of the groups; the second seed starts elsewhere. A centroid without a point stays."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]])
    points = np.repeat(centres, 200, 0) + rng.normal(0, 0.1, (600, 2))
    found = np.asarray(k_means.fit(jnp.asarray(points, jnp.float32), 3, seed=3))
    means = points.reshape(3, 200, 2).mean(1)
    np.testing.assert_allclose(found[np.lexsort(found.T[::-1])], means[np.lexsort(means.T[::-1])], atol=1e-4)
    alone = np.asarray(k_means.fit(jnp.full((5, 2), 7.0), 2, seed=0))
    np.testing.assert_allclose(alone, np.full((2, 2), 7.0))


def test_features_by_definition(tmp_path: Path) -> None:
    """The triangle activation of every place, summed over quadrants, place by place in float64."""
    images = tiny.images(40)  # 8 x 8: three places a side, the first in the upper and left quadrants
    extract = k_means.make_extractor(images, 5, seed=0)
    found = extract(images[:3], tmp_path / "x.npy", "")
    assert found.shape == (3, 20) and found.dtype == np.float32

    patches = k_means.draw_patches(images, 400_000, np.random.default_rng(0))

    def normalise(patch: np.ndarray) -> np.ndarray:
        patch = patch.astype(float)
        apart = patch - patch.mean(-1, keepdims=True)
        return apart / np.sqrt(patch.var(-1, ddof=1, keepdims=True) + 10)

    mean, white = k_means.whitening(jnp.asarray(normalise(patches), jnp.float32))
    centres = np.asarray(k_means.fit((jnp.asarray(normalise(patches), jnp.float32) - mean) @ white, 5, 0))
    expected = np.zeros((3, 4, 5))
    for i in range(3):
        for row in range(3):
            for column in range(3):
                patch = normalise(images[i, row : row + 6, column : column + 6].ravel())
                apart = np.linalg.norm((patch - np.asarray(mean)[0]) @ np.asarray(white) - centres, axis=1)
                expected[i, 2 * (row >= 1) + (column >= 1)] += np.maximum(0, apart.mean() - apart)
    np.testing.assert_allclose(found, expected.reshape(3, 20), rtol=5e-3, atol=2e-2)


def test_standardised_by_the_training_set() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(5, 3, (2000, 2)).astype(np.float32), np.array([[5, 5]], np.float32)
    mean, std = train.mean(0), train.std(0)
    k_means.standardise(train, [test])
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, atol=2e-3)
    np.testing.assert_allclose(test[0], (5 - mean) / np.sqrt(std**2 + 0.01), rtol=1e-4)


def test_small_images_are_refused() -> None:
    with pytest.raises(UserError, match="more than 6 pixels a side"):
        k_means.make_extractor(np.zeros((3, 6, 9, 1), np.uint8), 2, 0)
