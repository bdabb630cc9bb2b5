"""Numbers for samples against the data, in one feature space; and the evaluations that training makes with them.

frechet     the Frechet distance of the features' moments, frechet.py; FID with Inception's features
kernel      the kernel distance, kid.py; KID with Inception's features
precision, recall, density, coverage   prdc.py
score       inception_score.py, with Inception's logits
memorized   share of samples that are nearer to a training image than they should be, memorization.py;
            where held-out images are given
"""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from dcgan_jax import sample
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.errors import UserError
from dcgan_jax.evaluation import feature_spaces, kid, nearest, prdc, reference
from dcgan_jax.evaluation.feature_spaces import FeatureSpace
from dcgan_jax.evaluation.frechet import frechet_distance, moments_of
from dcgan_jax.evaluation.inception_score import inception_score
from dcgan_jax.evaluation.memorization import Memorization
from dcgan_jax.evaluation.reference import Reference
from dcgan_jax.train_state import GANState

Measure = Callable[[np.ndarray], dict[str, float]]


def make_measure(space: FeatureSpace, real: Reference, memorization: Memorization | None = None) -> Measure:
    """`measure(samples) -> {name: number}` of uint8 samples [count, height, width, channels].

    Precision, recall, density and coverage depend on how many rows there are: both sides have as many.

    Raises:
      UserError: the reference has too few images.
    """
    if len(real.features) <= prdc.NEAREST:
        raise UserError(f"there are {len(real.features)} images to compare with; more than {prdc.NEAREST} are needed.")

    def measure(samples: np.ndarray) -> dict[str, float]:
        features, logits = space.embed(samples, "features of the samples")
        found = {
            "frechet": frechet_distance(moments_of(features), real.moments),
            "kernel": kid.whole_distance(features, real.features),
        }
        count = min(len(features), len(real.features))
        found |= prdc.prdc(real.features[:count], features[:count])._asdict()
        if memorization:
            found["memorized"] = memorization.share(features)
        if logits is not None:
            found["score"], found["score_std"] = inception_score(logits)
        return {space.measure(name): round(value, 6) for name, value in found.items()}

    return measure


def make_evaluate(
    config: ConfigDict, dataset: ImageDataset, held_out: ImageDataset | None
) -> Callable[[GANState], dict[str, float]]:
    """`evaluate(state)`: config.eval.metrics of config.eval.num_samples samples, with frozen batch statistics.

    Args:
      config: of the run.
      dataset: the training images, which samples are compared with.
      held_out: others, which 'nnd' takes if they are there, and without which nothing can be memorised.

    Raises:
      UserError: the weights of 'inception' are not there.
    """
    measures: list[Measure] = []
    others = held_out or dataset
    for name in config.eval.metrics:
        if name == "nnd":
            measures.append(nearest.make_measure(config, others.images, others.labels))
        else:
            space = feature_spaces.inception() if name == "inception" else feature_spaces.without_download(dataset)
            memorization = Memorization(space, dataset, held_out) if held_out and name == "features" else None
            measures.append(make_measure(space, reference.open_or_build(None, space, dataset), memorization))
    draw = sample.make_draw_images(config, "frozen")

    def evaluate(state: GANState) -> dict[str, float]:
        samples = np.concatenate(list(draw(state, config.eval.num_samples, config.seed)))
        return {name: value for measure in measures for name, value in measure(samples).items()}

    return evaluate
