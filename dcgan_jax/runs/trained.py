"""A trained run, held in Python: its config, its weights, and what can be drawn from them."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dcgan_jax import machine
from dcgan_jax.config import check_config
from dcgan_jax.datasets import classes
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import make_mesh, on_first_device
from dcgan_jax.nets import pixels
from dcgan_jax.nets.models import Discriminator, Generator, Taps, Tree
from dcgan_jax.runs import checkpoint, run_folder, weights_file
from dcgan_jax.runs.sampler import NORMS, Sampler, full_batches, image_numbers, noise_of
from dcgan_jax.runs.weights_file import Weights
from dcgan_jax.train_state import Gan, GANState, Player, build_gan, create_state

Label = int | str  # a class by number or by name


@dataclass(frozen=True)
class Run:
    """A trained run. `load` and `dcgan_jax.train` make it.

    Attributes:
      workdir: its folder.
      config: see configs/default.py.
      state: weights, batch statistics and optimizers of both networks at one step, on this machine's default device.
      gan: the networks and what trained them.
      sampler: draws the images; its `norm` says with which statistics of batch normalisation, see sampler.py.
      file: the weights file that it was read from, which has one step, and perhaps no discriminator; None: a run's
        folder.
    """

    workdir: Path
    config: ConfigDict
    state: GANState
    gan: Gan
    sampler: Sampler
    file: Path | None = None
    file_class_names: list[str] | None = None
    file_aspect: float | None = None

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

    @property
    def weights(self) -> Weights:
        """What a weights file holds of the run."""
        discriminator = self.state.discriminator.variables if self.has_discriminator else None
        return Weights(self.config, self.step, self.variables, discriminator, self.class_names, self.aspect)

    def at(self, step: int | str | None) -> "Run":
        """The same run at another checkpoint. Nothing is compiled again. Raises UserError as `load` does."""
        if self.file:
            _check_step(self.file, self.step, step)
            return self
        return replace(self, state=load_state(self.workdir, step, self.gan))

    @property
    def has_discriminator(self) -> bool:
        """Whether a whole discriminator is there: a weights file may leave it out, imported weights may lack layers."""
        return self.state.discriminator is not None and self.imported_layers is None

    @functools.cached_property
    def aspect(self) -> float | None:
        """Width over height that the run's squeezed images had before, see config.data.fit; None for all others."""
        return self.file_aspect if self.file else run_folder.aspect(self.workdir)

    @functools.cached_property
    def imported_layers(self) -> int | None:
        """How many of the discriminator's first layers were imported, the others being untrained; None: it is whole."""
        return None if self.file else run_folder.imported_layers(self.workdir)

    def need_discriminator(self, whole: bool = True) -> None:
        """Raises UserError if there is no discriminator. `whole`: imported first layers are not enough."""
        if self.has_discriminator or (self.imported_layers and not whole):
            return
        if self.imported_layers:
            raise UserError(
                f"{self.workdir} has the first {self.imported_layers} layers of an imported discriminator, and this "
                "needs all of them."
            )
        raise UserError(
            f"{self.file or self.workdir} holds a generator only, and this needs the discriminator as well."
        )

    def sample(
        self, num: int | Sequence[int], seed: int = 0, label: Label | Sequence[Label] | None = None
    ) -> np.ndarray:
        """Images uint8 [count, height, width, channels], those that `python -m dcgan_jax.sample` writes.

        Image i is a function of (seed, i) alone: `sample([4])` is image 4 of `sample(5)`. Where the training images
        were squeezed, these are, too; the command stretches them.

        Args:
          num: how many, images 0 ... num - 1; or the numbers of the images, such as [0, 4, 10].
          seed: of the noise.
          label: class of a conditional network, by name or number, that all images have; or several, that they have in
            turn: image i has label[i % len(label)]. None: all classes in turn.

        Raises:
          UserError: there is no such class, a number is negative, or there are numbers and the norm is 'batch'.
        """
        return self.sampler.images(self.state, num, seed, self.find_labels(label))

    def noise(self, num: int | Sequence[int], seed: int = 0, first: int = 0) -> np.ndarray:
        """Noise float32 [count, z_dim] of images that `sample` draws.

        `num`: how many, from `first` on; or the numbers of the images, counted from `first`.
        """
        return np.asarray(noise_of(self.generator, seed, first + image_numbers(num)))

    def generate(self, z: np.ndarray, label: Label | Sequence[Label] | None = None, progress: str = "") -> np.ndarray:
        """Images uint8 [count, height, width, channels] of noise [count, z_dim].

        Image i of `generate(noise(num, seed))` is image i of `sample(num, seed)`.

        Args:
          z: noise, in the range of the config's z_distribution.
          label: class of a conditional network, or several in turn, as in `sample`; as many as images: one for each.
          progress: stands beside a progress bar; '' shows none.

        Raises:
          UserError: z has another shape, or there is no such class.
        """
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != self.generator.z_dim:
            raise UserError(f"z has shape {list(z.shape)}; it must be [count, {self.generator.z_dim}].")
        labels = self.sampler.labels_of(np.arange(len(z)), self.find_labels(label))
        return self.sampler.drawn(self.variables, z, labels, progress)

    def discriminate(self, images: np.ndarray, labels: np.ndarray | None = None) -> tuple[np.ndarray, Taps]:
        """What the discriminator says of images, with the running averages of training.

        Args:
          images: uint8 [count, height, width, channels].
          labels: int [count], for conditional networks.

        Returns:
          Logits float32 [count], positive for images that look real, and every activation by name, [count, ...].

        Raises:
          UserError: images have another shape or dtype, labels are missing, left over or out of range, or there is
            no discriminator in the weights file.
        """
        self.need_discriminator()
        expected, classes = self.generator.image_shape, self.generator.num_classes
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            shape = f"uint8 [count, {', '.join(map(str, expected))}]"
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
        if self.file:
            return self.file_class_names
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

    def find_labels(self, label: Label | Sequence[Label] | None) -> list[int] | None:
        """The numbers of one class or several, see `find_label`; None for None."""
        if label is None:
            return None
        several = [label] if isinstance(label, int | str | np.integer) else list(label)
        if not several:
            raise UserError("the list of classes is empty: name one at least, or give None for all.")
        return [found for found in map(self.find_label, several) if found is not None]

    def one_label(self, label: int | str | None) -> int | None:
        """As `find_label`, but class 0 of a conditional network for None."""
        return 0 if label is None and self.generator.num_classes else self.find_label(label)


