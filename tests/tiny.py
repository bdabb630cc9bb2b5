"""Small networks and data for the tests: they compile in seconds."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import default
from dcgan_jax.datasets.pack import ImageDataset


def config(**changes: object) -> ConfigDict:
    """A two-stage 8-pixel network. `changes`: fields with dots as double underscores, data__channels=1."""
    config = default.get_config()
    config.update(num_steps=4, batch_size=8, log_every=1, sample_every=0, checkpoint_every=0, conv="lax")
    config.data.update(image_size=8)
    config.model.update(z_dim=5, kernel_size=3)
    config.model.generator.stages = ((6, 2), (4, 2))
    config.model.discriminator.stages = ((4, 2), (6, 2))
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config.lock()


def images(count: int = 32, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 [count, size, size, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def dataset(count: int = 32, size: int = 8, channels: int = 3, classes: int = 0) -> ImageDataset:
    """An in-memory data set of random images."""
    labels = np.arange(count, dtype=np.int32) % classes if classes else None
    return ImageDataset(images(count, size, channels), labels, {}, None, None, {}, Path("memory"))
