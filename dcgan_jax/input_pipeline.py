"""Packed images -> batches, in an order that is a pure function of (seed, step).

The stream of examples is one permutation of the data set per epoch, one epoch after the other; batch k is its elements
k*B .. (k+1)*B - 1. Any step can be reached directly, so resuming needs no iterator state, and the order is the same
whether images are gathered on the device or on the host.
"""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dcgan_jax import data_parallel
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.errors import UserError

# 'auto' puts a set on an accelerator when it fills at most this part of its memory.
_DEVICE_MEMORY_SHARE = 0.5
# Batches that are gathered ahead of the step.
_PREFETCH = 2


def check_dataset(config: ConfigDict, dataset: ImageDataset) -> None:
    """Raises UserError if the data set cannot feed this config."""
    if len(dataset.images) < config.batch_size:
        raise UserError(
            f"{config.data.source} has {len(dataset.images)} images, fewer than one batch of {config.batch_size}: "
            "add images or lower --config.batch_size."
        )
    classes = config.model.num_classes
    if classes and dataset.labels is None:
        raise UserError(
            f"config.model.num_classes is {classes}, but {config.data.source} has no labels: for an image folder, sort "
            "the images into one subfolder per class; or train without labels, --config.model.num_classes=0."
        )
    if classes and dataset.labels is not None and int(dataset.labels.max()) >= classes:
        raise UserError(
            f"{config.data.source} has {int(dataset.labels.max()) + 1} classes, more than config.model.num_classes "
            f"{classes}: set --config.model.num_classes={int(dataset.labels.max()) + 1}."
        )


@functools.lru_cache(maxsize=2)  # a batch can span two epochs
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The permutation int64 [num_examples] of one epoch."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(num_examples)


def batch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """Numbers of the examples in batch `step` (from 0), int64 [batch_size]."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = np.divmod(positions, num_examples)
    parts = [epoch_order(seed, int(epoch), num_examples)[within[epochs == epoch]] for epoch in np.unique(epochs)]
    return np.concatenate(parts)


class Batches:
    """The data as the mapped step wants it.

    Attributes:
      pack: replicated arrays that every step receives: 'image' uint8 [examples, height, width, channels] and 'label'
        int32 [examples] when the data lives on the device, nothing when it is streamed.
    """

    def __init__(self, config: ConfigDict, dataset: ImageDataset, mesh: Mesh) -> None:
        self._arrays: dict[str, np.ndarray] = {"image": dataset.images}
        if config.model.num_classes and dataset.labels is not None:
            self._arrays["label"] = dataset.labels
        self._config, self._mesh = config, mesh
        self._resident = config.data.placement == "device" or (
            config.data.placement == "auto" and _fits_on_device(dataset.images.nbytes, mesh)
        )
        self.pack = data_parallel.replicate(mesh, dict(self._arrays)) if self._resident else {}

    def from_step(self, step: int) -> Iterator[dict[str, Any]]:
        """Sharded batches of step, step + 1, ...: 'index' int32 [batch], or 'image' and 'label' themselves."""
        with ThreadPoolExecutor(1, "prefetch") as pool:
            pending = deque(pool.submit(self._batch, step + i) for i in range(_PREFETCH))
            for next_step in itertools.count(step + _PREFETCH):
                batch = pending.popleft().result()
                pending.append(pool.submit(self._batch, next_step))
                yield batch

    def _batch(self, step: int) -> dict[str, Any]:
        config = self._config
        indices = batch_indices(config.seed, step, config.batch_size, len(self._arrays["image"]))
        share = config.batch_size // jax.process_count()
        indices = indices[jax.process_index() * share :][:share]
        if self._resident:
            batch = {"index": indices.astype(np.int32)}
        else:
            batch = {name: values[indices] for name, values in self._arrays.items()}
        return data_parallel.shard_batch(self._mesh, config.mapper, batch)


def gathering(step: Callable[..., Any]) -> Callable[..., Any]:
    """Turns `step(state, batch)` into `step(state, pack, batch)`, which gathers on the device if the pack is there."""

    def step_with_pack(state: Any, pack: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
        if pack:
            batch = {name: values[batch["index"]] for name, values in pack.items()}
        return step(state, batch)

    return step_with_pack


def _fits_on_device(num_bytes: int, mesh: Mesh) -> bool:
    """Never on the CPU, where the memory-mapped pack is as near as a copy of it would be."""
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        return False
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    return num_bytes <= _DEVICE_MEMORY_SHARE * memory
