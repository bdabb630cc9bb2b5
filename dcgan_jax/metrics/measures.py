"""Numbers for samples against the data, in one feature space; and the evaluations that training makes with them.

frechet     the Frechet distance of the features' moments, frechet.py; FID with Inception's features
kernel      the kernel distance, kid.py; over all pairs; KID with Inception's features
spread      total variance of the features, relative to the data's
precision, recall, density, coverage   prdc.py
score       inception_score.py, with Inception's logits
memorized   share of samples that are nearer to a training image than they should be, memorization.py;
            where held-out images are given
"""

import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dcgan_jax.config import FEWEST_SAMPLES
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_spaces, kid, nearest, prdc, reference
from dcgan_jax.metrics.feature_spaces import FeatureSpace
from dcgan_jax.metrics.frechet import frechet_distance, moments_of, spread
from dcgan_jax.metrics.inception_score import inception_score
from dcgan_jax.metrics.memorization import Memorization
from dcgan_jax.metrics.reference import Reference
from dcgan_jax.runs.sampler import Sampler
from dcgan_jax.train_state import Gan, GANState

Measure = Callable[[np.ndarray], dict[str, float]]


def make_measure(space: FeatureSpace, real: Reference, memorization: Memorization | None = None) -> Measure:
    """`measure(samples) -> {name: number}` of uint8 samples [count, height, width, channels].

    Precision, recall, density and coverage depend on how many rows there are: both sides have as many, drawn at random.

    Raises:
      UserError: the reference has too few images; `measure` raises it for samples.
    """
    _check_count(len(real.features), "images to compare with")

    def measure(samples: np.ndarray) -> dict[str, float]:
        _check_count(len(samples), "samples")
        features, logits = space.embed(samples, "features of the samples")
        moments = moments_of(features)
        found = {
            "frechet": frechet_distance(moments, real.moments),
            "kernel": kid.whole_distance(features, real.features),
            "spread": spread(moments, real.moments),
        }
        count = min(len(features), len(real.features))
        chosen = np.random.default_rng(0).permutation(len(features))[:count]  # they may be sorted by class
        found |= prdc.prdc(real.features[:count], features[chosen])._asdict()
        if memorization:
            found["memorized"] = memorization.share(features)
        if logits is not None:
            found["score"], found["score_std"] = inception_score(logits)
            if count >= kid.SUBSET_SIZE:
                subsets = kid.subset_distances(features, real.features)
                found["kernel_subsets"], found["kernel_subsets_std"] = subsets.mean(), subsets.std()
        return {space.measure(name): float(f"{value:.7g}") for name, value in found.items()}

    return measure


def _check_count(count: int, images: str) -> None:
    if count < FEWEST_SAMPLES:
        raise UserError(f"there are {count} {images}; at least {FEWEST_SAMPLES} are needed.")


def make_evaluate(
    config: ConfigDict, gan: Gan, dataset: ImageDataset, held_out: ImageDataset | None
) -> Callable[[GANState], dict[str, float]]:
    """`evaluate(state)`: config.eval.metrics of config.eval.num_samples samples, with frozen batch statistics.

    Besides, 'evaluation': a number that stands for all that the others depend on but for the samples. They are
    comparable where it is equal.

    Args:
      config: of the run.
      gan: its networks.
      dataset: the training images, which samples are compared with.
      held_out: others, which 'nnd' takes if they are there, and without which nothing can be memorised.

    Raises:
      UserError: 'inception' has no weights, images are too few, or the held-out ones are those of training.
    """
    measures: list[Measure] = []
    others = held_out or dataset
    identities: list[Any] = [config.eval.num_samples, others.meta.get("sha256")]
    for name in config.eval.metrics:
        if name == "nnd":
            measures.append(nearest.make_measure(config, others.images, others.labels))
        else:
            space = feature_spaces.inception() if name == "inception" else feature_spaces.without_download(dataset)
            memorization = None
            if held_out and name == "features":
                memorization = Memorization(space, dataset, held_out, mirrored=gan.flip)
            real = reference.open_or_build(None, space, dataset, config.eval.num_reference)
            measures.append(make_measure(space, real, memorization))
            identities.append(real.identity)
    number = zlib.crc32(json.dumps(identities, sort_keys=True).encode())
    sampler = Sampler(gan, "frozen")

    def evaluate(state: GANState) -> dict[str, float]:
        samples = sampler.images(state, config.eval.num_samples, config.seed)
        return {name: value for measure in measures for name, value in measure(samples).items()} | {
            "evaluation": number
        }

    return evaluate
