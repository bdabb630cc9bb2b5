"""Products of matrices for the CPU: the forms that reach XLA's bfloat16 kernel, and the fastest of float32."""

import jax
import jax.numpy as jnp
from jax import lax


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [batch, in] times a float32 kernel [in, out], in the dtype of x; the kernel's gradient is float32.

    On the CPU a bfloat16 product, and both of its gradients, have a form of their own. Otherwise XLA multiplies in
    float32, and hands Adam a transposed gradient, through which it then reads three arrays of the kernel's size.
    """
    if x.dtype != jnp.bfloat16:
        return x @ kernel
    return lax.platform_dependent(x, kernel, cpu=_bfloat16_dense, default=lambda x, k: x @ k.astype(x.dtype))


@jax.custom_vjp
def _bfloat16_dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _bfloat16_dense_forward(x, kernel)[0]


def _bfloat16_dense_forward(x, kernel):  # type: ignore[no-untyped-def]
    rounded = lax.optimization_barrier(kernel.astype(x.dtype))
    return bfloat16_product(x, rounded, contract=-2).astype(x.dtype), (x, rounded)


def _bfloat16_dense_backward(residuals, cotangent):  # type: ignore[no-untyped-def]
    x, rounded = residuals
    return bfloat16_product(cotangent, rounded, contract=-1).astype(x.dtype), inner(x, cotangent)


_bfloat16_dense.defvjp(_bfloat16_dense_forward, _bfloat16_dense_backward)


def each(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
    """a b of stacks of matrices [..., rows, columns], float32."""
    if a[0].dtype != jnp.bfloat16:
        return [x @ y for x, y in zip(a, b, strict=True)]
    return [bfloat16_product(x, y, contract=-2) for x, y in zip(a, b, strict=True)]


def each_transposed(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
    """a b^T of the same."""
    if a[0].dtype != jnp.bfloat16:
        return [x @ y.mT for x, y in zip(a, b, strict=True)]
    return [bfloat16_product(x, y, contract=-1) for x, y in zip(a, b, strict=True)]


def inner(v: jax.Array, z: jax.Array) -> jax.Array:
    """v^T z for stacks of matrices [..., rows, features], float32.

    In float32 tall ones are 15 to 30 % faster as (z^T v)^T (measured). In bfloat16 one of the factors is transposed in
    memory, or the other one and the product: whichever moves fewer bytes.
    """
    rows, v_features, z_features = v.shape[-2], v.shape[-1], z.shape[-1]
    if v.dtype == jnp.bfloat16:
        if rows * v_features * 2 < rows * z_features * 2 + v_features * z_features * 4:
            return bfloat16_product(_transposed(v), z, contract=-2)
        return _transposed(bfloat16_product(_transposed(z), v, contract=-2))
    if rows < v_features:
        return v.mT @ z
    return lax.optimization_barrier(lax.optimization_barrier(z.mT @ v).mT)


def bfloat16_product(a: jax.Array, b: jax.Array, contract: int) -> jax.Array:
    """a b (contract=-2) or a b^T (-1) of stacks of bfloat16 matrices, float32.

    One dot_general, the stack's axis first, and no operand transposed: only that form reaches the bfloat16 kernel of
    XLA's CPU back end. `b.mT` would be folded in after XLA has decided to multiply in float32.
    """
    stack = tuple(range(a.ndim - 2))
    dimensions = (((a.ndim - 1,), (b.ndim + contract,)), (stack, stack))
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _transposed(matrices: jax.Array) -> jax.Array:
    """The transposes of a stack of matrices, stored as such.

    The flat shape between the barriers leaves XLA no choice of layout. Otherwise it calls the transpose a view, and the
    product that reads it misses the bfloat16 kernel.
    """
    flat = lax.optimization_barrier(lax.optimization_barrier(matrices).mT.reshape(-1))
    return flat.reshape(matrices.mT.shape)
