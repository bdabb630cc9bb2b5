"""Strided convolution and its exact transpose: one definition for every platform.

Notation, used throughout: a *large* map [batch, stride*h, stride*w, large_features], a *small* map
[batch, h, w, small_features] and a kernel [k, k, large_features, small_features], all NHWC. `conv` goes from large to
small (the discriminator), `conv_transpose` from small to large (the generator); each is the transpose of the other in
its image argument, so one kernel layout serves both.

    conv:            small[i] = sum_t kernel[t] large[stride * i + t - pad],   pad = (k - 1) // 2
    conv_transpose:  large[o] = sum over (i, t) with stride * i + t - pad = o of kernel[t] small[i]

The padding is the reference's (Theano, pad 2 for 5x5 stride 2 on even sizes): low (k-1)//2, high k-stride-(k-1)//2.
XLA's 'SAME' is its mirror image for stride 2.

Three formulations compute the same thing. 'lax' is XLA's own convolution (`conv_lax.py`), right for GPU and TPU. XLA's
CPU back end is slow on the dilated convolutions that the transpose and both gradients become, so on the CPU 'winograd'
and 'im2col' (`conv_gemm.py`) turn all six of them into matrix products. 'auto' is decided when a program is compiled
for a platform: 'winograd' on the CPU, 'lax' elsewhere.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dcgan_jax.nets import conv_gemm, conv_lax, products

METHODS = ("auto", "winograd", "im2col", "lax")

Formulation = Callable[..., jax.Array]


def conv(large: jax.Array, kernel: jax.Array, stride: int, method: str = "auto") -> jax.Array:
    """Strided convolution (cross-correlation: the kernel is not flipped).

    Args:
      large: [batch, stride*h, stride*w, large_features].
      kernel: [k, k, large_features, small_features], k >= stride; float32, also where maps are bfloat16. Its gradient
        has its dtype.
      stride: 1 or 2.
      method: see the module's docstring.

    Returns:
      [batch, h, w, small_features].
    """
    return _choose(method, _gemm_conv, _lax_conv)(large, _float32(kernel), stride)


def conv_transpose(small: jax.Array, kernel: jax.Array, stride: int, method: str = "auto") -> jax.Array:
    """Transpose of `conv` in its image argument: a small map in, a large one out; arguments as there."""
    return _choose(method, _gemm_conv_transpose, _lax_conv_transpose)(small, _float32(kernel), stride)


def _choose(method: str, gemm: Formulation, plain: Formulation) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    if method not in METHODS:
        raise ValueError(f"conv must be one of {METHODS}, not {method!r}")
    if method == "lax":
        return plain
    if method != "auto":
        return lambda image, kernel, stride: gemm(image, kernel, stride, method)

    def per_platform(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
        on_cpu, elsewhere = (lambda x, k: gemm(x, k, stride, "winograd")), (lambda x, k: plain(x, k, stride))
        return lax.platform_dependent(image, kernel, cpu=on_cpu, default=elsewhere)

    return per_platform


def _float32(kernel: jax.Array) -> jax.Array:
    """All formulations take float32 kernels. A bfloat16 one is cast here, so that its gradient is bfloat16 again."""
    return kernel.astype(jnp.float32) if kernel.dtype == jnp.bfloat16 else kernel


def _lax_conv(large: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return conv_lax.conv(large, kernel.astype(large.dtype), stride)


def _lax_conv_transpose(small: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return conv_lax.conv_transpose(small, kernel.astype(small.dtype), stride)


# The GEMM formulations. A convolution is bilinear: with linear maps V of the large map, U of the kernel and Z of the
# small map, and products of matrices per point,
#     conv = Z^T(V U),   conv_transpose = V^T(Z U^T),   kernel gradient = U^T(V^T Z),
# so each gradient needs only one new transform; the other two are residuals of the forward pass.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gemm_conv(large: jax.Array, kernel: jax.Array, stride: int, method: str) -> jax.Array:
    return _gemm_conv_forward(large, kernel, stride, method)[0]


def _gemm_conv_forward(large, kernel, stride, method):  # type: ignore[no-untyped-def]
    plan = _plan(large.shape, large.dtype, kernel, stride, method)
    v, u = plan.large(large), plan.kernel(kernel)
    return plan.small_transpose(products.each(v, u)), (large if _reads_columns(plan) else v, u, plan)


def _gemm_conv_backward(stride, method, residuals, cotangent):  # type: ignore[no-untyped-def]
    large_or_v, u, plan = residuals
    z = plan.small(cotangent)
    return _in_turn(plan.large_transpose(products.each_transposed(z, u)), _kernel_gradient(large_or_v, z, plan))


_gemm_conv.defvjp(_gemm_conv_forward, _gemm_conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gemm_conv_transpose(small: jax.Array, kernel: jax.Array, stride: int, method: str) -> jax.Array:
    return _gemm_conv_transpose_forward(small, kernel, stride, method)[0]


def _gemm_conv_transpose_forward(small, kernel, stride, method):  # type: ignore[no-untyped-def]
    batch, height, width, _ = small.shape
    large_shape = (batch, stride * height, stride * width, kernel.shape[2])
    plan = _plan(large_shape, small.dtype, kernel, stride, method)
    z, u = plan.small(small), plan.kernel(kernel)
    return plan.large_transpose(products.each_transposed(z, u)), (z, u, plan)


def _gemm_conv_transpose_backward(stride, method, residuals, cotangent):  # type: ignore[no-untyped-def]
    z, u, plan = residuals
    v = plan.large(cotangent)
    large_or_v = cotangent if _reads_columns(plan) else v
    return _in_turn(plan.small_transpose(products.each(v, u)), _kernel_gradient(large_or_v, z, plan))


_gemm_conv_transpose.defvjp(_gemm_conv_transpose_forward, _gemm_conv_transpose_backward)


def _plan(
    large_shape: tuple[int, ...], dtype: DTypeLike, kernel: jax.Array, stride: int, method: str
) -> conv_gemm.Winograd | conv_gemm.Im2col:
    pad, _ = conv_lax.padding(kernel.shape[0], stride)
    return conv_gemm.make_plan(large_shape, kernel.shape, stride, pad, method, dtype)


def _reads_columns(plan: conv_gemm.Winograd | conv_gemm.Im2col) -> bool:
    """Whether the kernel's gradient takes V^T from the large map, and not from V.

    In bfloat16 a transposed factor must be transposed in memory, and of the few features of an image end that takes
    four times as long as the product. In float32 the product takes it as it is, and is as fast (measured).
    """
    return isinstance(plan, conv_gemm.Im2col) and plan.dtype == jnp.bfloat16


def _kernel_gradient(
    large_or_v: jax.Array | list[jax.Array], z: list[jax.Array], plan: conv_gemm.Winograd | conv_gemm.Im2col
) -> jax.Array:
    """Of V, or where `_reads_columns` says so of the large map, and Z."""
    if isinstance(plan, conv_gemm.Im2col) and isinstance(large_or_v, jax.Array):
        columns = plan.large_columns(large_or_v)
        return plan.kernel_transpose(products.each(columns, z))
    return plan.kernel_transpose([products.inner(v, z) for v, z in zip(large_or_v, z, strict=True)])


def _in_turn(image: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both gradients of a layer, to be finished before the layer below begins.

    Otherwise products and passes over memory of several layers run at once on the same cores, 2 % slower (measured).
    """
    image, kernel = lax.optimization_barrier((image, kernel))
    return image, kernel
