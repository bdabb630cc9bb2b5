"""One system under test, in a process of its own that stays resident and waits for its turn.

A process each: systems then share neither thread pools nor memory, and the peak memory of each can be read.
"""

import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dcgan_jax import command_line, data_parallel, models, run_folder
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.errors import UserError
from dcgan_jax.input_pipeline import Batches, gathering
from dcgan_jax.train_state import create_state
from dcgan_jax.train_step import make_train_step

# Batches of random images that the steps go through.
_POOL_BATCHES = 4
# Steps before the first measured one: the heap grows until it has seen every size of buffer a few times.
_WARM_UP_STEPS = 6


class Facts(NamedTuple):
    """Of a system that is ready: `settings` in words, the device, seconds up to the end of the first step."""

    settings: str
    device: str
    compile_seconds: float


class Trainer(Protocol):
    facts: Facts

    def run(self, steps: int) -> None:
        """Runs training steps and waits for them."""

    def memory_bytes(self) -> int | None:
        """Most bytes in use so far on an accelerator; None on the CPU."""


class JaxTrainer:
    """The training step of this package as `train.py` runs it, on random images."""

    def __init__(self, config: ConfigDict) -> None:
        size, channels, classes = config.data.image_size, config.data.channels, config.model.num_classes
        shape = (_POOL_BATCHES * config.batch_size, size, size, channels)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        labels = np.arange(len(images), dtype=np.int32) % classes if classes else None
        mesh = data_parallel.make_mesh(config.batch_size)
        self._batches = Batches(config, ImageDataset(images, labels, {}, None, {}, Path()), mesh)
        self._stream = self._batches.from_step(0)
        generator, discriminator = models.build_models(config)
        fresh = jax.jit(lambda: create_state(config, generator, discriminator))
        self._state = jax.block_until_ready(data_parallel.replicate(mesh, fresh()))
        self._step = data_parallel.map_step(gathering(make_train_step(config)), mesh, config.mapper)
        start = time.perf_counter()
        self.run(1)
        settings = f"jax {jax.__version__}, conv {config.conv}, {config.precision}"
        self.facts = Facts(settings, jax.devices()[0].device_kind, time.perf_counter() - start)

    def run(self, steps: int) -> None:
        metrics: Any = None
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batches.pack, next(self._stream))
        jax.block_until_ready((self._state, metrics))

    def memory_bytes(self) -> int | None:
        stats = jax.local_devices()[0].memory_stats()
        return None if stats is None else stats.get("peak_bytes_in_use")


class MatrixProduct:
    """Products of square matrices: what the device can do at best, as measured beside the training steps."""

    def __init__(self, config: ConfigDict) -> None:
        self.size = matrix_size()
        self._factor = jnp.ones((self.size, self.size), config.precision)
        self._product = jax.jit(jnp.matmul)
        start = time.perf_counter()
        self.run(1)
        settings = f"{self.size} x {self.size} matrices, {config.precision}"
        self.facts = Facts(settings, jax.devices()[0].device_kind, time.perf_counter() - start)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            result = self._product(self._factor, self._factor)
        result.block_until_ready()

    def memory_bytes(self) -> int | None:
        return None


def matrix_size() -> int:
    """Rows of the matrices of `MatrixProduct` on this machine."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def serve(connection: Connection, system: str, config_json: str) -> None:
    """Builds a system, sends its `Facts`, then answers every number of steps with the seconds they took.

    The request None ends it; the answer is its peak memory in bytes. A UserError is sent as it is.

    Args:
      connection: to the process that measures.
      system: 'dcgan_jax', 'matrix_product', 'torch', or 'lax': this package with XLA's own convolutions.
      config_json: the config, see `run_folder.from_json`.
    """
    command_line.configure_allocator()
    command_line.configure_compilation_cache()
    config = run_folder.from_json(config_json)
    try:
        trainer = _make_trainer(system, config)
    except UserError as error:
        connection.send(error)
        return
    trainer.run(1 if system == "matrix_product" else _WARM_UP_STEPS)
    connection.send(trainer.facts)
    while (steps := connection.recv()) is not None:
        start = time.perf_counter()
        trainer.run(steps)
        connection.send(time.perf_counter() - start)
    connection.send(trainer.memory_bytes() or _resident_bytes())


def _make_trainer(system: str, config: ConfigDict) -> Trainer:
    if system == "matrix_product":
        return MatrixProduct(config)
    if system == "torch":
        try:
            from dcgan_jax.benchmark_torch import TorchTrainer
        except ImportError as error:
            raise UserError(f"--peer=torch needs PyTorch ({error}): pip install -e '.[bench]'.") from error
        return TorchTrainer(config)
    if system == "lax":
        config.conv = "lax"
    return JaxTrainer(config)


def _resident_bytes() -> int:
    """Largest resident size of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
