"""One system under test, in a process of its own that stays resident and waits for its turn.

A process each: systems then share neither thread pools nor memory, and the peak memory of each can be read.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dcgan_jax import machine
from dcgan_jax.benchmark import devices, matrix_product
from dcgan_jax.benchmark.trainer import Facts, Trainer
from dcgan_jax.benchmark.variants import Variant
from dcgan_jax.config import from_json
from dcgan_jax.datasets.batches import Batches
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import memory
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import make_mesh, replicate
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.train_state import build_gan, create_state
from dcgan_jax.train_step import make_mapped_step

# Batches of random images that the steps go through.
POOL_BATCHES = 4
# Size of the pack that `StreamedInput` reads.
_PACK_BYTES = 1 << 28
# Steps before the first measured one: the heap grows until it has seen every size of buffer a few times.
_WARM_UP_STEPS = 6


class JaxTrainer:
    """The training step of this package as `training.py` runs it, on random images."""

    def __init__(self, config: ConfigDict) -> None:
        mesh = make_mesh(config.batch_size)
        self._batches = Batches(config, _random_images(config, POOL_BATCHES * config.batch_size), mesh)
        self._stream = self._batches.from_step(0)
        gan = build_gan(config)
        fresh = jax.jit(lambda: create_state(gan))
        self._state = jax.block_until_ready(replicate(mesh, fresh()))
        self._step = make_mapped_step(gan, mesh, config.mapper)
        start = time.perf_counter()
        self.run(1)
        settings = f"jax {jax.__version__}, conv {config.conv}, {config.precision}"
        if self._batches.steps_per_call > 1:
            settings += f", {self._batches.steps_per_call} steps a call"
        self.facts = _facts(settings, self._state.step, start)

    def run(self, steps: int) -> int:
        calls = -(-steps // self._batches.steps_per_call)
        metrics: Any = None
        for _, call in itertools.islice(self._stream, calls):
            self._state, metrics = self._step(self._state, self._batches.pack, call)
        jax.block_until_ready((self._state, metrics))
        return calls * self._batches.steps_per_call

    def memory_bytes(self) -> int | None:
        return memory.peak_device_bytes()


class StreamedInput:
    """Batches that are gathered from a memory-mapped pack and handed to the device, without the step."""

    def __init__(self, config: ConfigDict) -> None:
        streamed = config.copy_and_resolve_references()
        streamed.data.placement, streamed.steps_per_call = "host", 1
        image_bytes = math.prod(image_shape(config.data))
        in_memory = _random_images(config, max(config.batch_size, _PACK_BYTES // image_bytes))
        with tempfile.TemporaryFile() as file:  # its map outlives it
            pack = np.memmap(file, np.uint8, "w+", shape=in_memory.images.shape)
        pack[:] = in_memory.images
        dataset = dataclasses.replace(in_memory, images=pack)
        self._stream = Batches(streamed, dataset, make_mesh(config.batch_size)).from_step(0)
        start = time.perf_counter()
        self.run(1)
        _, call = next(self._stream)
        self.facts = _facts("streamed", next(iter(call.values())), start)

    def run(self, steps: int) -> int:
        for _, call in itertools.islice(self._stream, steps):
            jax.block_until_ready(call)
        return steps

    def memory_bytes(self) -> int | None:
        return None


def _facts(settings: str, result: jax.Array, start: float) -> Facts:
    """Those of a system that has just made `result`, begun at `start` of time.perf_counter."""
    seconds = time.perf_counter() - start
    (device, *_) = result.devices()
    return Facts(settings, device.device_kind, seconds, devices.platform_of(device))


def serve(connection: Connection, variant: Variant, config_json: str, platform: str | None = None) -> None:
    """Builds a system, sends its `Facts`, then answers every number of steps with the seconds that each of them took.

    The request None ends it; the answer is its peak memory in bytes. A UserError is sent as it is, such as that it
    would not compute on `platform`.

    Args:
      connection: to the process that measures.
      variant: what is built, and how it runs.
      config_json: the config, see `config.from_json`; the variant's precision replaces its own.
      platform: 'cpu', 'gpu' or 'tpu', which is expected; None: any.
    """
    devices.prepare(platform)
    if not variant.heap:
        os.environ["DCGAN_JAX_MALLOC"] = "0"  # for machine.allocator
    machine.set_up()
    config = from_json(config_json)
    config.precision = variant.precision
    try:
        # Before minutes go by on the wrong one.
        devices.check(variant.system, platform, _found_platform(variant.system))
        trainer = _make_trainer(variant, config)
    except UserError as error:
        connection.send(error)
        return
    trainer.run(_WARM_UP_STEPS)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the process that measures has given up
        connection.send(trainer.facts)
        while (steps := connection.recv()) is not None:
            start = time.perf_counter()
            done = trainer.run(steps)
            connection.send((time.perf_counter() - start) / done)
        connection.send(trainer.memory_bytes() or memory.peak_resident_bytes())


def _found_platform(system: str) -> str:
    try:
        return devices.found_platform(system)
    except ImportError as error:
        raise UserError(f"--peer=torch needs PyTorch ({error}): pip install -e '.[bench]'.") from error
    except RuntimeError as error:
        raise UserError(f"{system} finds no device to compute on: {error}") from error


def _make_trainer(variant: Variant, config: ConfigDict) -> Trainer:
    match variant.system:
        case "jax_product":
            return matrix_product.JaxProduct(variant.precision)
        case "torch_product":
            return matrix_product.TorchProduct(variant.precision)
        case "streamed_input":
            return StreamedInput(config)
        case "torch":
            from dcgan_jax.benchmark.torch_peer import TorchTrainer

            return TorchTrainer(config, variant.compiled)
        case "lax":
            config.conv = "lax"
    return JaxTrainer(config)


def _random_images(config: ConfigDict, count: int) -> ImageDataset:
    classes = config.model.num_classes
    images = np.random.default_rng(0).integers(0, 256, (count, *image_shape(config.data)), np.uint8)
    labels = np.arange(count, dtype=np.int32) % classes if classes else None
    return ImageDataset(images, labels, {}, None, {}, Path())
