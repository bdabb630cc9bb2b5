"""A trained run, ready to draw images."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from dcgan_jax.config import check_config
from dcgan_jax.machine import rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import make_mesh
from dcgan_jax.nets import frozen_statistics, models, pixels
from dcgan_jax.nets.models import Tree
from dcgan_jax.runs import checkpoint, run_folder
from dcgan_jax.train_state import GANState, create_state


class TrainedRun:
    """A run's generator, ready to draw.

    Attributes:
      workdir, config, state: of the run; step: its number of training steps.
      seed: of the noise.
    """

    def __init__(self, workdir: Path, step: int | str | None, seed: int, norm: str, label: int | None) -> None:
        """Raises UserError if there is no such run, checkpoint or class."""
        self.workdir, self.seed = workdir, seed
        self.config, self.state = load_run(workdir, step)
        self.step = int(self.state.step)
        self._label = label
        check_label(self.config, label)
        self._norm = norm
        self._generate = make_generate(self.config)

    @property
    def samples(self) -> dict[str, Any]:
        """All that the image of a row of noise, and the noise of a number, depend on."""
        return {
            "step": self.step,
            "seed": self.seed,
            "norm": self._norm,
            "label": self._label,
            "run_seed": self.config.seed,
            "data": self.config.data.source,
        }

    @functools.cached_property
    def variables(self) -> dict[str, Tree]:
        """'params' and 'batch_stats' of the generator; estimated when first asked for."""
        return make_sampling_variables(self.config, self._norm)(self.state)

    def noise(self, first: int, count: int) -> np.ndarray:
        """float32 [count, z_dim] of images first, first + 1, ...: those that `python -m dcgan_jax.sample` draws."""
        return np.asarray(draw_noise(self.config, self.seed, first, count))

    def draw(self, z: np.ndarray, what: str) -> np.ndarray:
        """uint8 [count, height, width, channels] of noise [count, z_dim]; `what` stands beside the progress bar."""
        labels, images = self.labels(BATCH_SIZE), []
        for batch, count in full_batches(z.astype(np.float32), what):
            images.append(np.asarray(self._generate(**self.variables, z=batch, labels=labels))[:count])
        return np.concatenate(images)

    def labels(self, count: int) -> jax.Array | None:
        """What the generator takes beside `count` rows of noise."""
        return jnp.full(count, self._label or 0) if self.config.model.num_classes else None


NORMS = ("running", "frozen", "batch")
# Always drawn in batches of this size, so that an image never depends on how many are asked for.
BATCH_SIZE = 128
# Batches whose moments are averaged for frozen statistics.
STATISTICS_BATCHES = 50


def make_generate(config: ConfigDict, norm: str = "running") -> Callable[..., jax.Array]:
    """Compiled `generate(params, batch_stats, z, labels) -> uint8 [batch, height, width, channels]`.

    `norm`: 'batch' uses the statistics of the batch; otherwise those in `batch_stats`.
    """
    generator, _ = models.build_models(config)

    @jax.jit
    def generate(params: Tree, batch_stats: Tree, z: jax.Array, labels: jax.Array | None) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        (images, _), _ = generator.apply(variables, z, labels, train=norm == "batch", mutable=["batch_stats"])
        return pixels.to_uint8(images, config.model.output)

    return generate


def draw_noise(config: ConfigDict, seed: int, first: int, count: int) -> jax.Array:
    """Noise [count, z_dim] of images first, first + 1, ...: each row depends on (seed, its number) only."""
    return draw_noise_of(config, seed, first + jnp.arange(count))


def draw_noise_of(config: ConfigDict, seed: int, numbers: jax.Array) -> jax.Array:
    """Noise [count, z_dim] of the images with these numbers, int32 [count]."""
    key = rng.stream(seed, "sample")
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    return jax.vmap(lambda key: models.sample_noise(key, (config.model.z_dim,), config.model.z_distribution))(keys)


def make_estimate_statistics(config: ConfigDict) -> Callable[[Tree, Tree], Tree]:
    """`estimate(params, batch_stats) -> batch_stats`: frozen statistics of a generator with these parameters.

    From STATISTICS_BATCHES batches of BATCH_SIZE, the classes in turn; see frozen_statistics.py.
    """
    estimate, classes = frozen_statistics.make_estimate(models.build_models(config)[0]), config.model.num_classes

    @jax.jit
    def draw(i: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        key = rng.stream(config.seed, "statistics", i)
        z = models.sample_noise(key, (BATCH_SIZE, config.model.z_dim), config.model.z_distribution)
        return z, (i * BATCH_SIZE + jnp.arange(BATCH_SIZE)) % classes if classes else None

    def estimate_statistics(params: Tree, batch_stats: Tree) -> Tree:
        return estimate(params, batch_stats, (draw(jnp.int32(i)) for i in range(STATISTICS_BATCHES)))

    return estimate_statistics


def make_draw(config: ConfigDict) -> Callable[[GANState, jax.Array, jax.Array | None], np.ndarray]:
    """`draw(state, z, labels) -> uint8 images` of a run in progress: averaged weights if the run keeps them."""
    generate, variables = make_generate(config), make_sampling_variables(config)

    def draw(state: GANState, z: jax.Array, labels: jax.Array | None) -> np.ndarray:
        return np.asarray(generate(**variables(state), z=z, labels=labels))

    return draw


def sheet_inputs(config: ConfigDict, seed: int) -> tuple[jax.Array, jax.Array | None, int]:
    """Noise, labels and number of columns of a sample sheet: 8 x 8 images, or 8 rows with a class per column."""
    classes = config.model.num_classes
    columns = min(classes, 10) if classes else 8
    labels = jnp.arange(8 * columns, dtype=jnp.int32) % columns if classes else None
    return draw_noise(config, seed, 0, 8 * columns), labels, columns


def load_run(workdir: Path, step: int | str | None = None) -> tuple[ConfigDict, GANState]:
    """Config and state of a run, on this machine's default device, whatever it was trained on.

    `step`: of the checkpoint, run_folder.BEST, or None for the newest one.

    Raises:
      UserError: no run, or no such checkpoint.
    """
    config = run_folder.load_config(workdir)
    check_config(config)
    if step == run_folder.BEST:
        step = run_folder.best_step(workdir, run_folder.steps(workdir))
        if step is None:
            raise UserError(
                f"{workdir} has no checkpoint that was evaluated: give --step a number, see --config.eval_every."
            )
    assert not isinstance(step, str)
    generator, discriminator = models.build_models(config)
    abstract = jax.eval_shape(lambda: create_state(config, generator, discriminator))
    state = _restore(workdir, step, abstract, make_mesh(jax.device_count()))
    return config, jax.device_put(state, jax.local_devices()[0])


def _restore(workdir: Path, step: int | None, abstract: GANState, mesh: Mesh) -> GANState:
    """The state of a step, or the newest intact one."""
    if step is not None:
        folder = run_folder.checkpoint(workdir, step)
        if folder.exists() and (damage := checkpoint.find_damage(folder)):
            raise UserError(f"the checkpoint of step {step} in {workdir} is damaged: {damage}. Choose another --step.")
        return checkpoint.restore(workdir, step, abstract, mesh)
    newest = checkpoint.newest_intact(workdir, partial(print, file=sys.stderr))
    if newest is None:
        raise UserError(f"{workdir} has no checkpoint yet.")
    try:
        return checkpoint.restore(workdir, newest, abstract, mesh)
    except UserError:
        if newest in run_folder.steps(workdir):
            raise
        return _restore(workdir, None, abstract, mesh)  # a run in training has deleted it, and has a newer one


def make_sampling_variables(config: ConfigDict, norm: str = "running") -> Callable[[GANState], dict[str, Tree]]:
    """`variables(state)`: 'params' and 'batch_stats' that draw a run's images: averaged weights if the run keeps them.

    `norm`: see the module's docstring.
    """
    estimate = make_estimate_statistics(config)

    def variables(state: GANState) -> dict[str, Tree]:
        params, batch_stats = state.generator.params, state.generator.batch_stats
        if state.ema is not None:
            params = state.ema
        if norm == "frozen" or (norm == "running" and state.ema is not None):
            batch_stats = estimate(params, batch_stats)
        return {"params": params, "batch_stats": batch_stats}

    return variables


def full_batches(values: np.ndarray, what: str = "") -> Iterator[tuple[np.ndarray, int]]:
    """Batches of exactly BATCH_SIZE rows, so that one compiled program serves all, and how many of the rows count.

    The last batch is filled up with its own rows. `what` names a progress bar; '' is for none.
    """
    with tqdm(total=len(values), desc=what, unit="image", disable=None if what else True) as bar:
        for first in range(0, len(values), BATCH_SIZE):
            part = values[first : first + BATCH_SIZE]
            yield np.resize(part, (BATCH_SIZE, *values.shape[1:])), len(part)
            bar.update(len(part))


def collect(config: ConfigDict, batches: Iterable[np.ndarray], num: int) -> np.ndarray:
    """`num` images in one array, uint8 [num, height, width, channels], without a second copy of them."""
    size = config.data.image_size
    images, done = np.empty((num, size, size, config.data.channels), np.uint8), 0
    for batch in batches:
        images[done : done + len(batch)] = batch
        done += len(batch)
    return images


def check_label(config: ConfigDict, label: int | None) -> None:
    """Raises UserError if `label` is not a class of the run's networks."""
    classes = config.model.num_classes
    if label is not None and not 0 <= label < classes:
        known = f"0 to {classes - 1}" if classes else "none: the network is unconditional"
        raise UserError(f"--label={label} is not one of the run's classes ({known}).")


def make_draw_images(config: ConfigDict, norm: str = "running") -> Callable[..., Iterator[np.ndarray]]:
    """`draw(state, num, seed, label=None)`: yields `num` images in batches, uint8 [batch, height, width, channels].

    Image i is a function of the state and (seed, i). `label`: class of all images of a conditional network; None draws
    the classes in turn. `norm`: see the module's docstring.
    """
    generate, variables = make_generate(config, norm), make_sampling_variables(config, norm)
    classes = config.model.num_classes

    def draw(state: GANState, num: int, seed: int, label: int | None = None) -> Iterator[np.ndarray]:
        drawn = variables(state)
        for first in range(0, num, BATCH_SIZE):
            labels = None
            if classes:
                labels = (first + jnp.arange(BATCH_SIZE)) % classes if label is None else jnp.full(BATCH_SIZE, label)
            images = generate(**drawn, z=draw_noise(config, seed, first, BATCH_SIZE), labels=labels)
            yield np.asarray(images)[: num - first]

    return draw
