"""Features of a discriminator: pooling by hand, and the paper's numbers of features."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import imagenet32, svhn
from dcgan_jax.evaluation import discriminator_features
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models, pixels
from dcgan_jax.train_state import build_gan, create_state
from tests import tiny


def test_pool_by_hand() -> None:
    maps = jnp.arange(36.0).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(
        discriminator_features.pool(maps, 3)[0, ..., 0], [[7, 9, 11], [19, 21, 23], [31, 33, 35]]
    )
    # Cells of 5 in a grid of 2 are rows 0-2 and 2-4.
    np.testing.assert_array_equal(
        discriminator_features.pool(jnp.arange(25.0).reshape(1, 5, 5, 1), 2)[0, ..., 0], [[12, 14], [22, 24]]
    )
    assert discriminator_features.pool(jnp.zeros((2, 2, 2, 3))).shape == (2, 2, 2, 3)


def test_pool_of_maps_that_are_not_square() -> None:
    maps = jnp.arange(24.0).reshape(1, 4, 6, 1)
    np.testing.assert_array_equal(discriminator_features.pool(maps, 2)[0, ..., 0], [[8, 11], [20, 23]])
    # Columns 0-1, 1-2, 3-4 and 4-5 of the two rows, which stay.
    np.testing.assert_array_equal(
        discriminator_features.pool(maps[:, :2], 4)[0, ..., 0], [[1, 2, 4, 5], [7, 8, 10, 11]]
    )


@pytest.mark.parametrize(("get_config", "count"), [(imagenet32.get_config, 28_672), (svhn.get_config, 7168)])
def test_numbers_of_features_of_the_paper(get_config: partial[ConfigDict], count: int) -> None:
    config = get_config()
    state = jax.eval_shape(lambda: create_state(build_gan(config)))
    discriminator = models.build_discriminator(config)

    def extract(images: jax.Array) -> jax.Array:
        variables = {"params": state.discriminator.params, "batch_stats": state.discriminator.batch_stats}
        variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
        outputs: Any = discriminator.apply(variables, images, train=False)
        return discriminator_features.flatten(outputs[1])

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    assert jax.eval_shape(extract, images).shape == (2, count)


def test_extraction_uses_frozen_statistics_of_the_given_images(tmp_path: Path) -> None:
    """One batch: the features are those of training mode, where a layer uses the moments of its batch."""
    config = tiny.config()
    state = tiny.fresh_state(config).discriminator
    images = tiny.images(128)
    extract = discriminator_features.make_extractor(config, state.variables, images, "")
    found = extract(images[:70], tmp_path / "features.npy", "")
    assert found.shape == (70, 4 * 4 * 4 + 2 * 2 * 6) and found.dtype == np.float32
    discriminator = models.build_discriminator(config)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    inputs = pixels.to_network(jnp.asarray(images), config.model.output)
    (_, taps), _ = discriminator.apply(variables, inputs, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, discriminator_features.flatten(taps)[:70], atol=1e-4)
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), found)


def test_statistics_of_a_random_part_of_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 256 images, dark first, 128 drawn at random: neither the first nor the last."""
    config = tiny.config()
    state = tiny.fresh_state(config).discriminator
    images = np.concatenate([tiny.images(128) // 4, tiny.images(128, seed=1)])

    def features(given: np.ndarray) -> np.ndarray:
        extract = discriminator_features.make_extractor(config, state.variables, given, "")
        return np.array(extract(images[:5], tmp_path / "x.npy", ""))

    drawn = np.sort(np.random.default_rng(0).choice(256, 128, replace=False))
    expected, first = features(images[drawn]), features(images[:128])
    monkeypatch.setattr(discriminator_features, "_STATISTICS_IMAGES", 128)
    np.testing.assert_allclose(features(images), expected, atol=1e-5)
    assert np.abs(features(images) - first).max() > 0.01


def test_conditional_networks_are_refused() -> None:
    config = tiny.config({"model.num_classes": 2})
    with pytest.raises(UserError, match="is conditioned on labels"):
        discriminator_features.make_extractor(config, {}, tiny.images(), "")
