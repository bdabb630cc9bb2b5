"""Nearest neighbours of real images among generated ones, exact and streamed.

Two measures of the authors (lib/metrics.py), for images that the generator was not trained on:

    nnd           mean Euclidean distance of an image to the nearest of N samples, in the networks' range
    nnc_accuracy  accuracy of a nearest-neighbour classifier whose training set is N samples of a conditional network
                  with the labels they were drawn for [paper appendix, table 3]

Samples are compared as they are drawn and then forgotten; only their numbers, four bytes each, are all at hand.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets import pixels
from dcgan_jax.nets.models import Generator, Tree
from dcgan_jax.runs.sampler import full_batches, noise_of

HELD_OUT = 10_000  # images that samples are compared with during training (both scripts of the authors)


class Neighbors:
    """The nearest neighbour of every query among all rows that were added so far."""

    def __init__(self, queries: np.ndarray | jax.Array) -> None:
        """`queries`: float32 [queries, features]."""
        self._queries = jnp.asarray(queries)
        self._squares = jnp.square(self._queries).sum(1)
        self._nearest = jnp.full(len(self._queries), jnp.inf), jnp.full(len(self._queries), -1, jnp.int32)

    def add(self, rows: jax.Array, label: int = 0) -> None:
        """Adds rows [count, features] of one label. A call with another count compiles first."""
        self._nearest = _nearer(self._nearest, self._queries, rows, label)

    def distances(self) -> np.ndarray:
        """Euclidean distances to the nearest rows, float32 [queries]; infinite if there are none."""
        return np.asarray(jnp.sqrt(jnp.maximum(self._nearest[0] + self._squares, 0.0)))

    def labels(self) -> np.ndarray:
        """Labels of the nearest rows, int32 [queries]; of rows that are equally near, the label added first."""
        return np.asarray(self._nearest[1])


@partial(jax.jit, donate_argnums=0)
def _nearer(
    nearest: tuple[jax.Array, jax.Array], queries: jax.Array, rows: jax.Array, label: int
) -> tuple[jax.Array, jax.Array]:
    """All rows have one label, so the smallest distance is all that is needed of them: no argmin."""
    best, labels = nearest
    products = jnp.matmul(rows, queries.T, precision=lax.Precision.HIGHEST)
    distance = (jnp.square(rows).sum(1)[:, None] - 2.0 * products).min(0)  # but for the square of the query
    return jnp.minimum(distance, best), jnp.where(distance < best, label, labels)


def add_images(neighbors: Neighbors, images: np.ndarray, labels: np.ndarray | None, output: str, progress: str) -> None:
    """Adds uint8 images [count, height, width, channels], whose range is that of `output`; what: progress bar."""
    for label in [0] if labels is None else np.unique(labels):
        mine = images if labels is None else images[np.flatnonzero(labels == label)]
        for batch, _ in full_batches(mine, f"{progress} {label}" if labels is not None and progress else progress):
            neighbors.add(_flatten(batch, output), int(label))


def make_stream(generator: Generator, seed: int) -> Callable[..., Iterator[tuple[jax.Array, int]]]:
    """`stream(params, batch_stats, begin, end, what)`: rows of the samples begin ... end - 1, in batches of one label.

    Sample i has label i modulo the number of classes, and is the one that `python -m dcgan_jax.sample` draws for that
    seed and number, before rounding. Rows are float32 [BATCH_SIZE, features] in the networks' range; a last batch is
    filled up with samples that were there already.
    """
    classes = generator.num_classes

    @jax.jit
    def draw(params: Tree, batch_stats: Tree, numbers: jax.Array, label: int) -> jax.Array:
        z = noise_of(generator, seed, numbers)
        labels = jnp.full(len(z), label) if classes else None
        variables = {"params": params, "batch_stats": batch_stats}
        images, _ = generator.apply(variables, z, labels, train=False)
        return jnp.asarray(images).reshape(len(z), -1)

    def stream(params: Tree, batch_stats: Tree, begin: int, end: int, progress: str) -> Iterator[tuple[jax.Array, int]]:
        with tqdm(total=end - begin, desc=progress, unit="image", disable=None if progress else True) as bar:
            for label in range(classes or 1):
                step = classes or 1
                numbers = np.arange(begin + (label - begin) % step, end, step, dtype=np.int32)
                for batch, count in full_batches(numbers):
                    yield draw(params, batch_stats, batch, label), label
                    bar.update(count)

    return stream


@partial(jax.jit, static_argnums=1)
def _flatten(images: jax.Array | np.ndarray, output: str) -> jax.Array:
    return pixels.to_network(jnp.asarray(images), output).reshape(len(images), -1)


def some(rows: np.ndarray) -> np.ndarray:
    """HELD_OUT of the rows, always the same, or all if there are no more; at random, as folders are sorted by class."""
    if len(rows) <= HELD_OUT:
        return rows
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:HELD_OUT])]


def make_measure(
    config: ConfigDict, images: np.ndarray, labels: np.ndarray | None
) -> Callable[[np.ndarray], dict[str, float]]:
    """`measure(samples)`: nnd and, for conditional networks, nnc_accuracy of uint8 samples, whose classes are in turn.

    Args:
      config: of the run.
      images: uint8 [count, height, width, channels]; HELD_OUT of them are used, the same ones always.
      labels: of the images.
    """
    images, labels = some(images), None if labels is None else some(labels)
    output, classes = config.model.output, config.model.num_classes

    def measure(samples: np.ndarray) -> dict[str, float]:
        neighbors = Neighbors(_flatten(images, output))
        add_images(neighbors, samples, np.arange(len(samples)) % classes if classes else None, output, progress="")
        result = {"nnd": float(neighbors.distances().mean())}
        if classes and labels is not None:
            result["nnc_accuracy"] = float((neighbors.labels() == labels).mean())
        return result

    return measure
