"""The discriminator as a feature extractor: a linear SVM on its convolutions [paper section 5, tables 1 and 2].

    python -m dcgan_jax.evaluation.linear_svm --workdir=runs/imagenet32 --source=tfds:cifar10
    python -m dcgan_jax.evaluation.linear_svm --workdir=runs/imagenet32 --source=tfds:cifar10 --labels_per_class=400 \
        --rows=trained,layers,untrained,pixels,k_means
    python -m dcgan_jax.evaluation.linear_svm --workdir=runs/svhn --source=tfds:svhn_cropped --labels_per_class=100 \
        --test_draws=100 --supervised_trials=64

Features (discriminator_features.py) of a labelled data set that the network was not trained for, and a linear L2-SVM
(l2_svm.py), trained on the data set's training split with all its labels, or with few of them (--labels_per_class,
repeated with other draws); svm_protocol.py says how C is chosen and what is held out. --rows are what is measured:

    trained      the run's discriminator
    layers       each of its convolutions alone
    untrained    the same network before training
    pixels       the raw pixels in [-1, 1]
    k_means      one layer of k-means on the same images (k_means.py)

On demand a supervised network of the same architecture (supervised_cnn.py), trained on the first draw of the same
labels, stands beside them. The images become what the run was trained on: its size, grey or RGB. All rows choose from
one grid of C. Two options are not the paper's: --flip (mirrored copies, svm_protocol.py) and --average.

The third command is the protocol of the authors' SVHN script (svhn/svhn_semisup_analysis.py): for each C ten draws of
1,000 labels, 10,000 images for validation, 100 draws at the best C, the mean error and 1.96 standard deviations. For
CIFAR-10 the paper does not say how it chose C. The grid is that of this script with two smaller values, which wider
networks choose.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from dcgan_jax import command_line
from dcgan_jax.datasets import classes as datasets_classes
from dcgan_jax.datasets import opening
from dcgan_jax.evaluation import discriminator_features, k_means, supervised_cnn
from dcgan_jax.evaluation.svm_protocol import Protocol, Split, evaluate, hold_out, training_examples
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import report
from dcgan_jax.reports.report import Figure, Report
from dcgan_jax.runs import run_flags, trained
from dcgan_jax.runs.trained import Run
from dcgan_jax.train_state import create_state

NAME = "linear_svm"
TITLE = "Discriminator features and a linear SVM (section 5, tables 1 and 2)"
C_GRID = ("1e-5", "3e-5", "1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e-2")  # from 1e-4: the authors' script
DRAWS = 10  # of the labels, where there are few
ROWS = ("trained", "layers", "untrained", "pixels", "k_means")
DEFAULT_ROWS = ("trained", "untrained", "pixels")
# Paper tables 1 (CIFAR-10 with the network trained on ImageNet: all labels, and 400 a class) and 2 (SVHN, 1,000 labels;
# the supervised network's figure is its validation error). The other rows are the baselines that they have: in table 1
# accuracy with all labels, then with 400 a class and its spread; in table 2 the error.
PAPER: dict[str, Any] = {
    "cifar10": {"accuracy": 0.828, "accuracy_400_per_class": 0.738, "std_400_per_class": 0.004},
    "svhn_cropped": {"error_100_per_class": 0.2248, "supervised_error_100_per_class": 0.2887},
    "cifar10_baselines": {
        "1 layer of k-means, 4,800 units": (0.806, 0.637, 0.007),
        "3 layers of k-means, learned receptive fields, 3,200 units": (0.820, 0.707, 0.007),
        "view-invariant k-means, 6,400 units": (0.819, 0.726, 0.007),
        "Exemplar CNN, 1,024 units": (0.843, 0.774, 0.002),
    },
    "svhn_cropped_baselines": {
        "KNN": 0.7793,
        "TSVM": 0.6655,
        "M1 + KNN": 0.6563,
        "M1 + TSVM": 0.5433,
        "M1 + M2": 0.3602,
        "SWWAE without dropout": 0.2783,
        "SWWAE with dropout": 0.2356,
    },
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
    rows: Sequence[str] = DEFAULT_ROWS,
    average: bool = False,
    flip: bool = False,
    seed: int = 0,
) -> Report:
    """Measures the rows one after the other; see the module.

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
      rows: of ROWS, what is measured.
      average: whether features are averages of the discriminator's maps over space, not maxima in a 4x4 grid.
      flip: whether mirrored copies are trained on and scored as well.
      seed: of draws, held-out images and k-means.

    Returns:
      'trained', 'untrained', 'pixels', 'k_means' and for 'layers' 'conv1', 'conv2', ... as of `svm_protocol.evaluate`,
      with the number of 'features'; 'supervised' as of `supervised_cnn.search`; and the settings.

    Raises:
      UserError: the network gives no features, or the images have no labels, or too few, or there is no such row.
    """
    if unknown := [row for row in rows if row not in ROWS]:
        raise UserError(f"--rows: {unknown[0]!r} is not one of {', '.join(ROWS)}.")
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
    figures += [Figure("average", average), Figure("flip", flip)]
    figures += [Figure(name, value) for name, value in protocol._asdict().items()]
    with tempfile.TemporaryDirectory(dir=run.workdir) as folder:
        wanted = [row for row in ROWS if row in rows]
        for name, sets in _features(run, wanted, train, test, layers, average, flip, seed, Path(folder)):
            count = sets[0].features.shape[1]
            outcome = evaluate(sets[0], sets[1], classes, protocol, name) | {"features": count}
            text = f"{name}: accuracy, {count:,} features, C = {outcome['c']:g}"
            paper = _paper(source, labels_per_class) if name == "trained" else ""
            figures.append(Figure(name, outcome, text, _in_words(outcome), paper_here=paper))
    figures += _baselines(source, labels_per_class)
    if supervised_trials:
        drawn, validation = train.take(training_examples(train.labels, rest, protocol, 0)), train.take(held_out)
        found = supervised_cnn.search(
            run.config, drawn[:2], validation[:2], test[:2], supervised_trials, supervised_steps, seed
        )
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
        rows=_ROWS.value,
        average=_AVERAGE.value,
        flip=_FLIP.value,
        seed=_SEED.value,
    )
    report.publish(report.folder(run.workdir, "evaluation", NAME), found)


def _features(
    run: Run,
    rows: Sequence[str],
    train: Split,
    test: Split,
    layers: int,
    average: bool,
    flip: bool,
    seed: int,
    folder: Path,
) -> Iterator[tuple[str, list[Split]]]:
    """Names of what is measured, and the training and test features of each; `train` and `test` hold images."""
    if "trained" in rows or "layers" in rows:
        extract = discriminator_features.make_extractor(
            run.config,
            run.state.discriminator.variables,
            train.features,
            "trained: batch statistics",
            layers,
            average,
        )
        sets = _extract(extract, train, test, flip, folder, "trained")
        if "trained" in rows:
            yield "trained", sets
        if "layers" in rows:
            begin = 0
            for i, width in enumerate(discriminator_features.widths(run.config, layers, average)):
                yield f"conv{i + 1}", [split.columns(begin, begin + width) for split in sets]
                begin += width
    if "untrained" in rows:
        fresh = jax.jit(partial(create_state, run.gan))().discriminator
        extract = discriminator_features.make_extractor(
            run.config, fresh.variables, train.features, "untrained: batch statistics", layers, average
        )
        yield "untrained", _extract(extract, train, test, flip, folder, "untrained")
    if "pixels" in rows:
        yield "pixels", _extract(lambda images, *_: _pixels(images), train, test, flip, folder, "pixels")
    if "k_means" in rows:
        extract = k_means.make_extractor(train.features, k_means.CENTROIDS, seed)
        sets = _extract(extract, train, test, flip, folder, "k_means")
        k_means.standardise(*_matrices(sets))
        yield "k_means", sets


def _extract(
    extract: discriminator_features.Extract, train: Split, test: Split, flip: bool, folder: Path, name: str
) -> list[Split]:
    """Features of both sets, and of their mirror images, in files of `folder`; the same files for every `name`."""
    sets = []
    for which, data in (("train", train), ("test", test)):
        features = extract(data.features, folder / f"{which}.npy", f"{name}: {which}")
        mirrored = None
        if flip:
            images = data.features[:, :, ::-1]
            mirrored = extract(images, folder / f"{which}_mirrored.npy", f"{name}: {which}, mirrored")
        sets.append(Split(features, data.labels, mirrored))
    return sets


def _matrices(sets: Sequence[Split]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The training features, and all others."""
    train, *others = [m for split in sets for m in (split.features, split.mirrored) if m is not None]
    return train, others


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
        return _table_1(tuple(PAPER["cifar10"].values()), per_class)
    return ""


