"""Sheets of images: where each image lands, and what is on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.reports import image_grid


def test_grid_goes_row_by_row() -> None:
    """Five 2x3 images, numbered, in two columns: the sixth cell is white."""
    images = np.stack([np.full((2, 3, 1), i, np.uint8) for i in range(5)])
    images[0] = np.arange(6).reshape(2, 3, 1)
    grid = image_grid.make_grid(images, columns=2)
    assert grid.dtype == np.uint8
    expected = [
        [0, 1, 2, 1, 1, 1],
        [3, 4, 5, 1, 1, 1],
        [2, 2, 2, 3, 3, 3],
        [2, 2, 2, 3, 3, 3],
        [4, 4, 4, 255, 255, 255],
        [4, 4, 4, 255, 255, 255],
    ]
    np.testing.assert_array_equal(grid[..., 0], expected)


def test_stretched_one_side_grows() -> None:
    """A column of black, then white: the edge stays in the middle."""
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 255
    wide = image_grid.stretched(image, 2.0)
    assert wide.shape == (4, 8, 3) and (wide[:, :3] < 30).all() and (wide[:, 5:] > 225).all()
    assert image_grid.stretched(image[..., :1], 0.5).shape == (8, 4, 1)
    np.testing.assert_array_equal(image_grid.stretched(image[:2], 2.0), image[:2])
    assert image_grid.stretched(image[:2], 1.0).shape == (4, 4, 3)
    assert image_grid.stretched(image, 1.3).shape == (4, 5, 3)  # 5.2


def test_grid_keeps_colours_apart() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), np.uint8)
    grid = image_grid.make_grid(images, columns=2)
    assert grid.shape == (4, 4, 3)
    np.testing.assert_array_equal(grid[2:, :2], images[2])


def test_grid_wider_than_its_images() -> None:
    grid = image_grid.make_grid(np.zeros((1, 2, 2, 3), np.uint8), columns=3)
    assert grid.shape == (2, 6, 3)
    assert (grid[:, :2] == 0).all() and (grid[:, 2:] == 255).all()


def test_numbers_are_written_on_enlarged_images() -> None:
    """Images of 20 pixels become 60; what is written on the first is not on the second; the rest is as it was."""
    images = np.zeros((2, 20, 20, 3), np.uint8)
    images[:, 10:] = 200
    numbered, others = image_grid.number(images), image_grid.number(images, [100, 1])
    assert numbered.shape == (2, 60, 60, 3)
    np.testing.assert_array_equal(numbered[1], others[1])
    assert not np.array_equal(numbered[0], numbered[1]) and not np.array_equal(numbered[0], others[0])
    np.testing.assert_array_equal(numbered[0, 30:], np.full((30, 60, 3), 200))


def test_captions_stand_above_their_images() -> None:
    """As wide as the longest text: black on white; below it the images, at the left."""
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    captioned = image_grid.caption(images, ["", "step 1,000"])
    strip = captioned.shape[1] - 8
    assert captioned.shape[2] > 40 and 10 < strip < 30
    np.testing.assert_array_equal(captioned[:, strip:, :8], images)
    assert (captioned[:, strip:, 8:] == 255).all()
    assert (captioned[0, :strip] == 255).all()
    written = captioned[1, :strip, :, 0]
    assert written.min() < 50 and (written[[0, -1]] == 255).all() and (written[:, [0, -1]] == 255).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_png_holds_the_pixels(channels: int, mode: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    path = tmp_path / "samples" / "sheet.png"
    for pixels in (np.zeros_like(image), image):  # the second replaces the first
        image_grid.save_png(path, pixels)
    with Image.open(path) as saved:
        assert (saved.format, saved.mode, saved.size) == ("PNG", mode, (7, 5))
        np.testing.assert_array_equal(np.asarray(saved).reshape(image.shape), image)
    assert list(path.parent.iterdir()) == [path]
