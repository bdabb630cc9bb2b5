"""Resizing rules by hand, against Pillow, and where they differ."""

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import resize
from dcgan_jax.metrics.resize import to_inception


def rows(*values: int) -> np.ndarray:
    """A grey image [1, rows, 1, 1] of one column."""
    return np.array(values, np.uint8)[None, :, None, None]


def test_pixels_at_their_centres() -> None:
    """Of 2 rows, output row i lies at (i + 1/2) * 2 / 299 - 1/2, but at least at 0 and at most at 1."""
    found = np.asarray(to_inception(rows(0, 255), "pytorch-fid"))
    assert found.shape == (1, 299, 299, 3)
    expected = 2 * np.clip((np.arange(299) + 0.5) * 2 / 299 - 0.5, 0, 1) - 1
    np.testing.assert_allclose(found, np.broadcast_to(expected[None, :, None, None], found.shape), atol=1e-6)
    assert expected[[74, 149, 224]] == pytest.approx([-1 + 2 * (149 / 299 - 0.5 + 1 / 598), 0, 1], abs=0.01)


def test_pixels_at_their_corners() -> None:
    """Of 2 rows, output row i lies at 2 i / 299; from row 150 on there is nothing below."""
    found = np.asarray(to_inception(rows(0, 255), "torch-fidelity"))[0, :, 17, 1]
    levels = 255 * np.minimum(np.arange(299) * 2 / 299, 1)
    np.testing.assert_allclose(found, (levels - 128) / 128, atol=1e-6)


def test_both_axes_and_channels() -> None:
    """At a size that needs no resizing, images only change their range; twice the size, every other pixel is left."""
    image = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3)).astype(np.uint8)
    np.testing.assert_allclose(to_inception(image, "pytorch-fid"), image / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(to_inception(image, "none"), image / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(to_inception(image, "torch-fidelity"), (image - 128.0) / 128, atol=1e-6)
    np.testing.assert_allclose(to_inception(image, "clean"), (image - 128.0) / 128, atol=1e-6)
    double = np.random.default_rng(1).integers(0, 256, (1, 598, 598, 3)).astype(np.uint8)
    expected = (double[:, ::2, ::2] - 128.0) / 128
    np.testing.assert_allclose(to_inception(double, "torch-fidelity"), expected, atol=1e-6)
    means = double.reshape(1, 299, 2, 299, 2, 3).mean((2, 4))  # centres lie between two pixels
    np.testing.assert_allclose(to_inception(double, "pytorch-fid"), means / 127.5 - 1, atol=1e-5)


def test_bilinear_against_pillow() -> None:
    """Pillow does not antialias when it enlarges, so there the rules agree but for its rounding."""
    image = np.random.default_rng(2).integers(0, 256, (1, 40, 64, 3)).astype(np.uint8)
    found = (np.asarray(to_inception(image, "pytorch-fid"))[0] + 1) * 127.5
    pillow = Image.fromarray(image[0]).resize((299, 299), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found, np.asarray(pillow, np.float32), atol=1.01)


@pytest.mark.parametrize("side", [32, 400])
def test_clean_against_pillow(side: int) -> None:
    """Pillow's resizing of uint8 images rounds, after each of two passes, what ours leaves as it is."""
    image = np.random.default_rng(3).integers(80, 176, (1, side, side, 3)).astype(np.uint8)
    found = np.asarray(to_inception(image, "clean"))[0] * 128 + 128
    pillow = Image.fromarray(image[0]).resize((299, 299), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found, np.asarray(pillow, np.float32), atol=1.2)
    assert np.abs(found - np.round(found)).max() > 0.4


def test_clean_clips() -> None:
    """Bicubic interpolation overshoots at an edge."""
    found = np.asarray(to_inception(rows(0, 0, 0, 255, 255, 255), "clean"))
    assert (found.min(), found.max()) == (-1, 127 / 128)


def test_clean_filters_before_it_shrinks() -> None:
    """A checkerboard of single pixels becomes grey; bilinear rules keep the pattern."""
    board = (255 * (np.indices((897, 897)).sum(0) % 2)).astype(np.uint8)[None, :, :, None]
    spread = {rule: float(np.asarray(to_inception(board, rule))[:, 5:-5, 5:-5].std()) for rule in resize.RULES[:3]}
    assert spread["clean"] < 0.1
    assert spread["pytorch-fid"] > 0.9 and spread["torch-fidelity"] > 0.9


def test_no_resizing() -> None:
    image = np.full((1, 80, 90, 1), 51, np.uint8)
    found = to_inception(image, "none")
    assert found.shape == (1, 80, 90, 3)
    np.testing.assert_allclose(found, 2 * 0.2 - 1, rtol=1e-6)


def test_bad_input() -> None:
    images = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(UserError, match="no resizing rule 'bicubic': there are pytorch-fid, torch-fidelity, clean"):
        to_inception(images, "bicubic")
    with pytest.raises(UserError, match=r"images are float64 \[1, 64, 64, 3\]: uint8"):
        to_inception(images / 255, "clean")
    with pytest.raises(UserError, match=r"uint8 \[1, 64, 64, 4\]"):
        to_inception(np.zeros((1, 64, 64, 4), np.uint8), "clean")
    with pytest.raises(UserError, match="64x64 are too small for the network, which needs 75x75"):
        to_inception(images, "none")
