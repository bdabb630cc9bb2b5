"""Near-duplicates of an image set, found by semantic hashing [paper section 4.1.1]."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dcgan_jax.datasets import pack, semantic_hash
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError


def open_thumbnails(data: ConfigDict, *, progress: bool = True) -> ImageDataset:
    """The pack of the same images at 32 pixels, largest centred squares, duplicates and all. Raises as `pack` does."""
    return pack.open_or_build(resized(data, semantic_hash.SIDE), progress=progress)


def find_duplicates(data: ConfigDict, *, progress: bool = True) -> dict[str, str]:
    """The originals, by key, of the images of `config.data` to leave out: earlier ones within data.dedup_radius.

    Raises:
      UserError: as `pack.open_or_build`, or images share a key, or the cache cannot be written.
    """
    thumbnails = open_thumbnails(data, progress=progress)
    keys = thumbnails.keys
    if len(set(keys)) != len(keys):
        raise UserError(f"data.dedup: images of {data.source} share names, so single ones cannot be left out.")
    first = semantic_hash.originals(hash_thumbnails(thumbnails, semantic_hash.Settings()), data.dedup_radius)
    return {keys[i]: keys[first[i]] for i in np.flatnonzero(first != np.arange(len(first)))}


def fingerprint(data: ConfigDict) -> list[Any]:
    """JSON values that change whenever other images would be left out.

    Raises:
      UserError: data.dedup_radius is out of range.
    """
    if not 0 <= data.dedup_radius <= semantic_hash.MOST_RADIUS:
        raise UserError(f"data.dedup_radius is {data.dedup_radius}; it must be 0 to {semantic_hash.MOST_RADIUS}.")
    return [semantic_hash.VERSION, semantic_hash.Settings(), data.dedup_radius]


def hash_thumbnails(thumbnails: ImageDataset, settings: semantic_hash.Settings) -> np.ndarray:
    try:
        return semantic_hash.hash_images(thumbnails.images, hash_folder(thumbnails), settings)
    except OSError as error:
        raise UserError(
            f"Hashes cannot be kept in {thumbnails.path} ({error.strerror or error}): make room, or set the cache "
            "folder to another disk."
        ) from error


def hash_folder(thumbnails: ImageDataset) -> Path:
    return thumbnails.path / "hashes"


def resized(data: ConfigDict, size: int) -> ConfigDict:
    small = data.copy_and_resolve_references()
    small.update(dedup=False, duplicates="", image_size=size, image_width=0, channels=3, allow_upsampling=True)
    small.update(fit="crop", crop_size=0)
    return small
