"""Convolutions: every formulation against a NumPy loop over taps in float64, and against hand-worked pixels."""

from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.nets import conv, conv_gemm

# Largest error over largest value, float32 against float64. Bounds of `conv_gemm._POINTS`.
IM2COL_BOUND = M2_BOUND = LAX_BOUND = 2e-6
M4_BOUND = 1e-5


class Case(NamedTuple):
    method: str
    plan: str  # 'm4', 'm2' and 'im2col' are what `conv_gemm.make_plan` must choose
    size: int
    stride: int
    side: tuple[int, int]  # of the small map
    batch: int = 2
    large_features: int = 16
    small_features: int = 5


CASES = [
    Case("winograd", "m4", 5, 2, (16, 16), batch=8),
    Case("winograd", "m4", 4, 2, (16, 16), batch=8),
    Case("winograd", "m4", 3, 2, (8, 16), batch=16),
    Case("winograd", "m4", 3, 1, (16, 16), batch=8),
    Case("winograd", "m4", 5, 2, (8, 12), batch=32),
    Case("winograd", "m4", 4, 2, (12, 4), batch=64),
    # Too few tiles for m=4.
    Case("winograd", "m2", 5, 2, (4, 8)),
    Case("winograd", "m2", 4, 2, (4, 4)),
    # 14 pixels and 7, the maps of MNIST, are no multiples of 4: the last tiles reach beyond the map ...
    Case("winograd", "m4", 5, 2, (14, 14), batch=8),
    Case("winograd", "m4", 3, 1, (14, 7), batch=16),
    Case("winograd", "m4", 5, 2, (7, 7), batch=32),
    Case("winograd", "m2", 4, 2, (7, 7)),
    Case("winograd", "m2", 3, 1, (5, 14)),
    # ... except where m=2 fits and multiplies less: 49 tiles of 5^2 products against 16 of 9^2.
    Case("winograd", "m2", 3, 2, (14, 14), batch=16),
    # A map of one pixel: 5 x 6 products, and a tile of 2 x 2 would need 7 x 7.
    Case("winograd", "im2col", 5, 2, (1, 1), batch=8),
    # Four and five taps at stride 1 overlap more than the next tile.
    Case("winograd", "im2col", 4, 1, (8, 8)),
    Case("winograd", "im2col", 5, 1, (8, 8)),
    # Few features.
    Case("winograd", "im2col", 5, 2, (8, 8), large_features=3),
    Case("winograd", "im2col", 5, 2, (16, 16), batch=8, large_features=15),
    *(Case("im2col", "im2col", size, stride, (4, 6)) for size in (3, 4, 5) for stride in (1, 2)),
    *(Case("lax", "", size, stride, (4, 6)) for size in (3, 4, 5) for stride in (1, 2)),
    Case("lax", "", 5, 2, (7, 7)),
]


def shapes(case: Case) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of the large map, the kernel and the small map."""
    height, width = case.side
    return (
        (case.batch, case.stride * height, case.stride * width, case.large_features),
        (case.size, case.size, case.large_features, case.small_features),
        (case.batch, height, width, case.small_features),
    )


def arrays(case: Case) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes(case)]


def reference(large: np.ndarray, kernel: np.ndarray, small: np.ndarray, stride: int) -> tuple[np.ndarray, ...]:
    """conv(large), conv_transpose(small) and their common kernel gradient, tap by tap as the docstring defines them."""
    large, kernel, small = (array.astype(np.float64) for array in (large, kernel, small))
    size, (_, height, width, _) = len(kernel), small.shape
    pad = (size - 1) // 2
    margin = ((0, 0), (pad, size), (pad, size), (0, 0))
    padded = np.pad(large, margin)
    values, scattered, kernel_gradient = np.zeros_like(small), np.zeros_like(padded), np.zeros_like(kernel)
    for y, x in product(range(size), repeat=2):
        window = np.s_[:, y : y + stride * height : stride, x : x + stride * width : stride]
        values += padded[window] @ kernel[y, x]
        scattered[window] += small @ kernel[y, x].T
        kernel_gradient[y, x] = np.einsum("bijl,bijs->ls", padded[window], small)
    inside = np.s_[:, pad : pad + large.shape[1], pad : pad + large.shape[2]]
    return values, scattered[inside], kernel_gradient


@partial(jax.jit, static_argnums=(3, 4))
def both_directions(
    large: jax.Array, kernel: jax.Array, small: jax.Array, stride: int, method: str
) -> dict[str, jax.Array]:
    """Values and gradients of both functions; the cotangent of each is the other's input."""
    down, pull_down = jax.vjp(lambda x, k: conv.conv(x, k, stride, method), large, kernel)
    up, pull_up = jax.vjp(lambda x, k: conv.conv_transpose(x, k, stride, method), small, kernel)
    names = ("conv", "conv_image_gradient", "conv_kernel_gradient")
    result = dict(zip(names, (down, *pull_down(small)), strict=True))
    names = ("transpose", "transpose_image_gradient", "transpose_kernel_gradient")
    return result | dict(zip(names, (up, *pull_up(large)), strict=True))


