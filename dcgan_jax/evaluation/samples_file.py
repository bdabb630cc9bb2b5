"""Samples in files: a folder of images of one size, or a .npz file with one array of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from dcgan_jax.datasets import decode, image_folder
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm

_SHEET = "sheet.png"  # which `python -m dcgan_jax.sample` leaves beside its images


def read(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [count, height, width, channels]; grey becomes RGB, and the other way round.

    Args:
      path: a folder, whose images are read at any depth but for sheet.png; or a .npz file, with uint8
        [count, height, width, channels] as 'images', as 'arr_0' or as its only array.
      shape: (height, width, channels); nothing is resized.

    Raises:
      UserError: there is nothing to read, or images of other sizes.
    """
    images = _read_folder(path, shape) if path.is_dir() else _read_npz(path)
    if images.shape[1:3] != shape[:2]:
        height, width = images.shape[1:3]
        raise UserError(
            f"the images in {path} are {width} x {height}, not {shape[1]} x {shape[0]} like the data: give a config"
            " with their --config.data.image_size."
        )
    if images.shape[3] != shape[2]:
        images = images.repeat(3, 3) if shape[2] == 3 else _to_grey(images)
    return images


def _to_grey(images: np.ndarray) -> np.ndarray:
    """RGB uint8 [count, height, width, 3] -> ITU-R 601 luma [count, height, width, 1], as datasets/decode.py does."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L"))[..., None] for image in images])


def _read_folder(folder: Path, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    source = image_folder.open_folder(folder)
    references = [reference for reference in source.list_items().references if Path(reference[0]).name != _SHEET]
    target = decode.Target(height, channels, allow_upsampling=True, image_width=width)
    images = np.empty((len(references), *shape), np.uint8)
    for i, example in enumerate(tqdm(source.read(references), total=len(references), unit="image", disable=None)):
        assert isinstance(example.image, Path)
        try:
            with Image.open(example.image, formats=decode.FORMATS) as picture:
                found = picture.size
            if found != (width, height):
                raise decode.BadImage(f"is {found[0]} x {found[1]}, not {width} x {height} like the data")
            images[i] = decode.to_pixels(example.image, target)
        except (decode.BadImage, OSError) as error:
            raise UserError(f"{example.image} {error}.") from error
    return images


def _read_npz(path: Path) -> np.ndarray:
    try:
        with files.reading(path), np.load(path, allow_pickle=False) as content:  # other arrays may be large
            names = [name for name in ("images", "arr_0") if name in content.files] or content.files
            if len(names) != 1 and "images" not in names:
                raise UserError(f"{path} holds {len(names)} arrays, none of them 'images' or 'arr_0'.")
            images = content[names[0]]
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
                shape = list(images.shape)
                raise UserError(
                    f"{path} holds {images.dtype} of shape {shape}, not uint8 [count, height, width, 1 or 3]."
                )
    except files.Damaged as error:
        raise UserError(f"{path} is neither a folder nor a .npz file that can be read ({error.reason}).") from error
    return images
