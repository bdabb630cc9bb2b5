"""Draws images from a generator, whatever its weights: those of any checkpoint, or of a run in training.

Image i is a function of the weights and (seed, i): images are always drawn in batches of BATCH_SIZE, so that it does
not depend on how many are asked for.

Statistics of batch normalisation (`norm`):

    running   the running averages of training: an image does not depend on what is drawn beside it
    frozen    averages over 50 fresh batches of noise, then constant; what the authors' SVHN script does for its
              discriminator, and what averaged (EMA) weights always use, since the running averages belong to others
    batch     statistics of the batch, as the authors' code samples
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.machine import rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets import frozen_statistics, models, pixels
from dcgan_jax.nets.models import Generator, Tree
from dcgan_jax.train_state import Gan, GANState

NORMS = ("running", "frozen", "batch")
BATCH_SIZE = 128
# Batches whose moments are averaged for frozen statistics.
STATISTICS_BATCHES = 50


class Sampler:
    """A generator's compiled functions. They serve all checkpoints of a run.

    Attributes:
      generator: outside a mapped axis.
      norm: see the module's docstring.
    """

    def __init__(self, gan: Gan, norm: str = "running") -> None:
        self.norm = norm
        self.generator = generator = gan.generator.copy(axis_name=None)
        self._estimate = make_estimate_statistics(gan)

        @jax.jit
        def generate(params: Tree, batch_stats: Tree, z: jax.Array, labels: jax.Array | None) -> jax.Array:
            variables = {"params": params, "batch_stats": batch_stats}
            with gan.multiplying():
                (images, _), _ = generator.apply(variables, z, labels, train=norm == "batch", mutable=["batch_stats"])
            return pixels.to_uint8(images, generator.output)

        self._generate = generate

    def variables(self, state: GANState) -> dict[str, Tree]:
        """'params' and 'batch_stats' that draw a run's images: averaged (EMA) weights if the run keeps them."""
        params, batch_stats = state.generator.params, state.generator.batch_stats
        if state.ema is not None:
            params = state.ema
        if self.norm == "frozen" or (self.norm == "running" and state.ema is not None):
            batch_stats = self._estimate(params, batch_stats)
        return {"params": params, "batch_stats": batch_stats}

    def generate(
        self, variables: dict[str, Tree], z: jax.Array | np.ndarray, labels: jax.Array | np.ndarray | None
    ) -> jax.Array:
        """uint8 [batch, height, width, channels] of noise [batch, z_dim] and labels int32 [batch], in one batch."""
        return self._generate(**variables, z=z, labels=labels)

    def noise(self, seed: int, first: int, count: int) -> jax.Array:
        """Noise float32 [count, z_dim] of images first, first + 1, ...: a row is a function of (seed, its number)."""
        return noise_of(self.generator, seed, first + jnp.arange(count))

    def labels(self, first: int, count: int, label: int | None = None) -> jax.Array | None:
        """Labels int32 [count] of images first, first + 1, ...: `label`, or the classes in turn.

        None for networks without labels.
        """
        labels = self.labels_of(first + np.arange(count), label)
        return None if labels is None else jnp.asarray(labels)

    def labels_of(self, numbers: np.ndarray, label: int | Sequence[int] | None = None) -> np.ndarray | None:
        """Labels int32 [count] of the images with these numbers, int [count].

        `label`: of all; or several that take turns, image i has label[i % len(label)]; None: all classes in turn. The
        result is None for networks without labels.
        """
        classes = self.generator.num_classes
        if not classes:
            return None
        in_turn = np.arange(classes) if label is None else np.atleast_1d(label)
        return in_turn[numbers % len(in_turn)].astype(np.int32)

    def batches(
        self, state: GANState, num: int | Sequence[int], seed: int, label: int | Sequence[int] | None = None
    ) -> Iterator[np.ndarray]:
        """Yields images in batches, uint8 [batch, height, width, channels].

        Args:
          state: the weights.
          num: how many, images 0 ... num - 1; or the numbers of the images.
          seed: of the noise.
          label: of a conditional network, see `labels_of`.

        Raises:
          UserError: see `image_numbers`; or there are numbers and `norm` is 'batch'.
        """
        numbers, variables = image_numbers(num), self.variables(state)
        if isinstance(num, int | np.integer):
            filled = image_numbers(whole_batches(num))  # with norm='batch' the last images depend on those beside them
        else:
            self.check_independent()
            filled = np.resize(numbers, whole_batches(len(numbers)))
        for first in range(0, len(numbers), BATCH_SIZE):
            part = filled[first : first + BATCH_SIZE]
            images = self.generate(variables, noise_of(self.generator, seed, part), self.labels_of(part, label))
            yield np.asarray(images)[: len(numbers) - first]

    def images(
        self, state: GANState, num: int | Sequence[int], seed: int, label: int | Sequence[int] | None = None
    ) -> np.ndarray:
        """The same in one array, uint8 [count, height, width, channels], see `batches`."""
        return self._gather(self.batches(state, num, seed, label), len(image_numbers(num)))

    def draw(
        self, variables: dict[str, Tree], z: np.ndarray, labels: np.ndarray | None, progress: str = ""
    ) -> Iterator[np.ndarray]:
        """Yields the images of noise [count, z_dim] and labels [count] in batches, as `batches` does."""
        done = 0
        for batch, count in full_batches(z, progress):
            of_batch = None if labels is None else np.resize(labels[done : done + count], len(batch))
            yield np.asarray(self.generate(variables, batch, of_batch))[:count]
            done += count

    def drawn(
        self, variables: dict[str, Tree], z: np.ndarray, labels: np.ndarray | None, progress: str = ""
    ) -> np.ndarray:
        """The same in one array, uint8 [count, height, width, channels]."""
        return self._gather(self.draw(variables, z, labels, progress), len(z))

    def _gather(self, batches: Iterator[np.ndarray], count: int) -> np.ndarray:
        images, done = np.empty((count, *self.generator.image_shape), np.uint8), 0  # no second copy of them
        for batch in batches:
            images[done : done + len(batch)] = batch
            done += len(batch)
        return images

    def check_independent(self) -> None:
        """Raises UserError if an image depends on those that are drawn beside it, so that none can be drawn alone."""
        if self.norm == "batch":
            raise UserError(
                "with --norm=batch an image depends on those that are drawn beside it, so single ones cannot be drawn "
                "again: choose --norm=running or --norm=frozen, or --num."
            )

    def sheet_inputs(self, seed: int) -> tuple[jax.Array, jax.Array | None, int]:
        """Noise, labels and number of columns of a sample sheet: 8 x 8 images, or 8 rows with a class per column."""
        classes = self.generator.num_classes
        columns = min(classes, 10) if classes else 8
        labels = jnp.arange(8 * columns, dtype=jnp.int32) % columns if classes else None
        return self.noise(seed, 0, 8 * columns), labels, columns


