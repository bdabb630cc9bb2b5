"""How a linear SVM is trained and tested on features of labelled images [paper section 5].

C is chosen on training examples that are held out: a tenth, and the classifier is then trained on all of them; or, with
few labels, 10,000 (a fifth of a small set), and the labels are then drawn from the others again. Test examples are
seen once, by the classifiers of the C that was chosen.

Mirrored copies are an option that the paper does not use: the mirrored training examples are trained on as well, and
the scores of an example and of its mirror image are added before the class is chosen.
"""

import logging
import time
from typing import Any, NamedTuple

import numpy as np

from dcgan_jax.evaluation import l2_svm
from dcgan_jax.evaluation.l2_svm import LinearClassifier

_HELD_OUT = 0.1  # of the training images, for the choice of C
_VALIDATION = 10_000  # images for the choice of C where there are few labels (svhn/svhn_semisup_analysis.py)
_UNSOLVED = 1e-3  # relative gradient that is left above which a fit is said not to have converged

_log = logging.getLogger(__name__)


class Protocol(NamedTuple):
    """How a classifier is trained and tested.

    Attributes:
      grid: values of C, ascending.
      per_class: labels of each class that are used; 0 for all.
      draws: of the labels for the choice of C, if they are few.
      test_draws: other draws of the labels, with the C that was chosen, for testing.
      seed: of the draws and of what is held out.
    """

    grid: tuple[float, ...]
    per_class: int
    draws: int
    test_draws: int
    seed: int


class Split(NamedTuple):
    """Examples of one kind.

    Attributes:
      features: [examples, features], or images [examples, height, width, channels].
      labels: int32 [examples].
      mirrored: features of the mirrored images, in the same order; None where they are not used.
    """

    features: np.ndarray
    labels: np.ndarray
    mirrored: np.ndarray | None = None

    def take(self, numbers: np.ndarray) -> "Split":
        mirrored = None if self.mirrored is None else self.mirrored[numbers]
        return Split(self.features[numbers], self.labels[numbers], mirrored)

    def columns(self, begin: int, end: int) -> "Split":
        """The same examples with some of the features."""
        mirrored = None if self.mirrored is None else self.mirrored[:, begin:end]
        return Split(self.features[:, begin:end], self.labels, mirrored)


def draw_per_class(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of `per_class` examples of every class that occurs, in random order. ValueError if there are fewer."""
    if (fewest := int(np.unique(labels, return_counts=True)[1].min())) < per_class:
        raise ValueError(f"{per_class} examples of each class, but one has {fewest}")
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    return rng.permutation(np.concatenate(chosen))


def hold_out(count: int, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training examples that choose C, and of the others, both ascending."""
    order = np.random.default_rng(protocol.seed).permutation(count)
    held_out = min(_VALIDATION, count // 5) if protocol.per_class else round(_HELD_OUT * count)
    return np.sort(order[:held_out]), np.sort(order[held_out:])


def training_examples(labels: np.ndarray, rest: np.ndarray, protocol: Protocol, number: int) -> np.ndarray:
    """Numbers of the training examples of a draw, from `rest`; all of them if labels are not few."""
    if not protocol.per_class:
        return rest
    rng = np.random.default_rng([protocol.seed, 1, number])
    return rest[draw_per_class(labels[rest], protocol.per_class, rng)]


def evaluate(train: Split, test: Split, classes: int, protocol: Protocol, name: str) -> dict[str, Any]:
    """Chooses C on held-out training examples if there is a choice, then trains and tests.

    Warns where the best C is the first or the last of several, and where a fit has not converged.

    Args:
      train, test: features and labels, both with mirrored features or both without.
      classes: how many there are.
      protocol: see there.
      name: of the features, beside progress bars and in warnings.

    Returns:
      c; accuracy on `test`, mean over draws; std over draws (n - 1; None for a single one); held_out: accuracy for each
      C; edge: whether C is at an end of the grid; gradient_left: largest relative gradient that a fit was left with;
      fit_seconds: of the last fit.
    """
    few = protocol.per_class > 0
    held_out, rest = hold_out(len(train.labels), protocol)

    accuracies, left = np.zeros(len(protocol.grid)), [0.0]
    if len(protocol.grid) > 1:
        validation = train.take(held_out)
        for number in range(protocol.draws if few else 1):
            drawn = training_examples(train.labels, rest, protocol, number)
            x, labels = _rows(train, drawn)
            fitted = None
            for i, c in enumerate(protocol.grid):
                fitted = l2_svm.fit(x, labels, classes, c, f"{name}: C = {c:g}", start=fitted)
                left.append(fitted.gradient_left)
                accuracies[i] += _accuracy(fitted, validation)
            del x
        del validation  # these are large
    best, scores, seconds = int(accuracies.argmax()), [], 0.0
    c = protocol.grid[best]
    for i in range(protocol.test_draws if few else 1):
        everything = np.arange(len(train.labels))
        chosen = training_examples(train.labels, rest, protocol, protocol.draws + i) if few else everything
        x, labels = _rows(train, chosen)
        begin = time.monotonic()
        fitted = l2_svm.fit(x, labels, classes, c, f"{name}: {i + 1} at C = {c:g}")
        seconds = time.monotonic() - begin
        del x
        left.append(fitted.gradient_left)
        scores.append(_accuracy(fitted, test))
    edge = len(protocol.grid) > 1 and best in (0, len(protocol.grid) - 1)
    if edge:
        side = "smaller" if best == 0 else "larger"
        _log.warning("%s: the best C, %g, is at the end of --c: a %s one may be better.", name, c, side)
    if max(left) > _UNSOLVED:
        _log.warning("%s: a fit has not converged: %.0e of its first gradient is left.", name, max(left))
    return {
        "c": c,
        "accuracy": float(np.mean(scores)),
        "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "held_out": (accuracies / (protocol.draws if few else 1)).tolist(),
        "edge": edge,
        "gradient_left": max(left),
        "fit_seconds": seconds,
    }


def _rows(train: Split, numbers: np.ndarray) -> tuple[Any, np.ndarray]:
    """Features on the device and labels of some examples, and after them those of their mirror images."""
    if train.mirrored is None:
        return l2_svm.to_device([train.features], numbers), train.labels[numbers]
    return l2_svm.to_device([train.features, train.mirrored], numbers), np.tile(train.labels[numbers], 2)


def _accuracy(classifier: LinearClassifier, split: Split) -> float:
    scores = classifier.scores(split.features)
    if split.mirrored is not None:
        scores = scores + classifier.scores(split.mirrored)
    return float((scores.argmax(1) == split.labels).mean())
