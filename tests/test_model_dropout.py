"""Dropout in the discriminator: its rate, its masks, and where it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.nets import models
from dcgan_jax.nets.models import Discriminator
from tests import tiny
from tests.networks import Variables, discriminator_of, evaluate, train

# Two stages without strides on 8x8 pixels.
UNITS = 8 * 8 * 16


def counting_discriminator(rate: float) -> tuple[Discriminator, Variables]:
    """All activations are one on images of ones: the logit is the sum of what two rounds of dropout leave."""
    config = tiny.config({"model.norm": "none", "model.discriminator.dropout": rate}).unlock()
    config.model.discriminator.stages = ((16, 1), (16, 1))
    discriminator = models.build_discriminator(config)
    kernel1, kernel2 = np.zeros((3, 3, 3, 16), np.float32), np.zeros((3, 3, 16, 16), np.float32)
    kernel1[1, 1, 0] = 1
    kernel2[1, 1] = np.eye(16)
    params = {"conv1": kernel1, "conv2": kernel2, "logit": {"kernel": np.ones((UNITS, 1), np.float32)}}
    return discriminator, {"params": jax.tree.map(jnp.asarray, params)}


def test_dropout_rate() -> None:
    """A quarter is dropped, twice, with masks that have nothing to do with each other; the mean stays."""
    discriminator, variables = counting_discriminator(0.25)
    keys = jax.random.split(jax.random.key(0), 64)
    logits, taps = train(discriminator, variables, jnp.ones((64, 8, 8, 3)), dropout_keys=keys)
    np.testing.assert_allclose(taps["conv1"], 1)  # taps are what activations are before dropout ...
    np.testing.assert_allclose(np.unique(taps["conv2"]), [0, 4 / 3], rtol=1e-6)  # ... whose survivors are scaled
    first = float((taps["conv2"] > 0).mean())
    kept = np.asarray(logits) * 0.75**2
    np.testing.assert_allclose(kept, np.round(kept), atol=0.01)
    units = 64 * UNITS
    assert first == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / units))
    both = 0.75**2
    assert kept.sum() / units == pytest.approx(both, abs=4 * np.sqrt(both * (1 - both) / units))
    # Examples have masks of their own: their counts spread as binomial ones do.
    assert kept.std() == pytest.approx(np.sqrt(UNITS * both * (1 - both)), rel=0.4)


def test_dropout_does_not_depend_on_the_split_of_the_batch() -> None:
    discriminator, variables = counting_discriminator(0.5)
    images, keys = jnp.ones((4, 8, 8, 3)), jax.random.split(jax.random.key(0), 4)

    def logits(part: slice) -> Any:
        return train(discriminator, variables, images[part], dropout_keys=keys[part])[0]

    whole = logits(slice(0, 4))
    assert len(set(whole.tolist())) > 1
    np.testing.assert_array_equal(whole, jnp.concatenate([logits(slice(0, 1)), logits(slice(1, 4))]))


def test_dropout_is_for_training() -> None:
    discriminator, variables = counting_discriminator(0.5)
    logits, _ = evaluate(discriminator, variables, jnp.ones((2, 8, 8, 3)))
    np.testing.assert_array_equal(logits, [UNITS, UNITS])
    with pytest.raises(ValueError, match=r"dropout 0\.5 needs dropout_keys"):
        discriminator.apply(variables, jnp.ones((2, 8, 8, 3)), train=True)


def test_dropout_also_follows_hidden_layers() -> None:
    config = tiny.config(
        {"model.norm": "none", "model.discriminator.dropout": 0.5, "model.discriminator.hidden": (64,)}
    )
    discriminator, variables, images = discriminator_of(config)
    keys = jax.random.split(jax.random.key(0), 4)
    logit, taps = train(discriminator, variables, images, dropout_keys=keys)
    undropped = taps["hidden1"] @ variables["params"]["logit"]["kernel"]
    assert not np.allclose(logit, undropped[:, 0], rtol=1e-3, atol=0)
