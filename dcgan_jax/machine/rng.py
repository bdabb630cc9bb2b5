"""The one place where random keys are derived.

A key is a function of (seed, name of the stream, step): nothing is split along the way, so a resumed run draws the same
numbers as one that never stopped, and no key needs to be saved.
"""

import zlib

import jax


def stream(seed: int, name: str, step: int | jax.Array = 0) -> jax.Array:
    """The key of stream `name` at `step` (a Python int, or a traced int32 scalar inside a jitted step)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), step)


def example_keys(key: jax.Array, first: int | jax.Array, count: int) -> jax.Array:
    """Keys [count] of the examples first .. first + count - 1: each depends only on `key` and its example's number."""
    return jax.vmap(lambda i: jax.random.fold_in(key, first + i))(jax.numpy.arange(count))
