"""Inception score [Salimans et al. 2016] of class probabilities: exp(mean KL(p(y|x) || p(y))).

The network is the caller's choice; with another than Inception v3 it needs another name.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.special

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_blocks

SPLITS, SEED = 10, 2020  # of the paper's code, and of torch-fidelity


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits. The mean is from 1 to the number of classes."""

    mean: float
    std: float


def inception_score(logits: np.ndarray, splits: int = SPLITS, seed: int | None = SEED) -> InceptionScore:
    """The score, in float64, of as many equal parts of the samples as there are splits.

    Equal to torch-fidelity's, which shuffles the samples with np.random.RandomState(seed) before it splits them. Its
    logits are those without the last layer's bias.

    Args:
      logits: float [samples, classes]. Log-probabilities are logits too.
      splits: at least 1. Scores of one split and of ten are not comparable: more samples a split score higher.
      seed: of the shuffle; None: samples stay in order, as in the code of Salimans et al.

    Raises:
      UserError: there are fewer samples than splits, or see `feature_blocks.check_features`.
    """
    feature_blocks.check_features(logits=logits)
    if not 1 <= splits <= len(logits):
        raise UserError(f"{splits} splits of {len(logits)} samples: there must be from 1 to one a sample.")
    order = np.arange(len(logits)) if seed is None else np.random.RandomState(seed).permutation(len(logits))
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(logits[order[begin:end]]) for begin, end in pairwise(bounds)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: np.ndarray) -> float:
    log_p = scipy.special.log_softmax(logits.astype(np.float64), 1)
    p = np.exp(log_p)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_marginal = np.log(p.mean(0))
        divergence = np.where(p > 0, p * (log_p - log_marginal), 0.0)  # 0 log 0 is 0
    return float(np.exp(divergence.sum(1).mean()))
