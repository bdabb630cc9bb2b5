"""Sheets of images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from dcgan_jax import run_folder


def make_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Tiles uint8 images [n, height, width, channels] row by row into one, without borders; empty cells are white."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * height, columns * width, channels)


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes one uint8 image [height, width, 1 or 3] atomically."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    run_folder.write_atomically(path, buffer.getvalue())