def _table_1(values: tuple[float, ...], per_class: int) -> str:
    """A cell of the paper's table 1: accuracy with all labels, with 400 a class, and the latter's spread."""
    accuracy, few, std = (100 * value for value in values)
    return f"{few:.1f} ± {std:.1f} %" if per_class else f"{accuracy:.1f} %"


def _baselines(source: str, per_class: int) -> list[Figure]:
    """The other rows of the paper's table for this source and number of labels."""
    if _is_svhn(source, per_class):
        cells = {name: f"error {100 * error:.2f} %" for name, error in PAPER["svhn_cropped_baselines"].items()}
    elif source == "tfds:cifar10" and per_class in (0, 400):
        cells = {name: _table_1(values, per_class) for name, values in PAPER["cifar10_baselines"].items()}
    else:
        cells = {}
    return [Figure("", text=f"the paper's {name}", paper_here=cell) for name, cell in cells.items()]


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
    opening.need_apart(training, testing, train[0])
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
    _ROWS = flags.DEFINE_list("rows", list(DEFAULT_ROWS), f"What is measured, of {', '.join(ROWS)}.")
    _AVERAGE = flags.DEFINE_boolean("average", False, "Averages of the discriminator's maps over space, not maxima.")
    _FLIP = flags.DEFINE_boolean("flip", False, "Train on mirrored copies as well, and add the scores of both.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of draws, held-out images and k-means.", lower_bound=0)
    command_line.run(main)
