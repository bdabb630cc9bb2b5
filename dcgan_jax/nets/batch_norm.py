"""Batch normalisation in training: one function with a gradient of its own, written for few passes over memory.

Values are [groups, rows, features]; every group is normalised with its own statistics, [groups, 1, features] float32,
taken over its rows and, given an axis name, over the devices of that mapped axis.

Automatic differentiation would also send gradients through the two subtractions of the mean, which cancel exactly, at
the cost of several more passes. With x' = (x - mean) / std and y = gain x' + shift, summed over the rows of a group,

    gradient of gain   = sum(dy x')
    gradient of shift  = sum(dy)
    gradient of x      = gain / std (dy - mean(dy) - x' mean(dy x'))
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dcgan_jax.machine.mesh import mean_over_devices

# Rows whose mean is the pivot of `_one_pass`.
_PIVOT_ROWS = 16

Moments = tuple[jax.Array, jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: jax.Array, gain: jax.Array, shift: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, Moments]:
    """Normalised values and the statistics that were used.

    Args:
      x: [groups, rows, features].
      gain, shift: float32 [features].
      epsilon: added to the (biased) variance.
      axis_name: mapped axis over which statistics are shared; None: this device's rows alone.

    Returns:
      float32 [groups, rows, features], and (mean, variance), through which no gradient flows.
    """
    return _forward(x, gain, shift, epsilon, axis_name)[0]


def _forward(x, gain, shift, epsilon, axis_name):  # type: ignore[no-untyped-def]
    mean, variance = moments(x.astype(jnp.float32), axis_name)
    scale = lax.rsqrt(variance + epsilon)
    y = (x.astype(jnp.float32) - mean) * (gain[None, None] * scale) + shift[None, None]
    return (y, (mean, variance)), (x, gain, mean, scale)


def _backward(epsilon, axis_name, residuals, cotangents):  # type: ignore[no-untyped-def]
    del epsilon
    x, gain, mean, scale = residuals
    dy, _ = cotangents
    deviations = x.astype(jnp.float32) - mean
    sum_dy = dy.sum(1, keepdims=True)
    sum_dy_x = (dy * deviations).sum(1, keepdims=True) * scale
    rows = x.shape[1]
    mean_dy, mean_dy_x = (mean_over_devices(total / rows, axis_name) for total in (sum_dy, sum_dy_x))
    dx = (gain[None, None] * scale) * (dy - mean_dy - deviations * (scale * mean_dy_x))
    return dx.astype(x.dtype), sum_dy_x.sum((0, 1)), sum_dy.sum((0, 1))


normalise.defvjp(_forward, _backward)


def moments(x: jax.Array, axis_name: str | None) -> Moments:
    """Mean and biased variance, [groups, 1, features], of float32 [groups, rows, features].

    XLA's CPU back end is quickest with two passes (measured: 2.2 ms against 5.1 ms for 32,768 rows of 256 features);
    GPUs and TPUs read x only once for the other form.
    """
    return lax.platform_dependent(
        x, cpu=partial(_two_passes, axis_name=axis_name), default=partial(_one_pass, axis_name=axis_name)
    )


def _two_passes(x: jax.Array, axis_name: str | None) -> Moments:
    mean = mean_over_devices(x.mean(1, keepdims=True), axis_name)
    return mean, mean_over_devices(jnp.square(x - mean).mean(1, keepdims=True), axis_name)


def _one_pass(x: jax.Array, axis_name: str | None) -> Moments:
    """Moments of x less a pivot near its mean.

    Without a pivot, mean(x^2) - mean(x)^2 loses the variance of features whose mean is large, and an epsilon of 1e-8
    blows up the rounding.
    """
    pivot = x[:, :_PIVOT_ROWS].mean(1, keepdims=True)
    deviations = x - pivot
    offset = deviations.mean(1, keepdims=True)
    variance = jnp.maximum(jnp.square(deviations).mean(1, keepdims=True) - jnp.square(offset), 0.0)
    local_mean = pivot + offset
    mean = mean_over_devices(local_mean, axis_name)
    return mean, mean_over_devices(variance + jnp.square(local_mean - mean), axis_name)
