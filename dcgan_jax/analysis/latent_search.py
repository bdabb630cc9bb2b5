"""Finds z whose images are like given ones, by gradient descent from several starts.

    pool        random samples; the ones nearest to an image by pixels are where its search begins
    descent     Adam on z with a step size that falls to 0 as half a cosine; after every step z is put back into the
                prior; all images and starts are rows of one batch

The generator is differentiated before its images are rounded.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets import pixels
from dcgan_jax.nets.models import Taps, Tree
from dcgan_jax.runs.sampler import BATCH_SIZE
from dcgan_jax.runs.trained import Run

# The norm of normal noise has the standard deviation 0.71, whatever its dimension; it stays within two of them.
_NORM_REACH = math.sqrt(2.0)
_SCALE_SAMPLES = 128  # whose differences are the unit of a distance
_BLOCK = 1024  # images that are compared at a time


class Objective(NamedTuple):
    """What the descent makes small.

    Attributes:
      prepare: goals float32 [rows, height, width, channels] in the networks' range and labels int32 [rows] or None ->
        what `losses` needs of them, a tree whose leaves have the first axis rows; called once.
      losses: images [rows, height, width, channels], labels, and what was prepared -> float32 [rows].
    """

    prepare: Callable[[jax.Array, jax.Array | None], Tree]
    losses: Callable[[jax.Array, jax.Array | None, Tree], jax.Array]


class Descended(NamedTuple):
    """Where a descent has ended.

    Attributes:
      z: float32 [rows, z_dim].
      losses: float32 [rows], of z.
      path: float32 [steps + 1, watched, z_dim], z of the first rows before and after every step.
    """

    z: np.ndarray
    losses: np.ndarray
    path: np.ndarray


def prior_deviation(distribution: str) -> float:
    """Standard deviation of a coordinate of the prior, 'uniform' on [-1, 1] or 'normal'."""
    return 1.0 / math.sqrt(3.0) if distribution == "uniform" else 1.0


def into_prior(z: jax.Array, distribution: str) -> jax.Array:
    """The nearest noise that the prior draws, [rows, z_dim].

    Uniform noise is clipped to [-1, 1]. Normal noise keeps its direction, and a norm within sqrt(2) of sqrt(z_dim).
    """
    if distribution == "uniform":
        return jnp.clip(z, -1.0, 1.0)
    norm = jnp.linalg.norm(z, axis=1, keepdims=True)
    middle = math.sqrt(z.shape[1])
    return z * (jnp.clip(norm, middle - _NORM_REACH, middle + _NORM_REACH) / jnp.maximum(norm, 1e-6))


class Descent:
    """The compiled descent of a run on one objective."""

    def __init__(self, run: Run, objective: Objective) -> None:
        self._run = run
        # Where no kernel needs a gradient this form is 3.4 times as fast on a CPU as the one that training uses.
        generator = run.generator.copy(conv_method="lax")
        self._adam = adam = optax.scale_by_adam()

        def losses(z: jax.Array, variables: Tree, labels: jax.Array | None, prepared: Tree) -> jax.Array:
            with run.gan.multiplying():
                images, _ = generator.apply(variables, z, labels, train=False)
                return objective.losses(images, labels, prepared)

        @jax.jit
        def step(z: jax.Array, state: Tree, rate: jax.Array, *rest: Any) -> tuple[jax.Array, Tree]:
            gradient = jax.grad(lambda z: losses(z, *rest).sum())(z)
            update, state = adam.update(gradient, state)
            return into_prior(z - rate * update, generator.z_distribution), state

        self._step, self._losses, self._prepare = step, jax.jit(losses), jax.jit(objective.prepare)

    def __call__(
        self,
        z: np.ndarray,
        goals: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        steps: int,
        rate: float,
        watched: int = 0,
        progress: str = "",
    ) -> Descended:
        """Descends from every row of z towards the goal in the same row.

        Args:
          z: float32 [rows, z_dim].
          goals: uint8 [rows, height, width, channels].
          labels: int32 [rows], for conditional networks.
          steps: of Adam.
          rate: length of the first steps in every coordinate.
          watched: rows whose path is kept, at the beginning; not more than BATCH_SIZE.
          progress: stands beside a progress bar; '' shows none.
        """
        parts, size = [], min(BATCH_SIZE, len(z))
        batches = range(0, len(z), size)
        with tqdm(total=steps * len(batches), desc=progress, unit="step", disable=None if progress else True) as bar:
            for first in batches:
                rows = np.resize(np.arange(first, min(first + size, len(z))), size)
                of_rows = None if labels is None else jnp.asarray(labels[rows])
                watch = watched if first == 0 else 0
                found = self._batch(z[rows], goals[rows], of_rows, steps, rate, watch, bar.update)
                parts.append(found)
        return Descended(
            np.concatenate([part.z for part in parts])[: len(z)],
            np.concatenate([part.losses for part in parts])[: len(z)],
            parts[0].path,
        )

    def _batch(
        self,
        start: np.ndarray,
        goals: np.ndarray,
        labels: jax.Array | None,
        steps: int,
        rate: float,
        watched: int,
        done: Callable[[], object],
    ) -> Descended:
        z = into_prior(jnp.asarray(start), self._run.generator.z_distribution)
        prepared = self._prepare(pixels.to_network(jnp.asarray(goals), self._run.generator.output), labels)
        arguments = self._run.variables, labels, prepared
        state, path = self._adam.init(z), [np.asarray(z[:watched])]
        for i in range(steps):
            now = jnp.float32(rate * 0.5 * (1.0 + math.cos(math.pi * i / steps)))
            z, state = self._step(z, state, now, *arguments)
            path.append(np.asarray(z[:watched]))
            done()
        return Descended(np.asarray(z), np.asarray(self._losses(z, *arguments)), np.stack(path))


class Pool(NamedTuple):
    """Random samples.

    Attributes:
      z: float32 [count, z_dim].
      images: uint8 [count, height, width, channels].
      labels: int32 [count], or None.
    """

    z: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None

    def starts(
        self, goals: np.ndarray, labels: np.ndarray | None, count: int, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Noise float32 [goals, count, z_dim] of the samples nearest to each goal, of its own class, nearest first.

        Args:
          goals: uint8 [goals, height, width, channels].
          labels: int32 [goals], for conditional networks.
          count: not more than there are samples of a class.
          weights: of pixels, float [height, width]; None: all count alike.
        """
        distances = squared_distances(goals, self.images, weights)
        if labels is not None:
            distances[labels[:, None] != self.labels] = np.inf
        return self.z[np.argsort(distances, axis=1, kind="stable")[:, :count]]


