"""XLA's own convolutions: the forms for GPUs and TPUs against the plain transposes, and where each is used."""

from collections.abc import Callable
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.nets import conv, conv_lax

LAYERS = [
    (size, stride, side)
    for size, stride, side in product((2, 3, 4, 5, 7), (1, 2), ((1, 1), (2, 2), (4, 4), (3, 5)))
    if size >= stride
]
layers = pytest.mark.parametrize(("size", "stride", "side"), LAYERS)


def arrays(size: int, stride: int, side: tuple[int, int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Large map, kernel, small map with 3 and 6 features."""
    generator = np.random.default_rng(0)
    height, width = side
    shapes = (2, stride * height, stride * width, 3), (size, size, 3, 6), (2, height, width, 6)
    return tuple(jnp.asarray(generator.standard_normal(shape), jnp.float32) for shape in shapes)  # type: ignore[return-value]


@layers
@pytest.mark.parametrize("form", [conv_lax.to_large_product, conv_lax.to_large_split])
def test_forms_of_the_transposed_convolution(
    form: Callable[[jax.Array, jax.Array, int], jax.Array], size: int, stride: int, side: tuple[int, int]
) -> None:
    _, kernel, small = arrays(size, stride, side)
    want = conv_lax.to_large_plain(small, kernel, stride)
    np.testing.assert_allclose(form(small, kernel, stride), want, rtol=0, atol=1e-5)


@layers
def test_forms_of_the_kernel_gradient(size: int, stride: int, side: tuple[int, int]) -> None:
    large, _, small = arrays(size, stride, side)
    want = conv_lax.to_kernel_plain(large, small, stride, size)
    np.testing.assert_allclose(conv_lax.to_kernel_product(large, small, stride, size), want, rtol=0, atol=1e-5)


@layers
def test_even_padding_gives_the_same_numbers(size: int, stride: int, side: tuple[int, int]) -> None:
    """The definition has (k-1)//2 zeros before and k-stride-(k-1)//2 behind."""
    large, kernel, small = arrays(size, stride, side)
    low, high = (size - 1) // 2, size - stride - (size - 1) // 2
    layouts = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(
        large, kernel, (stride, stride), ((low, high), (low, high)), dimension_numbers=layouts
    )
    got = conv_lax.strided(large, kernel, stride)
    assert got.shape == small.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_odd_kernels_of_stride_2_are_padded_evenly() -> None:
    """cuDNN knows no other padding. 5x5 by definition has two zeros before and one behind."""
    large, kernel, _ = arrays(5, 2, (4, 4))
    text = jax.jit(partial(conv_lax.strided, stride=2)).lower(large, kernel).as_text()
    assert "pad = [[2, 2], [2, 2]]" in text


@pytest.mark.parametrize(("side", "own_form"), [(4, True), (5, False), (8, False)])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_only_kernels_with_more_places_than_the_small_map_have_a_form_of_their_own(
    platform: str, side: int, own_form: bool
) -> None:
    """5x5 has 25 places: a map of 4x4 has 16, one of 5x5 has as many and is left alone."""
    _, kernel, small = arrays(5, 2, (side, side))
    function = jax.jit(partial(conv.conv_transpose, stride=2))
    text = jax.export.export(function, platforms=[platform])(small, kernel).mlir_module()
    convolutions, products = text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")
    in_parts = {"cuda": (0, 1), "tpu": (2, 0)}  # TPUs: three rows of the kernel and two
    assert (convolutions, products) == (in_parts[platform] if own_form else (1, 0))


def test_bfloat16_products_are_summed_in_float32() -> None:
    """25 terms fall on one pixel at most; the sum is rounded once, so it is as good as the plain transpose."""
    _, kernel, small = arrays(5, 1, (4, 4))
    exact = conv_lax.to_large_plain(small, kernel, 1)
    rounded = conv_lax.to_large_product(small.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), 1)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, rtol=0, atol=0.02 * float(jnp.abs(exact).max()))
