"""Products of dense layers, forward and backward, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.nets import products


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(8, 40, 3), (64, 5, 70), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dense(batch: int, inputs: int, outputs: int, dtype: type) -> None:
    """Whole numbers up to 4 and sums below 2^8 are exact in bfloat16, so are their products in float32."""
    rng = np.random.default_rng(0)
    x, kernel, cotangent = (
        rng.integers(-1, 2, shape).astype(np.float32)
        for shape in ((batch, inputs), (inputs, outputs), (batch, outputs))
    )
    value, pull_back = jax.vjp(jax.jit(products.dense), jnp.asarray(x, dtype), jnp.asarray(kernel))
    x_gradient, kernel_gradient = pull_back(jnp.asarray(cotangent, dtype))
    assert (value.dtype, x_gradient.dtype, kernel_gradient.dtype) == (dtype, dtype, jnp.float32)
    np.testing.assert_array_equal(np.asarray(value, np.float32), x @ kernel)
    np.testing.assert_array_equal(np.asarray(x_gradient, np.float32), cotangent @ kernel.T)
    np.testing.assert_array_equal(kernel_gradient, x.T @ cotangent)


def test_the_gradient_of_a_kernel_is_not_transposed() -> None:
    """In bfloat16, where XLA would let Adam read a transposed product: 2.6 times as slow."""

    def updated(x: jax.Array, kernel: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda k: products.dense(x, k).astype(jnp.float32).sum())(kernel)
        return kernel - 0.1 * gradient / (1.0 + jnp.abs(gradient))

    x, kernel = jnp.ones((16, 48), jnp.bfloat16), jnp.ones((48, 32))
    text = jax.jit(updated).lower(x, kernel).compile().as_text() or ""
    assert text and "f32[48,32]{0,1}" not in text
    plain = jax.jit(_updated_plainly).lower(x, kernel).compile().as_text() or ""
    assert "f32[48,32]{0,1}" in plain  # the check would notice


def _updated_plainly(x: jax.Array, kernel: jax.Array) -> jax.Array:
    gradient = jax.grad(lambda k: (x @ k.astype(jnp.bfloat16)).astype(jnp.float32).sum())(kernel)
    return kernel - 0.1 * gradient / (1.0 + jnp.abs(gradient))
