"""XLA's own convolutions, in the forms that its compilers for GPUs and TPUs turn into one library call each.

All six operations of `conv` and `conv_transpose` (values and both gradients) are `strided` or one of its two
transposes, since those are what XLA's GPU compiler recognises as cuDNN's forward, backward-data and backward-filter.
The equivalent forms that automatic differentiation of a hand-written transposed convolution gives become convolutions
with filters as large as the map and zeros between their rows, with several times the arithmetic
(docs/convolutions.md has the counts).

*Kernels larger than their small map*, such as 5x5 on 4x4, need a form of their own: XLA swaps map and kernel where the
kernel has more places, and what it then makes multiplies zeros, 8 times the arithmetic for 5x5 on 4x4. CUDA gets one
matrix product over the neighbourhoods of all places, TPUs a few kernels of fewer rows. Kernel gradients on CUDA are
swapped for 4x4 on 4x4 already.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


def padding(size: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind an axis under a kernel of `size` places: (k-1)//2 and k-stride-(k-1)//2."""
    low = (size - 1) // 2
    return low, size - stride - low


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(large: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """See `dcgan_jax.nets.conv.conv`."""
    return strided(large, kernel, stride)


def _conv_forward(large, kernel, stride):  # type: ignore[no-untyped-def]
    return strided(large, kernel, stride), (large, kernel)


def _conv_backward(stride, residuals, cotangent):  # type: ignore[no-untyped-def]
    large, kernel = residuals
    return to_large(cotangent, kernel, stride), to_kernel(large, cotangent, kernel.shape[0], stride)


conv.defvjp(_conv_forward, _conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose(small: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """See `dcgan_jax.nets.conv.conv_transpose`."""
    return to_large(small, kernel, stride)


def _conv_transpose_forward(small, kernel, stride):  # type: ignore[no-untyped-def]
    return to_large(small, kernel, stride), (small, kernel)


def _conv_transpose_backward(stride, residuals, cotangent):  # type: ignore[no-untyped-def]
    small, kernel = residuals
    return strided(cotangent, kernel, stride), to_kernel(cotangent, small, kernel.shape[0], stride)


conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def strided(large: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The strided convolution, with as many zeros behind each axis as before it wherever that is the same.

    A last row or column that no window reaches changes nothing, but cuDNN pads both sides alike: anything else is a
    copy of the map.
    """
    low, high = padding(kernel.shape[0], stride)
    even = low if high <= low < high + stride else high
    return _convolve(large, kernel, stride, ((low, even), (low, even)))


def to_large(small: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Transpose of `strided` in the map: small [batch, h, w, small_features] -> [batch, stride*h, stride*w, ...]."""
    if not _outgrows(kernel.shape[0], small):
        return to_large_plain(small, kernel, stride)
    forms = {"cuda": to_large_product, "tpu": to_large_split, "default": to_large_plain}
    return _per_platform(forms, stride)(small, kernel)


def to_kernel(large: jax.Array, small: jax.Array, size: int, stride: int) -> jax.Array:
    """Transpose of `strided` in the kernel: [size, size, large_features, small_features]."""
    if size * size < small.shape[1] * small.shape[2]:  # XLA swaps these two where they have as many places, too
        return to_kernel_plain(large, small, stride, size)
    forms = {"cuda": partial(to_kernel_product, size=size), "default": partial(to_kernel_plain, size=size)}
    return _per_platform(forms, stride)(large, small)


def to_large_plain(small: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`to_large` as the transpose of one convolution."""
    return _transpose(lambda large: strided(large, kernel, stride), _large_like(small, kernel, stride))(small)


def to_kernel_plain(large: jax.Array, small: jax.Array, stride: int, size: int) -> jax.Array:
    """`to_kernel` as the transpose of one convolution."""
    kernel = jax.ShapeDtypeStruct((size, size, large.shape[-1], small.shape[-1]), large.dtype)
    return _transpose(lambda kernel: strided(large, kernel, stride), kernel)(small)


def to_large_product(small: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`to_large` as one matrix product and sums in float32 over what falls on the same pixel."""
    size, small_features = kernel.shape[0], kernel.shape[-1]
    by_feature = (((1,), (1,)), ((), ()))
    products = lax.dot_general(small.reshape(-1, small_features), kernel.reshape(-1, small_features), by_feature)
    neighbourhoods = products.reshape(*small.shape[:3], size, size, -1).astype(jnp.float32)
    large = _large_like(small, kernel, stride)
    gather = partial(_neighbourhoods, size=size, stride=stride)
    return _transpose(gather, jax.ShapeDtypeStruct(large.shape, jnp.float32))(neighbourhoods).astype(large.dtype)


def to_kernel_product(large: jax.Array, small: jax.Array, stride: int, size: int) -> jax.Array:
    """`to_kernel` as one matrix product."""
    places = small.size // small.shape[-1]
    rows = _neighbourhoods(large, size, stride).reshape(places, -1)
    by_place = (((0,), (0,)), ((), ()))
    products = lax.dot_general(rows, small.reshape(places, -1), by_place)
    return products.reshape(size, size, large.shape[-1], small.shape[-1])


def to_large_split(small: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`to_large` as a sum over kernels of fewer rows, none with more places than the small map."""
    size, (height, width) = kernel.shape[0], small.shape[1:3]
    low, high = padding(size, stride)
    large = _large_like(small, kernel, stride)
    count = max(1, height * width // size)

    def part(large: jax.Array, first: int, last: int) -> jax.Array:
        before = low - first
        behind = stride * (height - 1) + last - first - large.shape[1] - before
        return _convolve(large, kernel[first:last], stride, ((before, behind), (low, high)))

    ranges = [(first, min(first + count, size)) for first in range(0, size, count)]
    parts = [_transpose(partial(part, first=first, last=last), large)(small) for first, last in ranges]
    return sum(parts[1:], parts[0])


def _convolve(
    large: jax.Array, kernel: jax.Array, stride: int, zeros: tuple[tuple[int, int], tuple[int, int]]
) -> jax.Array:
    layouts = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(large, kernel, (stride, stride), zeros, dimension_numbers=layouts)


def _neighbourhoods(large: jax.Array, size: int, stride: int) -> jax.Array:
    """What the kernel sees at every place of the small map: [batch, h, w, size, size, large_features]."""
    height, width = large.shape[1] // stride, large.shape[2] // stride
    low = (size - 1) // 2
    padded = jnp.pad(large, ((0, 0), (low, size), (low, size), (0, 0)))
    places = [
        padded[:, y : y + stride * height : stride, x : x + stride * width : stride]
        for y in range(size)
        for x in range(size)
    ]
    return jnp.stack(places, 3).reshape(*places[0].shape[:3], size, size, -1)


def _outgrows(size: int, small: jax.Array) -> bool:
    """Whether XLA would swap a small map and its kernel: the kernel has more places."""
    return size * size > small.shape[1] * small.shape[2]


def _large_like(small: jax.Array, kernel: jax.Array, stride: int) -> jax.ShapeDtypeStruct:
    batch, height, width, _ = small.shape
    return jax.ShapeDtypeStruct((batch, stride * height, stride * width, kernel.shape[2]), small.dtype)


def _transpose(linear: Callable[[jax.Array], jax.Array], operand: jax.ShapeDtypeStruct) -> Callable[..., jax.Array]:
    transposed = jax.linear_transpose(linear, operand)
    return lambda cotangent: transposed(cotangent)[0]


def _per_platform(forms: Mapping[str, Callable[..., jax.Array]], stride: int) -> Callable[..., jax.Array]:
    """The form of the platform that a program is compiled for."""
    return lambda *arrays: lax.platform_dependent(
        *arrays, **{name: partial(form, stride=stride) for name, form in forms.items()}
    )
