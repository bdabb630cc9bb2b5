"""Batch normalisation: its gradient against automatic differentiation, and both ways to take moments."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dcgan_jax.machine.mesh import AXIS
from dcgan_jax.nets import batch_norm
from tests import tiny

GROUPS, ROWS, FEATURES, EPSILON = 2, 24, 3, 1e-3


def draw(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X, COTANGENT = draw((GROUPS, ROWS, FEATURES), 0) * 2.0 + 1.0, draw((GROUPS, ROWS, FEATURES), 1)
GAIN, SHIFT = draw((FEATURES,), 2), draw((FEATURES,), 3)


def plain(x: jax.Array, gain: jax.Array, shift: jax.Array) -> jax.Array:
    """The definition, for automatic differentiation."""
    mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    return gain[None, None] * (x - mean) / jnp.sqrt(variance + EPSILON) + shift[None, None]


def own(x: jax.Array, gain: jax.Array, shift: jax.Array, axis_name: str | None = None) -> jax.Array:
    return batch_norm.normalise(x, gain, shift, EPSILON, axis_name)[0]


def test_gradients() -> None:
    want, pull_back = jax.vjp(plain, X, GAIN, SHIFT)
    got, own_pull_back = jax.vjp(own, X, GAIN, SHIFT)
    np.testing.assert_allclose(got, want, atol=2e-6)
    for mine, theirs in zip(own_pull_back(COTANGENT), pull_back(COTANGENT), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("devices", [2, 4])
def test_gradients_over_devices_are_those_of_all_rows(devices: int) -> None:
    """Rows are split; gradients of gain and shift, which every device has whole, add up over devices."""

    def gradients(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        _, pull_back = jax.vjp(partial(own, axis_name=AXIS), x, GAIN, SHIFT)
        dx, *others = pull_back(cotangent)
        return (dx, *jax.lax.psum(others, AXIS))

    rows = P(None, AXIS)
    mapped = jax.shard_map(
        gradients, mesh=tiny.mesh(devices), in_specs=(rows, rows), out_specs=(rows, P(), P()), check_vma=False
    )
    want = jax.vjp(plain, X, GAIN, SHIFT)[1](COTANGENT)
    for mine, theirs in zip(jax.jit(mapped)(X, COTANGENT), want, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("moments", [batch_norm._one_pass, batch_norm._two_passes])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_moments_beside_a_large_mean(moments: Callable[..., batch_norm.Moments], scale: float) -> None:
    """A mean of 100 and deviations down to 1e-3, and to none: float32 keeps 7 digits, the square of the mean has 4."""
    x = (100.0 + scale * draw((GROUPS, 512, FEATURES), 4)).astype(np.float32)
    mean, variance = moments(x, None)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var(1, keepdims=True), rtol=1e-2 if scale == 1e-3 else 1e-4)


def test_moments_in_one_pass_over_devices() -> None:
    """Each device has a pivot and a mean of its own."""
    x = X + np.linspace(0.0, 5.0, ROWS, dtype=np.float32)[:, None]
    mapped = jax.shard_map(
        partial(batch_norm._one_pass, axis_name=AXIS),
        mesh=tiny.mesh(4),
        in_specs=P(None, AXIS),
        out_specs=P(),
        check_vma=False,
    )
    mean, variance = jax.jit(mapped)(x)
    np.testing.assert_allclose(mean, x.mean(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var(1, keepdims=True), rtol=1e-5)