def image_numbers(num: int | Sequence[int]) -> np.ndarray:
    """Numbers of images, int32 [count]: 0 ... num - 1, or those given.

    Raises:
      UserError: one of them is negative, not whole, or 2**31 or more.
    """
    numbers = np.arange(num) if isinstance(num, int | np.integer) else np.array(num, dtype=None if len(num) else int)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers >= 2**31).any():
        raise UserError("numbers of images must be whole numbers from 0 on, such as [0, 4, 10].")
    return numbers.astype(np.int32)


def whole_batches(count: int) -> int:
    """`count` rounded up to whole batches."""
    return -(-count // BATCH_SIZE) * BATCH_SIZE


def noise_of(generator: Generator, seed: int, numbers: jax.Array | np.ndarray) -> jax.Array:
    """Noise float32 [count, z_dim] of the images with these numbers, int32 [count]."""
    key = rng.stream(seed, "sample")
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    return jax.vmap(lambda key: models.sample_noise(key, (generator.z_dim,), generator.z_distribution))(keys)


def make_estimate_statistics(gan: Gan) -> Callable[[Tree, Tree], Tree]:
    """`estimate(params, batch_stats) -> batch_stats`: frozen statistics of a generator with these parameters.

    From STATISTICS_BATCHES batches of BATCH_SIZE, the classes in turn; see frozen_statistics.py.
    """
    generator = gan.generator.copy(axis_name=None)
    estimate, classes = frozen_statistics.make_estimate(generator), generator.num_classes

    @jax.jit
    def draw(i: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        key = rng.stream(gan.seed, "statistics", i)
        z = models.sample_noise(key, (BATCH_SIZE, generator.z_dim), generator.z_distribution)
        return z, (i * BATCH_SIZE + jnp.arange(BATCH_SIZE)) % classes if classes else None

    def estimate_statistics(params: Tree, batch_stats: Tree) -> Tree:
        with gan.multiplying():
            return estimate(params, batch_stats, (draw(jnp.int32(i)) for i in range(STATISTICS_BATCHES)))

    return estimate_statistics


def full_batches(values: np.ndarray, progress: str = "") -> Iterator[tuple[np.ndarray, int]]:
    """Batches of exactly BATCH_SIZE rows, so that one compiled program serves all, and how many of the rows count.

    The last batch is filled up with its own rows. `progress` names a progress bar; '' shows none.
    """
    with tqdm(total=len(values), desc=progress, unit="image", disable=None if progress else True) as bar:
        for first in range(0, len(values), BATCH_SIZE):
            part = values[first : first + BATCH_SIZE]
            yield np.resize(part, (BATCH_SIZE, *values.shape[1:])), len(part)
            bar.update(len(part))
