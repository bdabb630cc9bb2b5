"""Sheets of images."""

import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError


def make_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Tiles uint8 images [n, height, width, channels] row by row into one, without borders; empty cells are white."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * height, columns * width, channels)


def grid(images: np.ndarray, columns: int = 8) -> Image.Image:
    """Images uint8 [count, height, width, 1 or 3] row by row in one picture, which notebooks show and `.save` keeps.

    Raises:
      UserError: images have another dtype or shape, or there are none.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or images.shape[3] not in (1, 3):
        shape = "uint8 [count, height, width, 1 or 3]"
        raise UserError(f"images are {images.dtype} {list(images.shape)}; they must be {shape}.")
    return Image.fromarray(as_pillow(make_grid(images, columns)))


def number(images: np.ndarray, numbers: Iterable[int] | None = None) -> np.ndarray:
    """The images with their numbers written in the corner; small ones are enlarged to 56 pixels a side at least.

    `numbers`: one per image; None: 0, 1, 2, ...
    """
    scale = -(-56 // min(images.shape[1:3]))
    numbered = images.repeat(scale, 1).repeat(scale, 2)
    for image, written in zip(numbered, itertools.count() if numbers is None else numbers):  # noqa: B905  # no end
        picture = Image.fromarray(as_pillow(image))
        draw = ImageDraw.Draw(picture)
        box = draw.textbbox((2, 1), str(written))
        draw.rectangle((0, 0, box[2] + 2, box[3] + 2), fill="white")
        draw.text((2, 1), str(written), fill="black")
        image[:] = np.asarray(picture).reshape(image.shape)
    return numbered


def stretched(image: np.ndarray, aspect: float) -> np.ndarray:
    """The image uint8 [height, width, channels] at another width over height; one side grows, none shrinks."""
    height, width, channels = image.shape
    size = max(width, round(height * aspect)), max(height, round(width / aspect))
    resized = Image.fromarray(as_pillow(image)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized).reshape(*size[::-1], channels)


def caption(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Images uint8 [count, height, width, channels], each under a white strip with its text.

    All are widened, in white, to what the longest text needs.
    """
    count, height, width, channels = images.shape
    boxes = [ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((2, 2), text) for text in texts]
    strip = int(max(box[3] for box in boxes)) + 4
    captioned = np.full(
        (count, strip + height, max(width, int(max(box[2] for box in boxes)) + 3), channels), 255, np.uint8
    )
    for frame, image, text in zip(captioned, images, texts, strict=True):
        frame[strip:, :width] = image
        line = Image.new("L", (frame.shape[1], strip), "white")
        ImageDraw.Draw(line).text((2, 2), text, fill="black")
        frame[:strip] = np.asarray(line)[..., None]
    return captioned


def row(*blocks: np.ndarray, gap: int = 8) -> np.ndarray:
    """Sheets uint8 [height, width, channels] side by side, at the top, `gap` white pixels between them."""
    height = max(block.shape[0] for block in blocks)
    spaced = []
    for block in blocks:
        canvas = np.full((height, block.shape[1] + gap, block.shape[2]), 255, np.uint8)
        canvas[: block.shape[0], : block.shape[1]] = block
        spaced.append(canvas)
    return np.concatenate(spaced, 1)[:, :-gap]


def column(*blocks: np.ndarray, gap: int = 8) -> np.ndarray:
    """The same from top to bottom."""
    return row(*(block.swapaxes(0, 1) for block in blocks), gap=gap).swapaxes(0, 1)


def png(image: np.ndarray) -> bytes:
    """A uint8 image [height, width, 1 or 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(as_pillow(image)).save(buffer, "PNG")
    return buffer.getvalue()


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes one uint8 image [height, width, 1 or 3] atomically."""
    files.write_atomically(path, png(image))


def as_pillow(image: np.ndarray) -> np.ndarray:
    """[height, width, 1] becomes [height, width], which is how Pillow takes grey images."""
    return image[..., 0] if image.shape[-1] == 1 else image