def load(workdir: str | Path, step: int | str | None = None, norm: str = "running") -> Run:
    """A trained run, whatever machine it was trained on.

    Args:
      workdir: its folder; or a weights file (see weights_file.py), or the folder of one; or the name of a network that
        comes with the package, such as 'toy_faces'. A folder of that name goes first.
      step: of the checkpoint; 'best', the one with the lowest distance to the data among those that were evaluated;
        None, the newest. A weights file has one step.
      norm: statistics of batch normalisation that images are drawn with, 'running', 'frozen' or 'batch': sampler.py.

    Raises:
      UserError: there is no run, or no such checkpoint, or it is damaged.
    """
    machine.set_up()
    workdir = Path(workdir).expanduser()
    if norm not in NORMS:
        raise UserError(f"norm is {norm!r}; choose from {', '.join(map(repr, NORMS))}.")
    if file := weights_file.find(workdir):
        return _load_file(workdir, file, step, norm)
    config = run_folder.load_config(workdir)
    check_config(config)
    gan = build_gan(config)
    return Run(workdir, config, load_state(workdir, step, gan), gan, Sampler(gan, norm))


def _load_file(workdir: Path, file: Path, step: int | str | None, norm: str) -> Run:
    """The run of a weights file. Results go to `workdir`, or beside the file if that is the file itself."""
    weights = weights_file.read(file)
    _check_step(file, weights.step, step)
    gan = build_gan(weights.config)
    generator = Player(**weights.generator, opt_state=())
    discriminator = Player(**weights.discriminator, opt_state=()) if weights.discriminator else None
    state = GANState(jnp.int32(weights.step), generator, discriminator, ema=None)  # type: ignore[arg-type]
    state = jax.device_put(state, jax.local_devices()[0])
    folder = workdir.parent if workdir == file else workdir
    return Run(folder, weights.config, state, gan, Sampler(gan, norm), file, weights.class_names, weights.aspect)


def _check_step(file: Path, has: int, wanted: int | str | None) -> None:
    if wanted not in (None, run_folder.BEST, has):
        raise UserError(f"{file} holds step {has} only: leave --step={wanted} out.")


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
    state = _restore(workdir, step, abstract, make_mesh(jax.device_count()))  # of all hosts, which must all call this
    return on_first_device(state)


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
