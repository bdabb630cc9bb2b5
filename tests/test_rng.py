"""Random keys: functions of what they are for, and of nothing else."""

import zlib

import jax
import numpy as np

from dcgan_jax.machine import rng


def data(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


def test_stream_is_its_seed_name_and_step() -> None:
    """Computed again from the definition: a checkpoint holds no keys, so this must never change."""
    checksum = zlib.crc32(b"z_discriminator")
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), checksum), 7)
    np.testing.assert_array_equal(data(rng.stream(3, "z_discriminator", 7)), data(expected))
    np.testing.assert_array_equal(data(rng.stream(3, "z")), data(rng.stream(3, "z", 0)))


def test_streams_differ() -> None:
    keys = [rng.stream(seed, name, step) for seed in (0, 1) for name in ("z", "z_discriminator") for step in (0, 1, 2)]
    assert len({data(key).tobytes() for key in keys}) == len(keys)
    draws = np.stack([jax.random.normal(key, (2000,)) for key in keys])
    correlations = np.corrcoef(draws) - np.eye(len(keys))
    assert np.abs(correlations).max() < 0.1


def test_traced_step_gives_the_same_key() -> None:
    traced = jax.jit(lambda step: rng.stream(0, "z", step))(5)
    np.testing.assert_array_equal(data(traced), data(rng.stream(0, "z", 5)))


def test_example_keys_depend_on_the_example_only() -> None:
    key = rng.stream(0, "z")
    keys = rng.example_keys(key, 0, 8)
    assert keys.shape == (8,)
    assert len({row.tobytes() for row in data(keys)}) == 8
    np.testing.assert_array_equal(data(keys)[5], data(jax.random.fold_in(key, 5)))
    # The share of one device of several.
    np.testing.assert_array_equal(data(rng.example_keys(key, 4, 4)), data(keys)[4:])
    traced = jax.jit(lambda first: rng.example_keys(key, first, 4))(4)
    np.testing.assert_array_equal(data(traced), data(keys)[4:])
