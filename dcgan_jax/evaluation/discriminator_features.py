"""Features of a discriminator for linear classifiers [paper section 5.1].

Activations of all convolutions (after the LeakyReLU), each max-pooled to a 4x4 grid, flattened and concatenated: 28,672
numbers for the paper's ImageNet network, 7,168 for its SVHN network (svhn/svhn_semisup_analysis.py pools by 4, 2, 1).
Others take averages over space instead, one number a map [Yang et al. 2022, Squeeze-and-Span]: `average`.
Batch normalisation uses statistics of the images that the features are for, estimated once and frozen, as there; of
12,800 of them drawn at random, where there are more.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from dcgan_jax.config import need_convolutions
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import frozen_statistics, models, pixels
from dcgan_jax.nets.models import Tree
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.runs.sampler import full_batches

GRID = 4
_STATISTICS_IMAGES = 12_800  # 100 batches: the mean of their moments, whose standard error is a tenth of a batch's
Extract = Callable[[np.ndarray, Path, str], np.ndarray]  # images, file, progress -> features, mapped from the file


def pool(maps: jax.Array, grid: int = GRID) -> jax.Array:
    """Maxima of maps [batch, height, width, features] over a grid of cells, [batch, grid, grid, features].

    A side that the grid does not divide has overlapping cells; one that is smaller stays as it is.
    """
    batch, height, width, features = maps.shape
    rows, columns = min(grid, height), min(grid, width)
    if height % rows == width % columns == 0:  # two thirds of the time of what follows (six layers, 128 images)
        maps = lax.optimization_barrier(maps)  # XLA would otherwise make them again for every cell
        return maps.reshape(batch, rows, height // rows, columns, width // columns, features).max((2, 4))
    pooled = jnp.stack([maps[:, cell].max(1) for cell in _cells(height, rows)], 1)
    return jnp.stack([pooled[:, :, cell].max(2) for cell in _cells(width, columns)], 2)


def _cells(side: int, count: int) -> list[slice]:
    return [slice(i * side // count, -(-(i + 1) * side // count)) for i in range(count)]


def flatten(taps: models.Taps, layers: int = 0, average: bool = False) -> jax.Array:
    """Features [batch, features] of a discriminator's taps, of the first `layers` convolutions; 0: of all.

    `average`: over all places, instead of maxima in the cells of a grid.
    """
    return jnp.concatenate(_by_layer(taps, layers, average), 1).astype(jnp.float32)


def _by_layer(taps: models.Taps, layers: int, average: bool) -> list[jax.Array]:
    """Features [batch, features of the layer] of each convolution."""
    convolutions = [maps for name, maps in taps.items() if name.startswith("conv")]
    pooled = [maps.mean((1, 2)) if average else pool(maps) for maps in convolutions[: layers or None]]
    return [maps.reshape(len(maps), -1) for maps in pooled]


def widths(config: ConfigDict, layers: int = 0, average: bool = False) -> list[int]:
    """How many features each convolution gives, in the order in which they stand side by side."""
    network = models.build_discriminator(config)
    shape = (1, *image_shape(config.data))
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(shape), train=False))

    def features(variables: Tree, images: jax.Array) -> list[jax.Array]:
        outputs: Any = network.apply(variables, images, train=False)
        return _by_layer(outputs[1], layers, average)

    return [shape.shape[1] for shape in jax.eval_shape(features, variables, images)]


def check_config(config: ConfigDict) -> None:
    """Raises UserError if the network has no convolutions, or is conditioned on the labels we want to predict."""
    need_convolutions(config, "discriminator")
    if config.model.num_classes:
        raise UserError("the run's discriminator is conditioned on labels: features need an unconditional one.")


def make_extractor(
    config: ConfigDict,
    variables: dict[str, Tree],
    images: np.ndarray,
    progress: str,
    layers: int = 0,
    average: bool = False,
) -> Extract:
    """`extract(images, file, progress) -> features`, with batch statistics of `images`.

    Args:
      config: of the run.
      variables: 'params' and 'batch_stats' of its discriminator.
      images: uint8 [count, height, width, channels], of which statistics are taken.
      progress: stands beside the progress bar.
      layers: how many of the first convolutions give features; 0: all.
      average: see `flatten`.

    Returns:
      A function that writes float32 [count, features] of uint8 images to `file` and gives them memory-mapped.

    Raises:
      UserError: see `check_config`.
    """
    check_config(config)
    network = models.build_discriminator(config)
    if len(images) > _STATISTICS_IMAGES:
        images = images[np.sort(np.random.default_rng(0).choice(len(images), _STATISTICS_IMAGES, replace=False))]
    batches = (
        (pixels.to_network(jnp.asarray(batch), config.model.output), None)
        for batch, _ in full_batches(images, progress)
    )
    estimate, params = frozen_statistics.make_estimate(network), variables["params"]
    frozen = {"params": params, "batch_stats": estimate(params, variables["batch_stats"], batches)}

    @jax.jit
    def features(variables: Tree, images: jax.Array) -> jax.Array:
        outputs: Any = network.apply(variables, pixels.to_network(images, config.model.output), train=False)
        return flatten(outputs[1], layers, average)

    def extract(images: np.ndarray, file: Path, progress: str) -> np.ndarray:
        width = jax.eval_shape(features, frozen, images[:1]).shape[1]
        matrix = np.lib.format.open_memmap(file, "w+", np.float32, (len(images), width))
        done = 0
        for batch, count in full_batches(images, progress):
            matrix[done : done + count] = np.asarray(features(frozen, batch))[:count]
            done += count
        return matrix

    return extract
