"""A trained run, held in Python: its config, its weights, and what can be drawn from them."""

import functools
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dcgan_jax import machine
from dcgan_jax.config import check_config
from dcgan_jax.datasets import classes
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import make_mesh
from dcgan_jax.nets import pixels
from dcgan_jax.nets.models import Discriminator, Generator, Taps, Tree
from dcgan_jax.runs import checkpoint, run_folder
from dcgan_jax.runs.sampler import NORMS, Sampler, full_batches
from dcgan_jax.train_state import Gan, GANState, build_gan, create_state


@dataclass(frozen=True)
class Run:
    """A trained run. `load` and `dcgan_jax.train` make it.

    Attributes:
      workdir: its folder.
      config: see configs/default.py.
      state: weights, batch statistics and optimizers of both networks at one step, on this machine's default device.
      gan: the networks and what trained them.
      sampler: draws the images; its `norm` says with which statistics of batch normalisation, see sampler.py.
    """

    workdir: Path
    config: ConfigDict
    state: GANState
    gan: Gan
    sampler: Sampler

    @property
    def step(self) -> int:
        """Training steps that the state has seen."""
        return int(self.state.step)

    @property
    def generator(self) -> Generator:
        """The generator's Flax module, to be applied outside a mapped axis."""
        return self.sampler.generator

    @functools.cached_property
    def discriminator(self) -> Discriminator:
        """The discriminator's Flax module, to be applied outside a mapped axis."""
        return self.gan.discriminator.copy(axis_name=None)

    @functools.cached_property
    def variables(self) -> dict[str, Tree]:
        """'params' and 'batch_stats' that the generator draws with, averaged (EMA) if the run keeps averages."""
        return self.sampler.variables(self.state)

    def at(self, step: int | str | None) -> "Run":
        """The same run at another checkpoint. Nothing is compiled again. Raises UserError as `load` does."""
        return replace(self, state=load_state(self.workdir, step, self.gan))

    def sample(self, num: int, seed: int = 0, label: int | str | None = None) -> np.ndarray:
        """Images uint8 [num, height, width, channels], those that `python -m dcgan_jax.sample` writes.

        Image i is a function of (seed, i) alone. `label`: class of all images of a conditional network, by name or
        number; None draws the classes in turn.

        Raises:
          UserError: there is no such class.
        """
        return self.sampler.images(self.state, num, seed, self.find_label(label))

    def noise(self, num: int, seed: int = 0, first: int = 0) -> np.ndarray:
        """Noise float32 [num, z_dim] of the images first, first + 1, ... that `sample` draws."""
        return np.asarray(self.sampler.noise(seed, first, num))

    def generate(self, z: np.ndarray, label: int | str | None = None, progress: str = "") -> np.ndarray:
        """Images uint8 [count, height, width, channels] of noise [count, z_dim].

        Image i of `generate(noise(num, seed))` is image i of `sample(num, seed)`.

        Args:
          z: noise, in the range of the config's z_distribution.
          label: class of all images of a conditional network, by name or number; None: the classes in turn.
          progress: stands beside a progress bar; '' shows none.

        Raises:
          UserError: z has another shape, or there is no such class.
        """
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != self.generator.z_dim:
            raise UserError(f"z has shape {list(z.shape)}; it must be [count, {self.generator.z_dim}].")
        label = self.find_label(label)
        size, channels = self.generator.image_size, self.generator.channels
        images, done = np.empty((len(z), size, size, channels), np.uint8), 0
        for batch, count in full_batches(z, progress):
            labels = self.sampler.labels(done, len(batch), label)
            images[done : done + count] = self.sampler.generate(self.variables, batch, labels)[:count]
            done += count
        return images

    def discriminate(self, images: np.ndarray, labels: np.ndarray | None = None) -> tuple[np.ndarray, Taps]:
        """What the discriminator says of images, with the running averages of training.

        Args:
          images: uint8 [count, height, width, channels].
          labels: int [count], for conditional networks.

        Returns:
          Logits float32 [count], positive for images that look real, and every activation by name, [count, ...].

        Raises:
          UserError: images have another shape or dtype, or labels are missing, left over or out of range.
        """
        size, channels, classes = self.generator.image_size, self.generator.channels, self.generator.num_classes
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, channels):
            shape = f"uint8 [count, {size}, {size}, {channels}]"
            raise UserError(f"images are {images.dtype} {list(images.shape)}; they must be {shape}.")
        if (labels is not None) != bool(classes):
            raise UserError("labels are needed by conditional networks, and by no others.")
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape != (len(images),) or not np.isin(labels, np.arange(classes)).all():
                raise UserError(f"labels must be {len(images)} numbers from 0 to {classes - 1}.")
        parts: list[tuple[Any, Any]] = []
        done = 0
        for batch, count in full_batches(images):
            of_batch = None if labels is None else np.resize(labels[done : done + count], len(batch))
            found = self._discriminate(self.state.discriminator.variables, batch, of_batch)
            parts.append(jax.tree.map(lambda values: np.asarray(values)[:count], found))  # noqa: B023  # called at once
            done += count
        return jax.tree.map(lambda *values: np.concatenate(values), *parts)

    @functools.cached_property
    def _discriminate(self) -> Any:
        """Compiled: (variables, uint8 images, labels) -> (logits, taps)."""
        network, output = self.discriminator, self.generator.output

        @jax.jit
        def discriminate(variables: dict[str, Tree], images: jax.Array, labels: jax.Array | None) -> Any:
            return network.apply(variables, pixels.to_network(images, output), labels, train=False)

        return discriminate

    @functools.cached_property
    def class_names(self) -> list[str] | None:
        """Names of labels 0, 1, ... of the images that the run was trained on; None if they have none."""
        return run_folder.class_names(self.workdir)

    def find_label(self, label: int | str | None) -> int | None:
        """The number of a class that is given by name or, if none has this name, by number; None for None.

        Raises:
          UserError: it is not a class of the run's networks.
        """
        count = self.generator.num_classes
        if label is None:
            return None
        if not count:
            raise UserError(f"--label={label} is not one of the run's classes (none: the network is unconditional).")
        if isinstance(label, str):
            return classes.find_label(label, (self.class_names or [])[:count], count)
        if not 0 <= label < count:
            raise UserError(f"--label={label} is not one of the run's classes (0 to {count - 1}).")
        return label

    def one_label(self, label: int | str | None) -> int | None:
        """As `find_label`, but class 0 of a conditional network for None."""
        return 0 if label is None and self.generator.num_classes else self.find_label(label)