def plan_of(case: Case) -> str:
    large, kernel, _ = shapes(case)
    plan = conv_gemm.make_plan(large, kernel, case.stride, (case.size - 1) // 2, case.method)
    return f"m{plan.m}" if isinstance(plan, conv_gemm.Winograd) else "im2col"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.plan}-k{case.size}s{case.stride}")
def test_values_and_gradients(case: Case) -> None:
    if case.method != "lax":
        assert plan_of(case) == case.plan
    bound = {"m4": M4_BOUND, "m2": M2_BOUND, "im2col": IM2COL_BOUND, "": LAX_BOUND}[case.plan]

    large, kernel, small = arrays(case)
    values, transposed, kernel_gradient = reference(large, kernel, small, case.stride)
    expected = {
        "conv": values,
        "conv_image_gradient": transposed,
        "conv_kernel_gradient": kernel_gradient,
        "transpose": transposed,
        "transpose_image_gradient": values,
        "transpose_kernel_gradient": kernel_gradient,
    }
    results: dict[str, Any] = both_directions(large, kernel, small, case.stride, case.method)
    for name, want in expected.items():
        got = np.asarray(results[name])
        assert got.shape == want.shape and got.dtype == np.float32, name
        assert np.abs(got - want).max() < bound * np.abs(want).max(), name

    # <conv(large), small> = <large, conv_transpose(small)>: each is exactly the other's transpose.
    here = np.vdot(np.asarray(results["conv"], np.float64), small)
    there = np.vdot(large, np.asarray(results["transpose"], np.float64))
    assert here == pytest.approx(there, abs=bound * float(np.linalg.norm(values) * np.linalg.norm(small)))


# Norm of the error over norm of the values with bfloat16 maps: the rounding of the result itself is 0.2 %.
BFLOAT16_BOUNDS = {"m4": 0.02, "m2": 0.01, "im2col": 0.005, "": 0.005}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.plan}-k{case.size}s{case.stride}")
def test_bfloat16_maps_under_float32_kernels(case: Case) -> None:
    """Maps come and go as bfloat16; gradients of kernels are float32, as the kernels."""
    large, kernel, small = arrays(case)
    large, small = (np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32) for array in (large, small))
    values, transposed, kernel_gradient = reference(large, kernel, small, case.stride)
    expected = {
        "conv": values,
        "conv_image_gradient": transposed,
        "conv_kernel_gradient": kernel_gradient,
        "transpose": transposed,
        "transpose_image_gradient": values,
        "transpose_kernel_gradient": kernel_gradient,
    }
    maps = jnp.asarray(large, jnp.bfloat16), jnp.asarray(kernel), jnp.asarray(small, jnp.bfloat16)
    results = both_directions(*maps, case.stride, case.method)
    for name, want in expected.items():
        got = results[name]
        assert got.dtype == (jnp.float32 if "kernel" in name else jnp.bfloat16), name
        error = np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)
        assert error < BFLOAT16_BOUNDS[case.plan], (name, error)


