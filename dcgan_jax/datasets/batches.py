"""Packed images -> batches, in an order that is a pure function of (seed, step).

The stream of examples is one permutation of the data set per epoch, one epoch after the other; batch k is its elements
k*B .. (k+1)*B - 1. Any step can be reached directly, so resuming needs no iterator state, and the order is the same
whether images are gathered on the device or on the host.
"""

import functools
import math
import mmap
import os
from collections import deque
from collections.abc import Generator, Iterator
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
from dcgan_jax.nets import flops
from dcgan_jax.nets.shapes import image_shape

# 'auto' fills at most this part of an accelerator's memory with the set and the program.
_DEVICE_MEMORY_SHARE = 0.9
# XLA lays the rows of an array out in tiles of so many values on TPUs.
_TPU_TILE = 128
# Calls whose batches are gathered ahead: while one is used, the next is on the device and another on its way.
_PREFETCH = 2
# config.steps_per_call=0 makes at most this many steps a call, of at most so many bytes of streamed images.
_MOST_STEPS_PER_CALL = 50
_MOST_STREAMED_BYTES = 1 << 28
# Threads that gather streamed images, and how many images are worth a thread.
_GATHER_THREADS = min(8, os.cpu_count() or 1)
_IMAGES_PER_THREAD = 64


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
      pack: replicated arrays that every call receives: 'image' uint8 [examples, height * width * channels] and 'label'
        int32 [examples] when the data lives on the device, nothing when it is streamed. Images are flat rows: from
        [examples, height, width, channels] a TPU can only gather after copying the whole set into another layout.
      steps_per_call: training steps that one call of the mapped step makes.
    """

    def __init__(self, config: ConfigDict, dataset: ImageDataset, mesh: Mesh) -> None:
        self._arrays: dict[str, np.ndarray] = {"image": dataset.images}
        if config.model.num_classes and dataset.labels is not None:
            self._arrays["label"] = dataset.labels
        self._config, self._mesh = config, mesh
        self._resident = config.data.placement == "device" or (
            config.data.placement == "auto" and _fits_on_device(config, dataset.images, mesh)
        )
        self.steps_per_call = _steps_per_call(config, self._resident, mesh)
        self.pack: dict[str, jax.Array] = {}
        if self._resident:
            rows = dataset.images.reshape(len(dataset.images), -1)
            self.pack = replicate(mesh, self._arrays | {"image": rows})

    def from_step(self, first: int, last: int | None = None) -> Generator[tuple[int, dict[str, Any]]]:
        """The calls that make the steps first + 1 ... last (without end if it is None).

        Yields the number of the last step of each call, and its sharded batches [steps, batch, ...]: 'index' int32, or
        'image' and 'label' themselves. Calls begin at multiples of steps_per_call; what lies before the first one and
        behind the last one is done in single steps.
        """
        with ThreadPoolExecutor(1, "prefetch") as ahead, ThreadPoolExecutor(_GATHER_THREADS, "gather") as pool:
            pending: deque[tuple[int, Future[dict[str, Any]]]] = deque()
            for begin, end in _calls(first, last, self.steps_per_call):
                pending.append((end, ahead.submit(self._gather, range(begin, end), pool)))
                if len(pending) > _PREFETCH:
                    done, batches = pending.popleft()
                    yield done, batches.result()
            for done, batches in pending:
                yield done, batches.result()

    def _gather(self, steps: range, pool: ThreadPoolExecutor) -> dict[str, Any]:
        config = self._config
        share = config.batch_size // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        size = len(self._arrays["image"])
        indices = np.stack([batch_indices(config.seed, step, config.batch_size, size)[mine] for step in steps])
        if self._resident:
            batches = {"index": indices.astype(np.int32)}
        else:
            batches = {name: take_rows(values, indices, pool) for name, values in self._arrays.items()}
        return shard_batches(self._mesh, config.mapper, batches)


def take_rows(values: np.ndarray, indices: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """values[indices], gathered by several threads; of a mapped file all rows are asked for before the first is read.

    Args:
      values: [rows, ...], in memory or mapped from a file.
      indices: integers of any shape, from 0 to rows - 1.
      pool: of the threads.
    """
    wanted = indices.ravel()
    _read_ahead(values, wanted)
    rows, taken = values.view(np.ndarray), np.empty((len(wanted), *values.shape[1:]), values.dtype)

    def take(part: slice) -> None:
        # mode="clip" writes straight into `out`; a checked index would be buffered.
        np.take(rows, wanted[part], axis=0, out=taken[part], mode="clip")

    list(pool.map(take, [slice(i, i + _IMAGES_PER_THREAD) for i in range(0, len(wanted), _IMAGES_PER_THREAD)]))
    return taken.reshape(*indices.shape, *values.shape[1:])


def _read_ahead(values: np.ndarray, wanted: np.ndarray) -> None:
    """Lets the kernel fetch rows of a mapped file at once; it would otherwise wait for the disk at each."""
    mapped: Any = values.base
    if not (isinstance(values, np.memmap) and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED")):
        return
    row = values.nbytes // len(values)
    start = values.offset % mmap.ALLOCATIONGRANULARITY  # of the first row in the map
    for number in wanted:
        first = (start + int(number) * row) // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, first, start + (int(number) + 1) * row - first)


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
    if config.steps_per_call:
        return int(config.steps_per_call)
    if mesh.local_devices[0].platform == "cpu":
        return 1
    most = _MOST_STEPS_PER_CALL
    if not resident:
        batch_bytes = config.batch_size * math.prod(image_shape(config.data))
        most = max(1, min(most, _MOST_STREAMED_BYTES // batch_bytes))
    common = math.gcd(*(config[name] for name in STEP_INTERVALS))
    return max(steps for steps in range(1, most + 1) if common % steps == 0)


def _fits_on_device(config: ConfigDict, images: np.ndarray, mesh: Mesh) -> bool:
    """Whether the set and the program have room. Never on the CPU, where the mapped pack is as near as a copy of it."""
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        return False
    row = math.prod(images.shape[1:])
    if device.platform == "tpu":
        row = -(-row // _TPU_TILE) * _TPU_TILE
    needed = len(images) * row + flops.step_memory_bytes(config, mesh.size)
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    return needed <= _DEVICE_MEMORY_SHARE * memory
