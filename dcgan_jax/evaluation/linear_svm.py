"""The discriminator as a feature extractor: a linear SVM on its convolutions [paper section 5.1, table 1].

    python -m dcgan_jax.evaluation.linear_svm --workdir=runs/imagenet32 --source=tfds:cifar10

Features (features.py) of a labelled data set that the network was not trained for, and a linear L2-SVM (l2_svm.py),
trained on the data set's training split with all its labels, or with few of them (--labels_per_class, repeated with
other draws). C is chosen on training images that are held out: a tenth, and the classifier is then trained on all of
them; or, with few labels, 10,000 (a fifth of a small set), and the labels are then drawn from the others again. Two
baselines stand beside it: the network as it began, before training, and the raw pixels in [-1, 1].

The paper does not say how it chose C; its grid for SVHN (svhn/svhn_semisup_analysis.py) is the default here.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from dcgan_jax import command_line, models, report, sample
from dcgan_jax.datasets import pack
from dcgan_jax.errors import UserError
from dcgan_jax.evaluation import features, l2_svm
from dcgan_jax.report import Report, Row
from dcgan_jax.train_state import create_state

NAME = "linear_svm"
C_GRID = ("1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e-2")  # svhn/svhn_semisup_analysis.py
DRAWS = 10  # of the labels, where there are few
# Paper table 1, CIFAR-10 with the network trained on ImageNet: all labels, and 400 a class.
PAPER: dict[str, Any] = {"accuracy": 0.828, "accuracy_400_per_class": 0.738, "std_400_per_class": 0.004}
_HELD_OUT = 0.1  # of the training images, for the choice of C
_VALIDATION = 10_000  # images for the choice of C where there are few labels (svhn/svhn_semisup_analysis.py)


def draw_per_class(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of `per_class` examples of every class that occurs, in random order."""
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    return rng.permutation(np.concatenate(chosen))


class Protocol(NamedTuple):
    """How a classifier is trained and tested.

    Attributes:
      grid: values of C, ascending.
      per_class: labels of each class that are used; 0 for all.
      draws: of the labels, if they are few.
      seed: of the draws and of what is held out.
    """

    grid: tuple[float, ...]
    per_class: int
    draws: int
    seed: int


class Split(NamedTuple):
    """Features [examples, features], or images [examples, height, width, channels], and labels int32 [examples]."""

    features: np.ndarray
    labels: np.ndarray

    def take(self, numbers: np.ndarray) -> "Split":
        return Split(self.features[numbers], self.labels[numbers])


