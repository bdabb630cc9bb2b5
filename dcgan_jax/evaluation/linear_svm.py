"""The discriminator as a feature extractor: a linear SVM on its convolutions [paper section 5, tables 1 and 2].

    python -m dcgan_jax.evaluation.linear_svm --workdir=runs/imagenet32 --source=tfds:cifar10
    python -m dcgan_jax.evaluation.linear_svm --workdir=runs/svhn --source=tfds:svhn_cropped --labels_per_class=100 \
        --test_draws=100 --supervised_trials=64

Features (discriminator_features.py) of a labelled data set that the network was not trained for, and a linear L2-SVM
(l2_svm.py), trained on the data set's training split with all its labels, or with few of them (--labels_per_class,
repeated with other draws). C is chosen on training images that are held out: a tenth, and the classifier is then
trained on all of them; or, with few labels, 10,000 (a fifth of a small set), and the labels are then drawn from the
others again. Two baselines stand beside it: the network before training, and the raw pixels in [-1, 1]; on demand a
supervised network of the same architecture (supervised_cnn.py), trained on the first draw of the same labels. The
images become what the run was trained on: its size, grey or RGB.

The second command is the protocol of the authors' SVHN script (svhn/svhn_semisup_analysis.py): for each C ten draws of
1,000 labels, 10,000 images for validation, 100 draws at the best C, the mean error and 1.96 standard deviations. For
CIFAR-10 the paper does not say how it chose C; the grid of that script is the default here.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from dcgan_jax import command_line
from dcgan_jax.datasets import classes as datasets_classes
from dcgan_jax.datasets import opening
from dcgan_jax.evaluation import discriminator_features, l2_svm, supervised_cnn
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import report
from dcgan_jax.reports.report import Figure, Report
from dcgan_jax.runs import run_flags, trained
from dcgan_jax.runs.trained import Run
from dcgan_jax.train_state import create_state

NAME = "linear_svm"
TITLE = "Discriminator features and a linear SVM (section 5, tables 1 and 2)"
C_GRID = ("1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e-2")  # svhn/svhn_semisup_analysis.py
DRAWS = 10  # of the labels, where there are few
# Paper tables 1 (CIFAR-10 with the network trained on ImageNet: all labels, and 400 a class) and 2 (SVHN, 1,000 labels;
# the supervised network's figure is its validation error).
PAPER: dict[str, Any] = {
    "cifar10": {"accuracy": 0.828, "accuracy_400_per_class": 0.738, "std_400_per_class": 0.004},
    "svhn_cropped": {"error_100_per_class": 0.2248, "supervised_error_100_per_class": 0.2887},
}
_HELD_OUT = 0.1  # of the training images, for the choice of C
_VALIDATION = 10_000  # images for the choice of C where there are few labels (svhn/svhn_semisup_analysis.py)


def draw_per_class(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of `per_class` examples of every class that occurs, in random order. ValueError if there are fewer."""
    if (fewest := int(np.unique(labels, return_counts=True)[1].min())) < per_class:
        raise ValueError(f"{per_class} examples of each class, but one has {fewest}")
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    return rng.permutation(np.concatenate(chosen))


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
    """Features [examples, features], or images [examples, height, width, channels], and labels int32 [examples]."""

    features: np.ndarray
    labels: np.ndarray

    def take(self, numbers: np.ndarray) -> "Split":
        return Split(self.features[numbers], self.labels[numbers])


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

    `name` of the features stands beside the progress bars.

    Returns:
      c; accuracy on `test`, mean over draws; std over draws (None without draws); held_out: accuracy for each C;
      fit_seconds: of the last fit.
    """
    few = protocol.per_class > 0
    held_out, rest = hold_out(len(train.labels), protocol)

    accuracies = np.zeros(len(protocol.grid))
    if len(protocol.grid) > 1:
        validation = train.take(held_out)
        for number in range(protocol.draws if few else 1):
            drawn = training_examples(train.labels, rest, protocol, number)
            x, labels, fitted = l2_svm.to_device(train.features, drawn), train.labels[drawn], None
            for i, c in enumerate(protocol.grid):
                fitted = l2_svm.fit(x, labels, classes, c, f"{name}: C = {c:g}", start=fitted)
                accuracies[i] += (fitted.predict(validation.features) == validation.labels).mean()
            del x
        del validation  # these are large
    best, scores, seconds = protocol.grid[int(accuracies.argmax())], [], 0.0
    for i in range(protocol.test_draws if few else 1):
        everything = np.arange(len(train.labels))
        chosen = training_examples(train.labels, rest, protocol, protocol.draws + i) if few else everything
        x = l2_svm.to_device(train.features, chosen)
        begin = time.monotonic()
        fitted = l2_svm.fit(x, train.labels[chosen], classes, best, f"{name}: {i + 1} at C = {best:g}")
        seconds = time.monotonic() - begin
        del x
        scores.append(float((fitted.predict(test.features) == test.labels).mean()))
    return {
        "c": best,
        "accuracy": float(np.mean(scores)),
        "std": float(np.std(scores)) if few else None,
        "held_out": (accuracies / (protocol.draws if few else 1)).tolist(),
        "fit_seconds": seconds,
    }


def measure(
    run: Run,
    *,
    source: str = "tfds:cifar10",
    test_source: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    data_dir: str | None = None,
    labels_per_class: int = 0,
    draws: int = DRAWS,
    test_draws: int | None = None,
    supervised_trials: int = 0,
    supervised_steps: int = 1000,
    c: Sequence[float | str] = C_GRID,
    layers: int | None = None,
    seed: int = 0,
) -> Report:
    """Measures the trained network, the untrained one and pixels, one after the other; see the module.

    Features are kept in the run's folder while they are needed.

    Args:
      run: a trained run of an unconditional network.
      source: labelled images, as config.data.source says.
      test_source: images to test on; None: another split of `source`.
      train_split, test_split: of the sources; for folders, 'train'.
      data_dir: TFDS data folder; None: the run's.
      labels_per_class: labels of each class that are used; 0: all.
      draws: of few labels, for the choice of C.
      test_draws: of few labels, for testing; None: as many.
      supervised_trials: networks of the random search of a supervised baseline; 0: no baseline.
      supervised_steps: training steps of each.
      c: values of C to choose from, or their texts; a single one is taken as it is.
      layers: how many of the discriminator's first convolutions give features; 0: all; None: those that were
        imported, where a run has some only (dcgan_jax.import_weights --layers), otherwise all.
      seed: of draws and held-out images.

    Returns:
      'trained', 'untrained', 'pixels' as of `evaluate`, with the number of 'features'; 'supervised' as of
      `supervised_cnn.search`; and the settings.

    Raises:
      UserError: the network gives no features, or the images have no labels, or too few.
    """
    run.need_discriminator(whole=False)
    discriminator_features.check_config(run.config)
    if layers is None:
        layers = run.imported_layers or 0
    if layers > (count := len(run.discriminator.stages)):
        raise UserError(f"--layers={layers}, but the discriminator has {count} convolutions.")
    protocol = Protocol(_read_grid(c), labels_per_class, draws, test_draws or draws, seed)
    train, test, classes = _open_labelled(
        run.config, (source, train_split), (test_source or source, test_split), data_dir
    )
    if classes < 2:
        raise UserError(f"{source} has one class only: there is nothing to tell apart.")
    held_out, rest = hold_out(len(train.labels), protocol)
    fewest = int(np.unique(train.labels[rest], return_counts=True)[1].min())
    if labels_per_class > fewest:
        raise UserError(
            f"--labels_per_class={labels_per_class}, but one class has only {fewest} images beside the "
            f"{len(held_out):,} that choose C."
        )

    figures = [Figure("step", run.step), Figure("source", source), Figure("layers", layers)]
    figures += [Figure(name, value) for name, value in protocol._asdict().items()]
    fresh = jax.jit(partial(create_state, run.gan))().discriminator
    with tempfile.TemporaryDirectory(dir=run.workdir) as folder:
        for name, player in (("trained", run.state.discriminator), ("untrained", fresh), ("pixels", None)):
            if player is None:
                sets = [Split(_pixels(data.features), data.labels) for data in (train, test)]
            else:
                extract = discriminator_features.make_extractor(
                    run.config, player.variables, train.features, f"{name}: batch statistics", layers
                )
                sets = [
                    Split(extract(data.features, Path(folder) / f"{which}.npy", f"{name}: {which}"), data.labels)
                    for which, data in (("train", train), ("test", test))
                ]
            count = sets[0].features.shape[1]
            outcome = evaluate(sets[0], sets[1], classes, protocol, name) | {"features": count}
            text = f"{name}: accuracy, {count:,} features, C = {outcome['c']:g}"
            paper = _paper(source, labels_per_class) if name == "trained" else ""
            figures.append(Figure(name, outcome, text, _in_words(outcome), paper_here=paper))
    if supervised_trials:
        drawn, validation = train.take(training_examples(train.labels, rest, protocol, 0)), train.take(held_out)
        found = supervised_cnn.search(run.config, drawn, validation, test, supervised_trials, supervised_steps, seed)
        text = f"supervised network, best of {supervised_trials} trials: accuracy (held-out images)"
        here = f"{100 * found['accuracy']:.1f} % ({100 * found['held_out']:.1f} %)"
        error = PAPER["svhn_cropped"]["supervised_error_100_per_class"]
        paper = f"({100 * (1 - error):.1f} %)" if _is_svhn(source, labels_per_class) else ""
        figures.append(Figure("supervised", found, text, here, paper_here=paper))
    return Report(TITLE, figures, paper=PAPER)


def main() -> None:
    run = trained.load(_WORKDIR.value, _STEP.value)
    found = measure(
        run,
        source=_SOURCE.value,
        test_source=_TEST_SOURCE.value,
        train_split=_TRAIN_SPLIT.value,
        test_split=_TEST_SPLIT.value,
        data_dir=_DATA_DIR.value,
        labels_per_class=_LABELS_PER_CLASS.value,
        draws=_DRAWS.value,
        test_draws=_TEST_DRAWS.value,
        supervised_trials=_SUPERVISED_TRIALS.value,
        supervised_steps=_SUPERVISED_STEPS.value,
        c=_C.value,
        layers=_LAYERS.value,
        seed=_SEED.value,
    )
    report.publish(report.folder(run.workdir, "evaluation", NAME), found)


def _in_words(outcome: dict[str, Any]) -> str:
    accuracy, std = 100 * outcome["accuracy"], outcome["std"]
    if std is None:
        return f"{accuracy:.1f} %"
    return f"{accuracy:.1f} ± {100 * std:.1f} % (error {100 - accuracy:.1f} ± {196 * std:.1f} %)"


def _is_svhn(source: str, per_class: int) -> bool:
    """Whether this is the paper's protocol: SVHN, 1,000 labels."""
    return source == "tfds:svhn_cropped" and per_class == 100


