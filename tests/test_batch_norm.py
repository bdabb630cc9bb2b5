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
    return batch_norm.normalise(x, gain, shift, jnp.zeros(FEATURES), EPSILON, axis_name)[0]


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


def by_rows(x: jax.Array) -> batch_norm.Moments:
    """As GPUs take them."""
    return batch_norm._one_pass(x, x[:, : batch_norm._PIVOT_ROWS].mean(1, keepdims=True))


def by_expectation(expected: float) -> Callable[[jax.Array], batch_norm.Moments]:
    """As TPUs take them, with running means of `expected`."""
    return lambda x: batch_norm._one_pass_from(x, jnp.full(FEATURES, expected, jnp.float32))


@pytest.mark.parametrize(
    "moments",
    [batch_norm._two_passes, by_rows, by_expectation(0.0), by_expectation(99.0)],
    ids=["cpu", "gpu", "tpu at the start", "tpu later"],
)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_moments_beside_a_large_mean(moments: Callable[..., batch_norm.Moments], scale: float) -> None:
    """A mean of 100 and deviations down to 1e-3, and to none: float32 keeps 7 digits, the square of the mean has 4."""
    x = (100.0 + scale * draw((GROUPS, 512, FEATURES), 4)).astype(np.float32)
    mean, variance = moments(x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var(1, keepdims=True), rtol=1e-2 if scale == 1e-3 else 1e-4)


@pytest.mark.parametrize("mean", [0.0, 1.0, 10.0, 30.0, 100.0, 1000.0])
@pytest.mark.parametrize("young", [True, False])
def test_accuracy_of_the_expected_pivot(mean: float, young: bool) -> None:
    """Deviations of 1, 32,768 rows: at the first step, when the running mean is 0, and within 10 % of the mean."""
    x = (mean + draw((1, 32_768, FEATURES), 5)).astype(np.float32)
    _, variance = jax.jit(by_expectation(0.0 if young else 0.9 * mean))(x)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(1, keepdims=True), rtol=5e-5)


def test_a_good_expectation_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond ten standard deviations of any feature the values are read again, and only then."""
    again = jnp.zeros((1, 1, FEATURES)), jnp.full((1, 1, FEATURES), -1.0)
    monkeypatch.setattr(batch_norm, "_two_passes", lambda x: again)
    x = draw((1, 4096, FEATURES), 6)
    expected = x.mean((0, 1))
    for distance, far in ((0.0, False), (9.5, False), (10.5, True)):
        expectation = expected.copy()
        expectation[1] += distance
        _, variance = batch_norm._one_pass_from(jnp.asarray(x), jnp.asarray(expectation))
        assert (np.asarray(variance) == -1.0).all() == far


@pytest.mark.parametrize("moments", [by_rows, by_expectation(2.0)], ids=["gpu", "tpu"])
def test_moments_over_devices(moments: Callable[..., batch_norm.Moments]) -> None:
    """Each device has a mean of its own; they are joined exactly, beside a mean of 1,000 as well."""
    for offset in (0.0, 1000.0):
        x = offset + X + np.linspace(0.0, 5.0, ROWS, dtype=np.float32)[:, None]
        mapped = jax.shard_map(
            lambda x: batch_norm._over_devices(moments(x), AXIS),
            mesh=tiny.mesh(4),
            in_specs=P(None, AXIS),
            out_specs=P(),
            check_vma=False,
        )
        mean, variance = jax.jit(mapped)(x)
        exact = x.astype(np.float64)
        np.testing.assert_allclose(mean, exact.mean(1, keepdims=True), rtol=1e-5)
        np.testing.assert_allclose(variance, exact.var(1, keepdims=True), rtol=1e-4)