def evaluate(train: Split, test: Split, classes: int, protocol: Protocol, what: str) -> dict[str, Any]:
    """Chooses C on held-out training examples, then trains and tests.

    Returns:
      c; accuracy on `test`, mean over draws; std over draws (None without draws); held_out: accuracy for each C.
    """
    rng = np.random.default_rng(protocol.seed)
    few = protocol.per_class > 0
    order = rng.permutation(len(train.labels))
    count = min(_VALIDATION, len(order) // 5) if few else round(_HELD_OUT * len(order))
    held_out, rest = train.take(np.sort(order[:count])), train.take(np.sort(order[count:]))

    def draw() -> Split:
        return rest.take(draw_per_class(rest.labels, protocol.per_class, rng)) if few else rest

    accuracies = np.zeros(len(protocol.grid))
    for _ in range(protocol.draws if few else 1):
        drawn, fitted = draw(), None
        x = jnp.asarray(drawn.features)
        for i, c in enumerate(protocol.grid):
            fitted = l2_svm.fit(x, drawn.labels, classes, c, f"{what}: C = {c:g}", start=fitted)
            accuracies[i] += (fitted.predict(held_out.features) == held_out.labels).mean()
        del x
    best = protocol.grid[int(accuracies.argmax())]
    scores = []
    for i in range(protocol.draws if few else 1):
        chosen = draw() if few else train
        fitted = l2_svm.fit(chosen.features, chosen.labels, classes, best, f"{what}: {i + 1} at C = {best:g}")
        scores.append(float((fitted.predict(test.features) == test.labels).mean()))
    return {
        "c": best,
        "accuracy": float(np.mean(scores)),
        "std": float(np.std(scores)) if few else None,
        "held_out": (accuracies / (protocol.draws if few else 1)).tolist(),
    }


def main() -> None:
    workdir = Path(_WORKDIR.value)
    config, state = sample.load_run(workdir, _STEP.value)
    features.check_config(config)
    grid = _read_grid(_C.value)
    train = _open_labelled(config, _SOURCE.value, _TRAIN_SPLIT.value)
    test = _open_labelled(config, _TEST_SOURCE.value or _SOURCE.value, _TEST_SPLIT.value)
    protocol = Protocol(grid, _LABELS_PER_CLASS.value, _DRAWS.value, _SEED.value)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    fewest = int(np.bincount(train.labels).min())
    if protocol.per_class > 0.8 * fewest:
        raise UserError(
            f"--labels_per_class={protocol.per_class}, but the smallest class has {fewest} images, of which a fifth is "
            "kept for the choice of C."
        )

    fresh = jax.jit(partial(create_state, config, *models.build_models(config)))().discriminator
    figures: dict[str, Any] = {"step": int(state.step), "source": _SOURCE.value, **protocol._asdict()}
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        for name, player in (("trained", state.discriminator), ("untrained", fresh), ("pixels", None)):
            if player is None:
                sets = [Split(_pixels(data.features), data.labels) for data in (train, test)]
            else:
                extract = features.make_extractor(
                    config, player.params, player.batch_stats, train.features, f"{name}: batch statistics"
                )
                sets = [
                    Split(extract(data.features, Path(folder) / f"{which}.npy", f"{name}: {which}"), data.labels)
                    for which, data in (("train", train), ("test", test))
                ]
            outcome = evaluate(sets[0], sets[1], classes, protocol, name)
            figures[name] = outcome | {"features": sets[0].features.shape[1]}
    rows = [
        Row(
            f"{name}: accuracy, {figures[name]['features']:,} features, C = {figures[name]['c']:g}",
            _in_words(figures[name]),
        )
        for name in ("trained", "untrained", "pixels")
    ]
    key = "accuracy_400_per_class" if protocol.per_class == 400 else "accuracy"
    if "cifar10" in _SOURCE.value and protocol.per_class in (0, 400):
        rows[0] = rows[0]._replace(paper=f"{100 * PAPER[key]:.1f} %")
    title = "Discriminator features and a linear SVM (section 5.1, table 1)"
    report.publish(report.folder(workdir, "evaluation", NAME), Report(title, figures, rows, [], PAPER))


def _in_words(outcome: dict[str, Any]) -> str:
    spread = f" ± {100 * outcome['std']:.1f}" if outcome["std"] is not None else ""
    return f"{100 * outcome['accuracy']:.1f}{spread} %"


def _read_grid(texts: list[str]) -> tuple[float, ...]:
    """Raises UserError if a value is not a positive number."""
    try:
        grid = tuple(sorted(float(text) for text in texts))
    except ValueError:
        grid = ()
    if not grid or grid[0] <= 0:
        raise UserError(f"--c={','.join(texts)} must be positive numbers, such as 1e-3,1e-2.")
    return grid


def _open_labelled(config: ConfigDict, source: str, split: str) -> Split:
    """uint8 images of the run's size and channels, as features. Raises UserError if there are none, or no labels."""
    data = config.data.copy_and_resolve_references()
    data.update(source=source, split=split, num_examples=0)
    if _DATA_DIR.value:
        data.dir = _DATA_DIR.value
    dataset = pack.open_or_build(data)
    if dataset.labels is None:
        raise UserError(f"{source} has no labels: for an image folder, sort the images into one subfolder per class.")
    return Split(dataset.images, dataset.labels)


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / np.float32(127.5) - np.float32(1)


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
    _STEP = flags.DEFINE_integer("step", None, "Checkpoint to use; default: the latest.")
    _SOURCE = flags.DEFINE_string("source", "tfds:cifar10", "Labelled images, as config.data.source says.")
    _TEST_SOURCE = flags.DEFINE_string("test_source", None, "Images to test on; default: another split of --source.")
    _TRAIN_SPLIT = flags.DEFINE_string("train_split", "train", "Split to train on.")
    _TEST_SPLIT = flags.DEFINE_string("test_split", "test", "Split to test on; for folders, give 'train'.")
    _DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS data folder; default: the run's.")
    _LABELS_PER_CLASS = flags.DEFINE_integer(
        "labels_per_class", 0, "Labels of each class that are used; 0: all.", lower_bound=0
    )
    _DRAWS = flags.DEFINE_integer("draws", DRAWS, "Draws of the labels, if they are few.", lower_bound=1)
    _C = flags.DEFINE_list("c", list(C_GRID), "Values of C to choose from.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of draws and held-out images.", lower_bound=0)
    command_line.run(main)