@pytest.mark.parametrize("method", conv.METHODS)
@pytest.mark.parametrize("kernel_dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_have_the_dtypes_of_what_they_are_of(method: str, kernel_dtype: Any) -> None:
    """On every platform: the branches of 'auto' must agree on them, or programs for GPUs and TPUs cannot be lowered."""
    large, kernel, small = (
        jnp.zeros((2, 16, 16, 16), jnp.bfloat16),
        jnp.zeros((5, 5, 16, 8), kernel_dtype),
        (2, 8, 8, 8),
    )

    def gradients(large: jax.Array, kernel: jax.Array) -> Any:
        return jax.vjp(partial(conv.conv, stride=2, method=method), large, kernel)[1](jnp.zeros(small, jnp.bfloat16))

    for platform in ("cpu", "cuda", "tpu"):
        exported = jax.export.export(jax.jit(gradients), platforms=[platform])(large, kernel)
        assert [aval.dtype for aval in exported.out_avals] == [jnp.bfloat16, kernel_dtype]


def test_points_for_bfloat16_are_better_than_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a tile loses when its transformed values are rounded, here layers of 5x5 and 4x4."""

    def error(case: Case) -> float:
        large, kernel, small = arrays(case)
        values, _, _ = reference(large, kernel, small, case.stride)
        got = conv.conv(jnp.asarray(large, jnp.bfloat16), jnp.asarray(kernel), case.stride, "winograd")
        return float(np.linalg.norm(np.asarray(got, np.float64) - values) / np.linalg.norm(values))

    layers = [case for case in CASES if case.plan == "m4" and case.stride == 2 and case.size >= 4]
    assert len(layers) == 6
    better = [error(case) for case in layers]
    monkeypatch.setattr(conv_gemm, "_COARSE_POINTS", conv_gemm._POINTS)
    conv_gemm.toom_cook.cache_clear()
    worse = [error(case) for case in layers]
    conv_gemm.toom_cook.cache_clear()
    assert all(a < 0.75 * b for a, b in zip(better, worse, strict=True)), (better, worse)


def test_rows_of_the_products_decide_between_m_4_and_m_2() -> None:
    """An image of 16x16 has 16 tiles of 4x4. One image less than enough is too few."""
    enough = conv_gemm._MIN_ROWS // 16
    assert plan_of(Case("winograd", "", 5, 2, (16, 16), batch=enough)) == "m4"
    assert plan_of(Case("winograd", "", 5, 2, (16, 16), batch=enough - 1)) == "m2"


# The kernels below count their taps: row 0 is 0, 1, ..., row 1 goes on.
@pytest.mark.parametrize(
    ("size", "stride", "pixel", "expected"),
    [
        # small[i] = kernel[p - 2i + 2]: pixel 0 meets tap 2 of output 0 and tap 0 of output 1.
        (5, 2, (0, 0), [[12, 10], [2, 0]]),
        # Pixel 3 is out of reach of output 0; it meets tap 3 of output 1. XLA's 'SAME' would say tap 2.
        (5, 2, (3, 3), [[0, 0], [0, 18]]),
        (5, 2, (1, 2), [[19, 17], [9, 7]]),
        # small[i] = kernel[p - 2i + 1]
        (4, 2, (0, 0), [[5, 0], [0, 0]]),
        (4, 2, (1, 2), [[11, 9], [3, 1]]),
        (3, 2, (0, 0), [[4, 0], [0, 0]]),
        (3, 2, (1, 2), [[0, 7], [0, 1]]),
        # small[i] = kernel[p - i + 1]
        (3, 1, (0, 0), [[4, 3], [1, 0]]),
        (3, 1, (1, 1), [[8, 7], [5, 4]]),
        (4, 1, (0, 1), [[6, 5], [2, 1]]),
    ],
)
@pytest.mark.parametrize("method", ["lax", "im2col"])
def test_one_pixel(method: str, size: int, stride: int, pixel: tuple[int, int], expected: list[list[int]]) -> None:
    image = np.zeros((1, 2 * stride, 2 * stride, 1), np.float32)
    image[0, pixel[0], pixel[1], 0] = 1
    kernel = np.arange(size * size, dtype=np.float32).reshape(size, size, 1, 1)
    result = conv.conv(jnp.asarray(image), jnp.asarray(kernel), stride, method)
    np.testing.assert_array_equal(result[0, :, :, 0], expected)


@pytest.mark.parametrize("method", ["lax", "im2col"])
def test_one_pixel_transposed(method: str) -> None:
    """large[o] = kernel[o - 2i + 2]: the centre tap of pixel (0, 0) lands on (0, 0), that of pixel (1, 1) on (2, 2)."""
    kernel = jnp.arange(25.0).reshape(5, 5, 1, 1)
    image = np.zeros((1, 2, 2, 1), np.float32)
    image[0, 0, 0, 0] = 1
    result = conv.conv_transpose(jnp.asarray(image), kernel, 2, method)
    np.testing.assert_array_equal(result[0, :, :, 0], [[12, 13, 14, 0], [17, 18, 19, 0], [22, 23, 24, 0], [0, 0, 0, 0]])
    result = conv.conv_transpose(jnp.asarray(image[:, ::-1, ::-1]), kernel, 2, method)
    np.testing.assert_array_equal(result[0, :, :, 0], [[0, 1, 2, 3], [5, 6, 7, 8], [10, 11, 12, 13], [15, 16, 17, 18]])


@pytest.mark.parametrize(("m", "r"), [(1, 2), (2, 2), (4, 2), (2, 3), (4, 3), (2, 4), (2, 5), (3, 3)])
@pytest.mark.parametrize("coarse", [False, True])
def test_toom_cook_correlates(m: int, r: int, coarse: bool) -> None:
    a, b_t, g = conv_gemm.toom_cook(m, r, coarse)
    assert (a.shape, b_t.shape, g.shape) == ((m + r - 1, m), (m + r - 1, m + r - 1), (m + r - 1, r))
    generator = np.random.default_rng(0)
    for _ in range(20):
        x, k = generator.integers(-9, 10, m + r - 1), generator.integers(-9, 10, r)
        np.testing.assert_allclose(a.T @ ((g @ k) * (b_t @ x)), np.correlate(x, k, "valid"), rtol=0, atol=1e-9)


def test_auto_depends_on_the_platform() -> None:
    """A program for the CPU has matrix products and no convolution; for CUDA and TPU it is the other way round."""
    arguments = jnp.zeros((8, 32, 32, 16)), jnp.zeros((5, 5, 16, 8)), 2
    function = jax.jit(conv.conv, static_argnums=2)
    for platform, products in (("cpu", True), ("cuda", False), ("tpu", False)):
        program = jax.export.export(function, platforms=[platform])(*arguments).mlir_module()
        assert ("stablehlo.dot_general" in program) == products, platform
        assert ("stablehlo.convolution" in program) == (not products), platform


@pytest.mark.parametrize("function", [conv.conv, conv.conv_transpose])
def test_unknown_method(function: Any) -> None:
    with pytest.raises(ValueError, match=r"conv must be one of .*'lax'.*, not 'fft'"):
        function(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)), 2, "fft")


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"kernel \(5, 5, 4, 2\) does not fit a map with 3 features"):
        conv_gemm.make_plan((1, 8, 8, 3), (5, 5, 4, 2), 2, 2, "winograd")
    with pytest.raises(ValueError, match="sides 7 x 8 are not multiples of stride 2"):
        conv_gemm.make_plan((1, 7, 8, 3), (5, 5, 3, 2), 2, 2, "winograd")
    with pytest.raises(ValueError, match="does not fit a map with 3 features"):
        conv.conv(jnp.zeros((1, 8, 8, 3)), jnp.zeros((5, 5, 4, 2)), 2, "im2col")
