"""Features of one layer of k-means, the paper's baseline of table 1 [Coates, Lee and Ng 2011].

Centroids of 6x6 patches, whitened; each place of an image has the triangle activation max(0, mean - distance) of every
centroid, where the mean is over the centroids of that place; summed over the four quadrants of the image. 1,200
centroids give the 4,800 features here. The paper's row has 4,800 units, of a larger network of the same authors.

Constants are those of the authors' published demo: 400,000 patches, contrast normalised with 10 added to the variance
of pixels of 0 to 255, whitening with 0.1 added to the eigenvalues, ten rounds of k-means. Features are standardised by
the training images', as there. The demo starts k-means at small random centroids; here it starts at patches.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dcgan_jax.evaluation.discriminator_features import Extract
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.runs.sampler import full_batches

CENTROIDS = 1200
PATCH = 6  # pixels of a side
_PATCHES = 400_000
_ROUNDS = 10
_CONTRAST = 10.0  # added to the variance of a patch's pixels, levels 0 to 255
_WHITENING = 0.1  # added to the eigenvalues of the patches' covariance
_AT_ONCE = 16  # images whose places are compared with the centroids at once
_ROWS = 8192  # patches that are compared at once


def make_extractor(images: np.ndarray, centroids: int, seed: int) -> Extract:
    """`extract(images, file, progress) -> features`, learned from `images`.

    Args:
      images: uint8 [count, height, width, channels], at least 7 pixels high and wide.
      centroids: how many; each gives four features.
      seed: of the patches.

    Returns:
      A function that writes float32 [count, 4 * centroids] of uint8 images to `file` and gives them memory-mapped. They
      are not standardised: see `standardise`.

    Raises:
      UserError: the images are too small.
    """
    if min(images.shape[1:3]) <= PATCH:
        raise UserError(f"k-means needs images of more than {PATCH} pixels a side, not {images.shape[1:3]}.")
    patches = _normalise(jnp.asarray(draw_patches(images, _PATCHES, np.random.default_rng(seed))))
    mean, white = whitening(patches)
    centres = fit((patches - mean) @ white, centroids, seed)
    encode = jax.jit(partial(_encode, mean, white, centres))

    def extract(images: np.ndarray, file: Path, progress: str) -> np.ndarray:
        matrix = np.lib.format.open_memmap(file, "w+", np.float32, (len(images), 4 * centroids))
        done = 0
        for batch, count in full_batches(images, progress):
            matrix[done : done + count] = np.asarray(encode(batch))[:count]
            done += count
        return matrix

    return extract


def standardise(train: np.ndarray, others: list[np.ndarray]) -> None:
    """Gives every feature of `train` [examples, features] mean 0 and variance 1 in place, and shifts `others` alike."""
    mean = np.mean(train, 0, dtype=np.float64).astype(np.float32)
    squares = sum(np.square(part - mean).sum(0, dtype=np.float64) for part in np.array_split(train, 50))
    scale = np.sqrt(squares / len(train) + 1e-2).astype(np.float32)  # 0.01: the authors' demo
    for matrix in (train, *others):
        for part in np.array_split(matrix, 50):
            part -= mean
            part /= scale


def draw_patches(images: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Patches at random places of images drawn at random, uint8 [count, PATCH * PATCH * channels]."""
    height, width = images.shape[1:3]
    rows, columns = rng.integers(0, height - PATCH + 1, count), rng.integers(0, width - PATCH + 1, count)
    numbers = np.sort(rng.integers(0, len(images), count))
    down, across = np.arange(PATCH)[None, :, None], np.arange(PATCH)[None, None, :]
    patches = images[numbers[:, None, None], rows[:, None, None] + down, columns[:, None, None] + across]
    return patches.reshape(count, -1)


def _normalise(patches: jax.Array) -> jax.Array:
    """Patches [..., pixels] of levels 0 to 255 without their mean, over their standard deviation."""
    patches = patches.astype(jnp.float32)
    apart = patches - patches.mean(-1, keepdims=True)
    return apart / jnp.sqrt(jnp.var(patches, -1, ddof=1, keepdims=True) + _CONTRAST)


def whitening(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean [1, pixels] and symmetric whitening matrix [pixels, pixels] of patches [count, pixels]."""
    mean = patches.mean(0, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(np.asarray(patches, np.float64).T))
    return mean, jnp.asarray((vectors / np.sqrt(values + _WHITENING)) @ vectors.T, jnp.float32)


def fit(points: jax.Array, centroids: int, seed: int) -> jax.Array:
    """Centroids [centroids, pixels] of points [count, pixels] after ten rounds of Lloyd's algorithm.

    It starts at points drawn at random. A centroid that no point is nearest to stays.
    """
    first = np.random.default_rng([seed, 1]).choice(len(points), centroids, replace=False)
    centres = points[np.sort(first)]
    for _ in tqdm(range(_ROUNDS), desc="k-means", unit="round", disable=None):
        total, sizes = jnp.zeros_like(centres), jnp.zeros(centroids)
        for begin in range(0, len(points), _ROWS):
            part_total, part_sizes = _gather(points[begin : begin + _ROWS], centres)
            total, sizes = total + part_total, sizes + part_sizes
        centres = jnp.where(sizes[:, None] > 0, total / jnp.maximum(sizes, 1)[:, None], centres)
    return centres


@jax.jit
def _gather(points: jax.Array, centres: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum [centroids, pixels] and number [centroids] of the points that are nearest to each centroid."""
    nearest = (0.5 * jnp.square(centres).sum(1)[None] - points @ centres.T).argmin(1)
    chosen = jax.nn.one_hot(nearest, len(centres), dtype=points.dtype)
    return chosen.T @ points, chosen.sum(0)


def _encode(mean: jax.Array, white: jax.Array, centres: jax.Array, images: jax.Array) -> jax.Array:
    """Features [batch, 4 * centroids] of uint8 images [batch, height, width, channels]."""
    parts = images.reshape(-1, min(_AT_ONCE, len(images)), *images.shape[1:])
    return lax.map(partial(_encode_part, mean, white, centres), parts).reshape(len(images), -1)


def _encode_part(mean: jax.Array, white: jax.Array, centres: jax.Array, images: jax.Array) -> jax.Array:
    # [batch, height - 5, width - 5, channels * 36]; the pixels of a channel lie together.
    patches = lax.conv_general_dilated_patches(
        images.astype(jnp.float32), (PATCH, PATCH), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    channels = images.shape[-1]
    patches = patches.reshape(*patches.shape[:-1], channels, -1).swapaxes(-1, -2).reshape(patches.shape)
    points = (_normalise(patches.reshape(-1, patches.shape[-1])) - mean) @ white
    square = jnp.square(points).sum(1, keepdims=True) - 2 * points @ centres.T + jnp.square(centres).sum(1)[None]
    apart = jnp.sqrt(jnp.maximum(square, 0))
    active = jnp.maximum(apart.mean(1, keepdims=True) - apart, 0).reshape(*patches.shape[:3], -1)
    rows, columns = active.shape[1] // 2, active.shape[2] // 2
    quadrants = [
        active[:, down, across].sum((1, 2))
        for down in (slice(rows), slice(rows, None))
        for across in (slice(columns), slice(columns, None))
    ]
    return jnp.concatenate(quadrants, 1)
