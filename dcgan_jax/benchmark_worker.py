"""One system under test, in a process of its own that stays resident and waits for its turn."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dcgan_jax import command_line, data_parallel, models, run_folder
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.input_pipeline import Batches, gathering
from dcgan_jax.train_state import create_state
from dcgan_jax.train_step import make_train_step

_IMAGES = 4  # batches of random images that the steps go through


class Trainer(Protocol):
    """What a system offers: `settings` in words, `compile_seconds` up to the end of the first step."""

    settings: str
    compile_seconds: float

    def run(self, steps: int) -> None: ...

    def memory_bytes(self) -> int | None: ...


class JaxTrainer:
    """The training step of this package as `train.py` runs it, on random images."""

    def __init__(self, config: ConfigDict) -> None:
        size, channels, classes = config.data.image_size, config.data.channels, config.model.num_classes
        shape = (_IMAGES * config.batch_size, size, size, channels)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        labels = np.arange(len(images), dtype=np.int32) % classes if classes else None
        mesh = data_parallel.make_mesh(config.batch_size)
        self._batches = Batches(config, ImageDataset(images, labels, {}, None, {}, Path()), mesh)
        self._stream = self._batches.from_step(0)
        start = time.perf_counter()
        generator, discriminator = models.build_models(config)
        fresh = jax.jit(lambda: create_state(config, generator, discriminator))
        self._state = jax.block_until_ready(data_parallel.replicate(mesh, fresh()))
        self._step = data_parallel.map_step(gathering(make_train_step(config)), mesh, config.mapper)
        self.initialise_seconds = time.perf_counter() - start
        start = time.perf_counter()
        self.run(1)
        self.compile_seconds = time.perf_counter() - start
        self.settings = f"jax {jax.__version__}, conv {models.conv.resolve_method(config.conv)}"

    def run(self, steps: int) -> None:
        metrics: Any = None
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batches.pack, next(self._stream))
        jax.block_until_ready((self._state, metrics))

    def memory_bytes(self) -> int | None:
        stats = jax.local_devices()[0].memory_stats()
        return None if stats is None else stats.get("peak_bytes_in_use")


def matrix_product_seconds(size: int, dtype: str) -> float:
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x, y: x @ y)
    product(a, a).block_until_ready()
    start = time.perf_counter()
    product(a, a).block_until_ready()
    return time.perf_counter() - start


def serve(connection: Connection, system: str, config_json: str) -> None:
    command_line.configure_allocator()
    import os
    if os.environ.get('HP'):
        sys.path.insert(0,'/tmp')
        import hp
        print('HP',hp.huge(),flush=True)
    command_line.configure_compilation_cache()
    config = run_folder.from_json(config_json)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if system == "torch":
        from dcgan_jax.benchmark_torch import TorchTrainer
        trainer: Trainer = TorchTrainer(config)
    else:
        if system != "jax":
            config.conv = system
        trainer = JaxTrainer(config)
    connection.send((trainer.settings, trainer.compile_seconds))
    while (steps := connection.recv()) is not None:
        start = time.perf_counter()
        trainer.run(steps)
        connection.send(time.perf_counter() - start)
    connection.send((before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
_ = (contextlib, sys, Iterator, matrix_product_seconds)
