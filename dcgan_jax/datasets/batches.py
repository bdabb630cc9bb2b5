"""Packed images -> batches, in an order that is a pure function of (seed, step).

The stream of examples is one permutation of the data set per epoch, one epoch after the other; batch k is its elements
k*B .. (k+1)*B - 1. Any step can be reached directly, so resuming needs no iterator state, and the order is the same
whether images are gathered on the device or on the host.
"""

import functools
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dcgan_jax.config import STEP_INTERVALS
from dcgan_jax.datasets import classes
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import replicate, shard_batches

# 'auto' puts a set on an accelerator when it fills at most this part of its memory.
_DEVICE_MEMORY_SHARE = 0.5
# Calls whose batches are gathered ahead.
_PREFETCH = 2
# config.steps_per_call=0 makes at most this many steps a call.
_MOST_STEPS_PER_CALL = 50


def check_dataset(config: ConfigDict, dataset: ImageDataset) -> None:
    """Raises UserError if the data set cannot feed this config."""
    if len(dataset.images) < config.batch_size:
        raise UserError(
            f"{config.data.source} has {len(dataset.images)} images, fewer than one batch of {config.batch_size}: "
            "add images or lower --config.batch_size."
        )
    check_labels(config, config.data.source, dataset)
    if config.model.num_classes:
        _check_every_class(config, dataset)


def _check_every_class(config: ConfigDict, dataset: ImageDataset) -> None:
    """Raises UserError if some class has no image to be learned from, or the classes are none."""
    source, note, counts = config.data.source, dataset.meta.get("note", ""), classes.counts(dataset)
    named = classes.describe(range(len(counts)), dataset.class_names, counts)
    if classes.are_splits(dataset.class_names):
        raise UserError(f"{source} has the classes {named}, whose names are those of splits. {note}".rstrip())
    counts += [0] * (config.model.num_classes - len(counts))
    if empty := [label for label, count in enumerate(counts) if not count]:
        raise UserError(
            f"config.model.num_classes is {config.model.num_classes}, but {source} has no images of "
            f"{classes.describe(empty, dataset.class_names)}; it has {named}. Add images, or set "
            f"--config.model.num_classes to the classes that have some. {note}".rstrip()
        )


def check_labels(config: ConfigDict, source: str, dataset: ImageDataset) -> None:
    """Raises UserError if the networks take labels and the data set of `source` does not have theirs."""
    most = config.model.num_classes
    if most and dataset.labels is None:
        note = dataset.meta.get("note") or "For an image folder, sort the images into one subfolder per class."
        raise UserError(
            f"config.model.num_classes is {most}, but {source} has no labels. {note} Or train without labels, "
            "--config.model.num_classes=0."
        )
    if most and dataset.labels is not None and int(dataset.labels.max()) >= most:
        raise UserError(
            f"{source} has {int(dataset.labels.max()) + 1} classes, more than config.model.num_classes "
            f"{most}: set --config.model.num_classes={int(dataset.labels.max()) + 1}."
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


def shuffled(rows: np.ndarray, batch_size: int, order: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches of `rows` [count], one permutation after the other, each batch [batch_size] in rising order.

    For the small networks beside the GAN, which are trained in one go.
    """
    pending = np.empty(0, rows.dtype)
    while True:
        while len(pending) < batch_size:
            pending = np.concatenate([pending, order.permutation(rows)])
        yield np.sort(pending[:batch_size])
        pending = pending[batch_size:]


class Batches:
    """The data as the mapped step wants it.

    Attributes:
      pack: replicated arrays that every call receives: 'image' uint8 [examples, height, width, channels] and 'label'
        int32 [examples] when the data lives on the device, nothing when it is streamed.
      steps_per_call: training steps that one call of the mapped step makes.
    """

    def __init__(self, config: ConfigDict, dataset: ImageDataset, mesh: Mesh) -> None:
        """Raises UserError if config.steps_per_call asks for several steps on streamed data."""
        self._arrays: dict[str, np.ndarray] = {"image": dataset.images}
        if config.model.num_classes and dataset.labels is not None:
            self._arrays["label"] = dataset.labels
        self._config, self._mesh = config, mesh
        self._resident = config.data.placement == "device" or (
            config.data.placement == "auto" and _fits_on_device(dataset.images.nbytes, mesh)
        )
        self.steps_per_call = _steps_per_call(config, self._resident, mesh)
        self.pack = replicate(mesh, dict(self._arrays)) if self._resident else {}

    def from_step(self, first: int, last: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """The calls that make the steps first + 1 ... last (without end if it is None).

        Yields the number of the last step of each call, and its sharded batches [steps, batch, ...]: 'index' int32, or
        'image' and 'label' themselves. Calls begin at multiples of steps_per_call; what lies before the first one and
        behind the last one is done in single steps.
        """
        with ThreadPoolExecutor(1, "prefetch") as pool:
            pending: deque[tuple[int, Future[dict[str, Any]]]] = deque()
            for begin, end in _calls(first, last, self.steps_per_call):
                pending.append((end, pool.submit(self._gather, range(begin, end))))
                if len(pending) > _PREFETCH:
                    done, batches = pending.popleft()
                    yield done, batches.result()
            for done, batches in pending:
                yield done, batches.result()

    def _gather(self, steps: range) -> dict[str, Any]:
        config = self._config
        share = config.batch_size // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        size = len(self._arrays["image"])
        indices = np.stack([batch_indices(config.seed, step, config.batch_size, size)[mine] for step in steps])
        if self._resident:
            batches = {"index": indices.astype(np.int32)}
        else:
            batches = {name: values[indices] for name, values in self._arrays.items()}
        return shard_batches(self._mesh, config.mapper, batches)


def _calls(first: int, last: int | None, steps_per_call: int) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of calls, see `Batches.from_step`."""
    begin = first
    while last is None or begin < last:
        end = begin + steps_per_call
        if begin % steps_per_call or (last is not None and end > last):
            end = begin + 1
        yield begin, end
        begin = end


def _steps_per_call(config: ConfigDict, resident: bool, mesh: Mesh) -> int:
    """config.steps_per_call, or the most that suits if it is 0."""
    if config.steps_per_call > 1 and not resident:
        raise UserError(
            f"config.steps_per_call is {config.steps_per_call}, which needs the data on the device, but it is streamed "
            "from the host: set --config.data.placement=device, or --config.steps_per_call=1."
        )
    if config.steps_per_call:
        return int(config.steps_per_call)
    if not resident or mesh.local_devices[0].platform == "cpu":
        return 1
    common = math.gcd(*(config[name] for name in STEP_INTERVALS))
    return max(steps for steps in range(1, _MOST_STEPS_PER_CALL + 1) if common % steps == 0)


def _fits_on_device(num_bytes: int, mesh: Mesh) -> bool:
    """Never on the CPU, where the memory-mapped pack is as near as a copy of it would be."""
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        return False
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    return num_bytes <= _DEVICE_MEMORY_SHARE * memory
