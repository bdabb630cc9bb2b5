"""Pixel ranges: uint8 to what the networks see, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.nets import pixels


@pytest.mark.parametrize(("output", "expected"), [("tanh", [-1.0, -0.6, 0.2, 1.0]), ("sigmoid", [0.0, 0.2, 0.6, 1.0])])
def test_to_network(output: str, expected: list[float]) -> None:
    images = pixels.to_network(jnp.array([0, 51, 153, 255], jnp.uint8).reshape(1, 2, 2, 1), output)
    assert images.shape == (1, 2, 2, 1) and images.dtype == jnp.float32
    np.testing.assert_allclose(images.reshape(-1), expected, atol=1e-7)


@pytest.mark.parametrize("output", ["tanh", "sigmoid"])
def test_every_level_survives_the_round_trip(output: str) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    back = pixels.to_uint8(pixels.to_network(jnp.asarray(levels), output), output)
    assert back.dtype == jnp.uint8
    np.testing.assert_array_equal(back, levels)


@pytest.mark.parametrize(("output", "scale", "offset"), [("tanh", 127.5, 1.0), ("sigmoid", 255.0, 0.0)])
def test_to_uint8_rounds_and_clips(output: str, scale: float, offset: float) -> None:
    levels = np.array([99.6, 100.0, 100.4, 100.6, -0.4, -3.0, 255.4, 256.0, 600.0])
    images = jnp.asarray(levels / scale - offset, jnp.float32)
    np.testing.assert_array_equal(pixels.to_uint8(images, output), [100, 100, 100, 101, 0, 0, 255, 255, 255])
