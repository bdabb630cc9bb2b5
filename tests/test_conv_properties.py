"""Convolutions on shapes drawn at random: every method against the NumPy loop over taps of `test_conv`."""

from collections import Counter

import numpy as np
import pytest

from dcgan_jax.nets import conv_gemm
from tests.test_conv import LAX_BOUND, M4_BOUND, Case, both_directions, plan_of, reference, shapes

SEEDS = range(24)


def draw(seed: int, method: str) -> Case:
    """A layer whose height and width differ. Multiples of 2 and 4 are drawn often: Winograd cuts maps into such tiles.

    For every third seed there are the tiles of 4 x 4 that m=4 asks for, for the others 1 to 9 images.
    """
    generator = np.random.default_rng(seed)
    unit = int(generator.choice([1, 2, 4])) if seed % 3 else 4
    height, width = (unit * int(side) for side in 1 + generator.permutation(12 // unit)[:2])
    batch = int(generator.integers(1, 10)) if seed % 3 else -(-conv_gemm._MIN_ROWS * 16 // (height * width))
    size, stride = int(generator.integers(3, 6)), int(generator.integers(1, 3))
    # Maps with few features go to im2col.
    large_features = int(generator.integers(*((16, 25) if seed % 4 else (1, 16))))
    small_features = int(generator.integers(1, 25))
    return Case(method, "", size, stride, (height, width), batch, large_features, small_features)


def arrays(seed: int, case: Case) -> list[np.ndarray]:
    generator = np.random.default_rng([seed, 1])
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes(case)]


def test_draws_reach_every_formulation() -> None:
    plans = Counter(plan_of(draw(seed, "winograd")) for seed in SEEDS)
    assert set(plans) == {"m4", "m2", "im2col"}
    assert {plan_of(draw(seed, "im2col")) for seed in SEEDS} == {"im2col"}
    layers = {(case.size, case.stride) for case in (draw(seed, "lax") for seed in SEEDS)}
    assert layers == {(size, stride) for size in (3, 4, 5) for stride in (1, 2)}


@pytest.mark.parametrize("method", ["winograd", "im2col", "lax"])
@pytest.mark.parametrize("seed", SEEDS)
def test_values_gradients_and_adjoint(seed: int, method: str) -> None:
    case = draw(seed, method)
    bound = M4_BOUND if method == "winograd" and plan_of(case) == "m4" else LAX_BOUND
    large, kernel, small = arrays(seed, case)
    down, up, kernel_gradient = reference(large, kernel, small, case.stride)
    expected = {
        "conv": down,
        "conv_image_gradient": up,
        "conv_kernel_gradient": kernel_gradient,
        "transpose": up,
        "transpose_image_gradient": down,
        "transpose_kernel_gradient": kernel_gradient,
    }
    results = both_directions(large, kernel, small, case.stride, method)
    for name, want in expected.items():
        got = np.asarray(results[name], np.float64)
        assert got.shape == want.shape, name
        assert np.abs(got - want).max() <= bound * np.abs(want).max(), name

    # <conv(large), small> = <large, conv_transpose(small)>, up to the rounding of either side (Cauchy-Schwarz).
    here = np.vdot(np.asarray(results["conv"], np.float64), small)
    there = np.vdot(large, np.asarray(results["transpose"], np.float64))
    lengths = [float(np.linalg.norm(array)) for array in (down, small, large, up)]
    assert abs(here - there) <= bound * (lengths[0] * lengths[1] + lengths[2] * lengths[3])