def draw_pool(run: Run, count: int, seed: int) -> Pool:
    """The first samples of a seed; the classes of a conditional network in turn."""
    z, labels = run.noise(count, seed), run.sampler.labels(0, count)
    return Pool(z, run.generate(z, progress="random samples"), None if labels is None else np.asarray(labels))


def search(
    descent: Descent,
    starts: np.ndarray,
    goals: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    steps: int,
    rate: float,
    watched: int = 0,
    progress: str = "",
) -> Descended:
    """The best of several descents for every goal.

    Args:
      descent: see `Descent`.
      starts: float32 [goals, starts, z_dim].
      goals: uint8 [goals, height, width, channels].
      labels: int32 [goals], for conditional networks.
      steps, rate, progress: see `Descent`.
      watched: goals whose paths are kept, at the beginning; not more than BATCH_SIZE / starts.
    """
    count = starts.shape[1]
    repeated = None if labels is None else labels.repeat(count, 0)
    found = descent(
        starts.reshape(-1, starts.shape[2]),
        goals.repeat(count, 0),
        repeated,
        steps=steps,
        rate=rate,
        watched=watched * count,
        progress=progress,
    )
    losses = found.losses.reshape(-1, count)
    best = losses.argmin(1)
    rows = np.arange(len(goals)) * count + best
    return Descended(found.z[rows], losses.min(1), found.path[:, rows[:watched]])


def likeness(run: Run, feature_weight: float) -> Objective:
    """Mean squared difference of pixels + feature_weight times that of the discriminator's activations.

    Both are in units of what they are between unrelated samples; the activations' is the mean over the layers before
    the logit. A weight of 0 needs no discriminator.
    """
    generator = run.generator
    images = pixels.to_network(jnp.asarray(run.generate(run.noise(_SCALE_SAMPLES))), generator.output)
    labels = run.sampler.labels(0, _SCALE_SAMPLES)

    def features(images: jax.Array, labels: jax.Array | None) -> Taps:
        taps = {"image": images}
        if feature_weight:
            network = run.discriminator.copy(conv_method="lax")
            _, found = network.apply(run.state.discriminator.variables, images, labels, train=False)
            taps |= {name: value for name, value in found.items() if name != "logit"}
        return taps

    unit = {name: jnp.square(value[::2] - value[1::2]).mean() for name, value in features(images, labels).items()}

    def losses(images: jax.Array, labels: jax.Array | None, prepared: Taps) -> jax.Array:
        apart = {
            name: jnp.square(value - prepared[name]).mean(range(1, value.ndim)) / jnp.maximum(unit[name], 1e-12)
            for name, value in features(images, labels).items()
        }
        total = apart.pop("image")
        if apart:
            total += feature_weight * sum(apart.values()) / len(apart)
        return total

    return Objective(features, losses)


def squared_distances(queries: np.ndarray, rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean squared differences of pixels in levels 0-255, float32 [queries, rows].

    Args:
      queries: uint8 [queries, height, width, channels].
      rows: uint8 [rows, height, width, channels].
      weights: of pixels, float [height, width]; None: all count alike.
    """
    height, width = queries.shape[1:3]
    weights = np.ones((height, width)) if weights is None else weights
    factor = np.sqrt(weights / (weights.sum() * queries.shape[3])).astype(np.float32)[..., None]
    flat = _flatten(queries, factor)
    squares = np.square(flat).sum(1)[:, None]
    found = np.empty((len(queries), len(rows)), np.float32)
    for first in range(0, len(rows), _BLOCK):
        block = _flatten(rows[first : first + _BLOCK], factor)
        found[:, first : first + _BLOCK] = squares + np.square(block).sum(1) - 2.0 * flat @ block.T
    return np.maximum(found, 0.0)


def _flatten(images: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) * factor).reshape(len(images), -1)
