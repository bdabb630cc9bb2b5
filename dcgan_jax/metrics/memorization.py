"""Does a generator draw its training images again?

A sample counts as memorised if it is nearer to some training image than 95 % of held-out images are to theirs, in a
feature space. Of a generator that draws like the data's distribution 5 % of the samples do; of one that copies, all.
Networks that saw the training images mirrored too (config.data.flip) may copy either: the mirror images count as
training images then, for samples and for held-out images.
The idea of comparing samples' distances to the training set with held-out images' is that of Meehan, Chaudhuri and
Dasgupta 2020; the share is this project's own.
"""

import functools

import jax.numpy as jnp
import numpy as np

from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import nearest
from dcgan_jax.metrics.feature_spaces import FeatureSpace
from dcgan_jax.reports import image_grid

_NEAR = 0.05  # share of held-out images that are nearer to a training image than the limit
_ROUNDING = 2e-6  # of a squared distance, in float32, relative to the squared norm of the features
_PART = 12_800  # training images whose features are made at a time
_BLOCK = 2048  # training images that are compared at a time


class Memorization:
    """What is known of the training images and of held-out ones; looked at when first asked."""

    def __init__(self, space: FeatureSpace, training: ImageDataset, held_out: ImageDataset, *, mirrored: bool) -> None:
        """`mirrored`: whether config.data.flip mirrored the training images. Raises UserError if both are the same."""
        if held_out.has_images_of(training):
            raise UserError("the held-out images are those of training: name another split or source.")
        self._space, self._training, self._held_out, self._mirrored = space, training, held_out, mirrored

    def share(self, features: np.ndarray) -> float:
        """Share of samples, float32 [count, features], that count as memorised."""
        return share_within(features, self.training_features, self._limit)

    def nearest_sheet(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [count, height, width, channels] in a row, and below each its nearest training image."""
        features = self._space.embed(images).features
        return nearest_sheet(images, features, self._training.images, self.training_features)

    @functools.cached_property
    def training_features(self) -> np.ndarray:
        """Of all training images, `embed_all`: 2 KB each for a probe's 500."""
        return embed_all(self._space, self._training.images, mirrored=self._mirrored)

    @functools.cached_property
    def held_out_distances(self) -> np.ndarray:
        """Of held-out images to their nearest training images, float32 [images]."""
        held_out = self._space.embed(nearest.some(self._held_out.images)).features
        return nearest_distances(held_out, self.training_features)

    @functools.cached_property
    def _limit(self) -> float:
        return limit_of(self.training_features, self.held_out_distances)


def limit_of(training_features: np.ndarray, held_out_distances: np.ndarray) -> float:
    """The distance within which a sample counts as memorised.

    Args:
      training_features: float32 [images, features].
      held_out_distances: [images], from held-out images to their nearest training images.
    """
    # Of copies, which may be among the held-out images.
    rounding = np.sqrt(_ROUNDING * np.square(training_features).sum(1).max())
    return float(max(np.quantile(held_out_distances, _NEAR), rounding))


def share_within(features: np.ndarray, training_features: np.ndarray, limit: float) -> float:
    """Share of samples, float32 [count, features], that are within `limit` of a training image."""
    return float((nearest_distances(features, training_features) <= limit).mean())


def embed_all(space: FeatureSpace, images: np.ndarray, *, mirrored: bool) -> np.ndarray:
    """Features of uint8 images [images, height, width, channels], which are read in parts.

    Returns:
      float32 [images, features]; if they are `mirrored`, twice as many rows: the images, then their mirror images.
    """
    sets = (images, images[:, :, ::-1]) if mirrored else (images,)
    starts = range(0, len(images), _PART)
    return np.concatenate([space.embed(part[begin : begin + _PART]).features for part in sets for begin in starts])


def nearest_sheet(
    images: np.ndarray, features: np.ndarray, training: np.ndarray, training_features: np.ndarray
) -> np.ndarray:
    """Images in a row above those of `training` whose features are nearest to theirs, one uint8 image.

    `training_features`: of `embed_all`. What is nearest as a mirror image is shown as one.
    """
    numbers = [int(np.square(training_features - one).sum(1).argmin()) for one in features]
    below = [training[n] if n < len(training) else training[n - len(training)][:, ::-1] for n in numbers]
    return image_grid.make_grid(np.concatenate([images, below]), len(images))


def nearest_distances(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Euclidean distances float32 [queries] to the nearest of rows [count, features]."""
    neighbors = nearest.Neighbors(queries)
    for begin in range(0, len(rows), _BLOCK):
        neighbors.add(jnp.asarray(np.resize(rows[begin : begin + _BLOCK], (_BLOCK, rows.shape[1]))))
    return neighbors.distances()
