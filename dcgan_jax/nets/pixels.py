"""Pixels: the one pair of functions that changes their range, uint8 to what the networks see; averages of blocks."""

import jax
import jax.numpy as jnp
import numpy as np


def to_network(images: jax.Array, output: str) -> jax.Array:
    """uint8 [..., height, width, channels] in [0, 255] -> float32 in [-1, 1] ('tanh') or [0, 1] ('sigmoid').

    Source: the authors' faces and MNIST scripts, x / 127.5 - 1 and x / 255.
    """
    images = images.astype(jnp.float32)
    return images / 127.5 - 1.0 if output == "tanh" else images / 255.0


def to_uint8(images: jax.Array, output: str) -> jax.Array:
    """Inverse of `to_network`: rounds to the nearest level, clips before casting."""
    return jnp.clip(jnp.round(to_levels(images, output)), 0, 255).astype(jnp.uint8)


def to_levels(images: jax.Array, output: str) -> jax.Array:
    """Inverse of `to_network` without rounding: float32 in [0, 255]."""
    images = images.astype(jnp.float32)
    return (images + 1.0) * 127.5 if output == "tanh" else images * 255.0


def block_means(images: np.ndarray, side: int) -> np.ndarray:
    """Averages of square blocks, about side x side of them, float64 [count, blocks * channels].

    Args:
      images: uint8, or float levels of unrounded images, [count, height, width, channels].
      side: blocks are as large as this many fit beside each other; pixels left over at the far edges do not count.
    """
    count, height, width, channels = images.shape
    block = max(1, min(height, width) // side)
    rows, columns = height // block, width // block
    blocks = images[:, : rows * block, : columns * block].reshape(count, rows, block, columns, block, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float64).reshape(count, -1)
