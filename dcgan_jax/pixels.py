"""The one pair of functions that changes the range of pixels, between uint8 images and what the networks see."""

import jax
import jax.numpy as jnp


def to_network(images: jax.Array, output: str) -> jax.Array:
    """uint8 [..., height, width, channels] in [0, 255] -> float32 in [-1, 1] ('tanh') or [0, 1] ('sigmoid').

    Source: the authors' faces and MNIST scripts, x / 127.5 - 1 and x / 255.
    """
    images = images.astype(jnp.float32)
    return images / 127.5 - 1.0 if output == "tanh" else images / 255.0


def to_uint8(images: jax.Array, output: str) -> jax.Array:
    """Inverse of `to_network`: rounds to the nearest level, clips before casting."""
    images = images.astype(jnp.float32)
    levels = (images + 1.0) * 127.5 if output == "tanh" else images * 255.0
    return jnp.clip(jnp.round(levels), 0, 255).astype(jnp.uint8)
