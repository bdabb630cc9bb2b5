"""The images that the samples of a study are compared with, and what is measured then.

    distance, spread            the Frechet distance (frechet.py), and the total variance relative to that of the
                                images, in the features of a probe (attribute_probe.py) that was trained on their
                                labels, or on those of --probe_source
    precision, recall, coverage in the same features, prdc.py
    second distance             the Frechet distance in the features of a second probe, which was trained independently
    memorized                   share of samples that are as near to a training image, or its mirror image if the run
                                mirrors, as 5 % of the held-out images are, in the first probe's features,
                                memorization.py
    gap                         mean D(x) over training images less that over held-out images: what D knows by heart

The images are the data's own, or held-out ones if config.eval.source or config.eval.split names some. The last two
measures, and probes that were trained on other images than the networks, come with held-out images only.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special
from ml_collections import ConfigDict

from dcgan_jax.config import FEWEST_SAMPLES
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe, memorization
from dcgan_jax.metrics.attribute_probe import AttributeProbe
from dcgan_jax.metrics.frechet import frechet_distance, moments_of, spread
from dcgan_jax.metrics.prdc import prdc
from dcgan_jax.runs.trained import Run

_SAMPLES = 5_000
_JUDGED = 1_000  # images of each kind for the gap
_PARTS = 3  # the seed of `_parts`


class Point(NamedTuple):
    """What is measured of samples, see the module; nan where there are no held-out images."""

    distance: float
    spread: float
    precision: float
    recall: float
    coverage: float
    second_distance: float
    memorized: float = math.nan
    gap: float = math.nan


Compare = Callable[[np.ndarray, bool], Point]


class RealImages(NamedTuple):
    """What samples are compared with.

    Attributes:
      probes: two of them.
      reference: uint8 [count, height, width, channels]; as many samples are to be compared.
      others: as many more images of the data; None: there are not so many. (Of fewer images the distance is larger, and
        the recall, too.)
      training: if there are held-out images, those of training; otherwise None. `reference` is then held out.
    """

    probes: list[AttributeProbe]
    reference: np.ndarray
    others: np.ndarray | None
    training: ImageDataset | None

    def gap(self, run: Run) -> float:
        """What D of an unconditional run gives training images more than held-out ones, mean sigmoid(logit); or nan."""
        if self.training is None or run.generator.num_classes:
            return math.nan
        # Drawn at random: images of a folder are in the order of their classes.
        parts = (_drawn(images, _JUDGED, seed=1) for images in (self.training.images, self.reference))
        known, unknown = (scipy.special.expit(run.discriminate(part)[0]).mean() for part in parts)
        return float(known - unknown)


def open_real_images(config: ConfigDict, probe_source: str, probe_split: str) -> RealImages:
    """The images of a config, and probes, which are trained where they are not there yet.

    Args:
      config: whose data are taken, and held-out images if config.eval.source or config.eval.split names some.
      probe_source, probe_split: labelled images that train the probes; '': those that samples are compared with.

    Raises:
      UserError: images cannot be opened, are too few, none have labels, or the held-out ones are those of training.
    """
    data, held_out = config.data, config.eval
    training, labelled = None, opening.open_or_build(data)
    if held_out.source or held_out.split:
        training, labelled = labelled, opening.open_others(data, source=held_out.source, split=held_out.split)
        opening.need_apart(training, labelled, held_out.source or data.source)
        [reference] = _parts(labelled.images, 1, "held-out images")
        others = None
        if len(training.images) >= len(reference):
            [others] = _parts(training.images, 1, "training images", most=len(reference))
    else:
        reference, others = _parts(labelled.images, 2, "images")
    if probe_source or probe_split:
        labelled = opening.open_others(data, source=probe_source, split=probe_split)
    if not attribute_probe.targets_of(labelled):
        raise UserError(
            f"{labelled.meta['source']} has neither labels nor attributes to train probes on: sort the images into a "
            "folder per class, or name other images by --probe_source, such as --probe_source=tfds:cifar10."
        )
    probes = [attribute_probe.open_or_train(labelled, seed) for seed in (0, 1)]
    return RealImages(probes, reference, others, training)


def _parts(images: np.ndarray, number: int, what: str, most: int = _SAMPLES) -> list[np.ndarray]:
    """`number` parts of `images`, drawn at random, that share none and are equally large, `most` images at most.

    Raises UserError, which calls them `what`, if a part would be smaller than FEWEST_SAMPLES.
    """
    count = min(most, len(images) // number)
    if count < FEWEST_SAMPLES:
        raise UserError(f"there are {len(images)} {what}; at least {number * FEWEST_SAMPLES} are needed.")
    order = np.random.default_rng(_PARTS).permutation(len(images))  # probes draw theirs with other seeds
    return [images[np.sort(order[i * count : (i + 1) * count])] for i in range(number)]


def _drawn(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` of the images, or all if there are fewer."""
    return images[np.sort(np.random.default_rng(seed).permutation(len(images))[:count])]


def make_compare(real_images: RealImages) -> Compare:
    """`compare(samples, mirrored) -> Point` of uint8 samples [count, height, width, channels], with all but the gap.

    `mirrored`: whether the run mirrored its training images.
    """
    probes = real_images.probes
    features, _ = real = [probe.embed(real_images.reference) for probe in probes]
    moments = [moments_of(rows) for rows in real]

    @functools.cache
    def known(mirrored: bool) -> tuple[np.ndarray, float]:
        """Features of the training images, and the distance within which a sample counts as memorised."""
        assert real_images.training is not None
        images = real_images.training.images
        training = np.concatenate([probes[0].embed(part) for part in (images, images[:, :, ::-1])[: 1 + mirrored]])
        return training, memorization.limit_of(training, memorization.nearest_distances(features, training))

    def compare(samples: np.ndarray, mirrored: bool) -> Point:
        drawn, _ = found = [probe.embed(samples) for probe in probes]
        of_samples = [moments_of(rows) for rows in found]
        distance, second = (frechet_distance(*pair) for pair in zip(of_samples, moments, strict=True))
        near = prdc(features, drawn)
        return Point(
            distance,
            spread(of_samples[0], moments[0]),
            near.precision,
            near.recall,
            near.coverage,
            second,
            math.nan if real_images.training is None else memorization.share_within(drawn, *known(mirrored)),
        )

    return compare