def load(workdir: str | Path, step: int | str | None = None, norm: str = "running") -> Run:
    """A trained run, whatever machine it was trained on.

    Args:
      workdir: its folder.
      step: of the checkpoint; 'best', the one with the lowest distance to the data among those that were evaluated;
        None, the newest.
      norm: statistics of batch normalisation that images are drawn with, 'running', 'frozen' or 'batch': sampler.py.

    Raises:
      UserError: there is no run, or no such checkpoint, or it is damaged.
    """
    machine.set_up()
    workdir = Path(workdir).expanduser()
    if norm not in NORMS:
        raise UserError(f"norm is {norm!r}; choose from {', '.join(map(repr, NORMS))}.")
    config = run_folder.load_config(workdir)
    check_config(config)
    gan = build_gan(config)
    return Run(workdir, config, load_state(workdir, step, gan), gan, Sampler(gan, norm))


def load_state(workdir: Path, step: int | str | None, gan: Gan) -> GANState:
    """The state of a checkpoint, on this machine's default device. Arguments and errors as of `load`."""
    if step == run_folder.BEST:
        step = run_folder.best_step(workdir, run_folder.steps(workdir))
        if step is None:
            raise UserError(
                f"{workdir} has no checkpoint that was evaluated: give --step a number, see --config.eval_every."
            )
    if isinstance(step, str):
        raise UserError(f"step is {step!r}; it must be a number of steps or {run_folder.BEST!r}.")
    abstract = jax.eval_shape(partial(create_state, gan))
    state = _restore(workdir, step, abstract, make_mesh(jax.device_count()))
    return jax.device_put(state, jax.local_devices()[0])


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
