"""Small networks and data for the tests: they compile in seconds."""

import hashlib
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from dcgan_jax import train_step
from dcgan_jax.config import from_json
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.mesh import AXIS, replicate, shard_batches
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.train_state import GANState, build_gan, create_state


def config(changes: Mapping[str, Any] = {}) -> ConfigDict:
    """A two-stage 8-pixel network, locked. `changes`: values by dotted name, {"data.channels": 1}."""
    config = default.get_config()
    config.update(num_steps=4, batch_size=8, log_every=1, sample_every=0, checkpoint_every=0, conv="lax")
    config.data.update(image_size=8)
    config.eval.metrics = ("nnd",)
    config.model.update(z_dim=5, kernel_size=3)
    config.model.generator.stages = ((6, 2), (4, 2))
    config.model.discriminator.stages = ((4, 2), (6, 2))
    config.update_from_flattened_dict(changes)
    return config.lock()


def write_config(folder: Path, changes: Mapping[str, Any]) -> Path:
    """A config file with `config(changes)` in it, for commands."""
    path = folder / "config.py"
    path.write_text(f"from tests import tiny\n\n\ndef get_config():\n    return tiny.config({changes!r})\n")
    return path


def images(count: int = 32, size: int = 8, channels: int = 3, seed: int = 0, width: int = 0) -> np.ndarray:
    """uint8 [count, size, width or size, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, width or size, channels), np.uint8)


def dataset(count: int = 32, size: int = 8, channels: int = 3, classes: int = 0, seed: int = 0) -> ImageDataset:
    """An in-memory data set of random images."""
    labels = np.arange(count, dtype=np.int32) % classes if classes else None
    pixels = images(count, size, channels, seed)
    meta = {"source": "memory", "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
    return ImageDataset(pixels, labels, {}, None, meta, Path("memory"))


def image_folder(path: Path, count: int = 32, size: int = 8, classes: int = 0, seed: int = 0, width: int = 0) -> str:
    """Writes random PNG files, in a folder per class if there are any; returns the source string."""
    for i, pixels in enumerate(images(count, size, seed=seed, width=width)):
        folder = path / f"class{i % classes}" if classes else path
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return f"folder:{path}"


def mesh(devices: int = 1) -> jax.sharding.Mesh:
    axis_types = (AxisType.Auto,)
    return jax.make_mesh((devices,), (AXIS,), axis_types=axis_types, devices=jax.devices()[:devices])


def abstract_state(config: ConfigDict) -> GANState:
    """Shapes and dtypes of the state, without computing anything."""
    return jax.eval_shape(partial(create_state, build_gan(config)))


def fresh_state(config: ConfigDict) -> GANState:
    return jax.jit(partial(create_state, build_gan(config)))()


def run_steps(config: ConfigDict, devices: int = 1) -> tuple[list[GANState], list[dict[str, float]]]:
    """Two steps on random images: the states before, between and after, as NumPy arrays, and the metrics of both."""
    return _run_steps(config.to_json(), devices)


@cache
def _run_steps(config_json: str, devices: int) -> tuple[list[GANState], list[dict[str, float]]]:
    config = from_json(config_json)
    devices_mesh = mesh(devices)
    state = replicate(devices_mesh, fresh_state(config))
    step = train_step.make_mapped_step(build_gan(config), devices_mesh, config.mapper)
    states, history = [jax.tree.map(np.array, state)], []
    for i in range(2):
        batch = shard_batch(config, devices_mesh, seed=i)
        state, metrics = step(state, {}, batch)
        states.append(jax.tree.map(np.array, state))
        history.append({name: float(value) for name, value in metrics.items() if value.ndim == 0})
    return states, history


def shard_batch(config: ConfigDict, devices_mesh: jax.sharding.Mesh, seed: int) -> dict[str, Any]:
    """One batch of random images as the mapped step wants it."""
    height, width, channels = image_shape(config.data)
    batch = {"image": images(config.batch_size, height, channels, seed, width)}
    if config.model.num_classes:
        batch["label"] = np.arange(config.batch_size, dtype=np.int32) % config.model.num_classes
    stacked = {name: values[None] for name, values in batch.items()}
    return shard_batches(devices_mesh, config.mapper, stacked)


def largest_difference(a: Any, b: Any) -> float:
    """Largest absolute difference between two trees of the same structure."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max()) for x, y in pairs)