def _paper(source: str, per_class: int) -> str:
    """The paper's figure, where it has one for this source and number of labels."""
    if _is_svhn(source, per_class):
        return f"error {100 * PAPER['svhn_cropped']['error_100_per_class']:.2f} %"
    if source == "tfds:cifar10" and per_class in (0, 400):
        accuracy, few, std = (100 * value for value in PAPER["cifar10"].values())
        return f"{few:.1f} ± {std:.1f} %" if per_class else f"{accuracy:.1f} %"
    return ""


def _read_grid(values: Sequence[float | str]) -> tuple[float, ...]:
    """The values in rising order. Raises UserError if one is not a positive number."""
    try:
        grid = tuple(sorted(float(value) for value in values))
    except ValueError:
        grid = ()
    if not grid or not all(0 < c < math.inf for c in grid):
        raise UserError(f"--c={','.join(map(str, values))} must be positive numbers, such as 1e-3,1e-2.")
    return grid


def _open_labelled(
    config: ConfigDict, train: tuple[str, str], test: tuple[str, str], data_dir: str | None
) -> tuple[Split, Split, int]:
    """Images for training and testing, with labels by the training classes' numbers, and how many classes there are.

    Args:
      config: of the run, whose size and channels uint8 images get, which are the features.
      train, test: source and split of each.
      data_dir: TFDS data folder; None: the config's.

    Raises:
      UserError: images have no labels, the test set has classes that the training set lacks, or both are the same.
    """
    sets = []
    for source, split in (train, test):
        sets.append(opening.open_others(config.data, source=source, split=split, folder=data_dir or ""))
        if sets[-1].labels is None:
            raise UserError(
                f"{source} has no labels: for an image folder, sort the images into one subfolder per class."
            )
    training, testing = sets
    if training.meta["sha256"] == testing.meta["sha256"]:
        raise UserError(
            f"the training and test images are the same ({train[0]}): give others by --test_source or --test_split."
        )
    assert training.labels is not None
    classes = len(training.class_names or ()) or int(training.labels.max()) + 1
    testing = datasets_classes.numbered_like(testing, training.class_names, f"the test set {test[0]}", classes)
    assert testing.labels is not None
    return Split(training.images, training.labels), Split(testing.images, testing.labels), classes


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / np.float32(127.5) - np.float32(1)


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of a trained run.", required=True)
    _STEP = run_flags.define_step_flag()
    _SOURCE = flags.DEFINE_string("source", "tfds:cifar10", "Labelled images, as config.data.source says.")
    _TEST_SOURCE = flags.DEFINE_string("test_source", None, "Images to test on; default: another split of --source.")
    _TRAIN_SPLIT = flags.DEFINE_string("train_split", "train", "Split to train on.")
    _TEST_SPLIT = flags.DEFINE_string("test_split", "test", "Split to test on; for folders, give 'train'.")
    _DATA_DIR = command_line.define_path("data_dir", None, "TFDS data folder; default: the run's.")
    _LABELS_PER_CLASS = flags.DEFINE_integer(
        "labels_per_class", 0, "Labels of each class that are used; 0: all.", lower_bound=0
    )
    _DRAWS = flags.DEFINE_integer("draws", DRAWS, "Draws of few labels, for the choice of C.", lower_bound=1)
    _TEST_DRAWS = flags.DEFINE_integer("test_draws", None, "For testing; default: as many.", lower_bound=1)
    _SUPERVISED_TRIALS = flags.DEFINE_integer(
        "supervised_trials", 0, "Networks of the random search of a supervised baseline; 0: no baseline.", lower_bound=0
    )
    _SUPERVISED_STEPS = flags.DEFINE_integer("supervised_steps", 1000, "Training steps of each.", lower_bound=1)
    _C = flags.DEFINE_list("c", list(C_GRID), "Values of C to choose from; a single one is taken as it is.")
    _LAYERS = flags.DEFINE_integer(
        "layers", None, "First convolutions that give features, 0: all; default: those imported, or all.", lower_bound=0
    )
    _SEED = flags.DEFINE_integer("seed", 0, "Of draws and held-out images.", lower_bound=0)
    command_line.run(main)
