"""A nearest-neighbour classifier trained on generated images, tested on real ones [paper appendix, table 3].

    python -m dcgan_jax.evaluation.nearest_neighbor --workdir=runs/mnist --num=50000,1000000

Draws N labelled samples of a conditional generator and classifies real test images by the label of the nearest one, by
Euclidean distance of pixels. The better the classes are drawn and the more of each is covered, the fewer errors. Beside
it stands the same classifier trained on the real images that the generator was trained on, and on those of another
split by --real_split: the authors trained on the first 50,000 images of MNIST, and its training set has 60,000; the
paper does not say of which its figure is. Smaller N are the beginning
of larger ones, so a run gives the whole curve; samples are streamed (nearest.py), so ten million need no more memory
than one.

The paper's table compares a DCGAN (configs/mnist.py) with a GAN of dense layers (configs/mnist_dense.py).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from dcgan_jax import command_line
from dcgan_jax.datasets import batches, opening
from dcgan_jax.datasets import classes as datasets_classes
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import nearest
from dcgan_jax.nets import pixels
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags, trained
from dcgan_jax.runs.trained import Run

NAME = "nearest_neighbor"
TITLE = "Nearest-neighbour classifier trained on samples (appendix, table 3)"
# Table 3, test error on MNIST by number of samples, as remembered; the text's statements agree with it.
PAPER: dict[str, Any] = {
    "real": {"50000": 0.031, "60000": 0.031},  # one figure, the number of images is not given
    "dcgan": {"50000": 0.0298, "10000000": 0.0148},
    "gan": {"50000": 0.0628, "10000000": 0.0565},
}
_SHOWN = 10  # samples of each class, and wrongly read test images


def measure(
    run: Run,
    *,
    num: Sequence[int | str] = (50_000,),
    test_source: str | None = None,
    test_split: str = "test",
    data_dir: str | None = None,
    real_split: str = "",
    seed: int = 0,
) -> Report:
    """Real images first, then samples in rising numbers, each the beginning of the next.

    Args:
      run: a trained run of a conditional network, whose norm is 'running' or 'frozen'.
      num: numbers of samples, or their texts.
      test_source: images to test on; None: another split of the run's.
      test_split: of `test_source`; for folders, 'train'.
      data_dir: TFDS data folder; None: the run's.
      real_split: another split of the run's images whose classifier stands beside; '': none.
      seed: of the noise.

    Returns:
      'real', 'real_split' (None without) and, for each number of samples, an entry of 'generated': test error, mean
      distance of a test image to the nearest image (nnd), and num.

    Raises:
      UserError: the network is unconditional, a number is too small or too large, the data cannot be used, or the test
        images are the training images.
    """
    config, classes = run.config, run.generator.num_classes
    if not classes:
        raise UserError(f"{run.workdir} holds an unconditional network: its samples have no labels to learn from.")
    counts = _read_counts(num, classes)
    data = config.data.copy_and_resolve_references()
    data.dir = data_dir or data.dir
    train = opening.open_or_build(data)
    test_source = test_source or data.source
    test = opening.open_others(data, source=test_source, split=test_split)
    opening.need_apart(train, test, test_source)
    others = opening.open_others(data, split=real_split) if real_split else None
    if others is not None:
        opening.need_apart(others, test, test_source)
        batches.check_labels(config, f"{data.source} {real_split}", others)
    batches.check_labels(config, data.source, train)
    batches.check_labels(config, f"{test_source} {test_split}", test)
    test = datasets_classes.numbered_like(test, train.class_names, f"{test_source} {test_split}", classes)
    assert test.labels is not None
    truth = test.labels
    queries = pixels.to_network(jnp.asarray(test.images), config.model.output).reshape(len(truth), -1)

    of_real, lines = [], []
    for dataset in [train] if others is None else [train, others]:
        real, count = nearest.Neighbors(queries), len(dataset.images)
        nearest.add_images(real, dataset.images, dataset.labels, config.model.output, "real images of class")
        of_real.append(_errors(real, truth) | {"num": count})
        lines.append(_line(f"{count:,} real images", of_real[-1], _paper(config, "real", count)))

    kind = "dcgan" if config.model.generator.stages else "gan"
    stream = nearest.make_stream(run.generator, seed)
    neighbors, done, of_samples = nearest.Neighbors(queries), 0, []
    for count in counts:
        for samples, label in stream(**run.variables, begin=done, end=count, progress=f"{count:,} samples"):
            neighbors.add(samples, label)
        done = count
        of_samples.append(_errors(neighbors, truth) | {"num": count})
        lines.append(_line(f"{count:,} samples", of_samples[-1], _paper(config, kind, count)))

    figures = [
        Figure("step", run.step),
        Figure("seed", seed),
        Figure("test_images", len(truth)),
        Figure("real", of_real[0]),
        Figure("real_split", None if others is None else of_real[1]),
        Figure("generated", of_samples),
        *lines,
    ]
    return Report(TITLE, figures, _pictures(run, seed, test, neighbors.labels()), paper=PAPER)


def main() -> None:
    run = trained.load(_WORKDIR.value, _STEP.value, _NORM.value)
    found = measure(
        run,
        num=_NUM.value,
        test_source=_TEST_SOURCE.value,
        test_split=_TEST_SPLIT.value,
        data_dir=_DATA_DIR.value,
        real_split=_REAL_SPLIT.value,
        seed=_SEED.value,
    )
    report.publish(report.folder(run.workdir, "evaluation", NAME), found)


def _errors(neighbors: nearest.Neighbors, truth: np.ndarray) -> dict[str, float]:
    return {
        "error": float((neighbors.labels() != truth).mean()),
        "nnd": float(neighbors.distances().mean()),
    }


def _line(images: str, found: dict[str, float], paper: str) -> Figure:
    here = f"{100 * found['error']:.2f} % ({found['nnd']:.3f})"
    return Figure("", text=f"trained on {images}: test error (mean distance)", here=here, paper_here=paper)


def _paper(config: ConfigDict, kind: str, count: int) -> str:
    """The paper's figure for MNIST, where it has one."""
    if config.data.source != "tfds:mnist" or str(count) not in PAPER[kind]:
        return ""
    return f"{100 * PAPER[kind][str(count)]:.2f} %"


def _pictures(run: Run, seed: int, test: ImageDataset, found: np.ndarray) -> list[Picture]:
    """Samples, a class per column; and test images that are read wrongly, as the labels int32 [count] `found`."""
    assert test.labels is not None
    sampler, classes = run.sampler, run.generator.num_classes
    count = _SHOWN * classes
    samples = sampler.generate(run.variables, sampler.noise(seed, 0, count), sampler.labels(0, count))
    pictures = [
        Picture("samples.png", image_grid.make_grid(np.asarray(samples), classes), "Samples, a class per column.")
    ]
    wrong = np.flatnonzero(found != test.labels)[:count]
    if len(wrong):
        read = ", ".join(f"{test.labels[i]} as {found[i]}" for i in wrong[:_SHOWN])
        caption = f"Test images whose nearest sample has another label, in rows. The first are {read}."
        pictures.append(Picture("errors.png", image_grid.make_grid(test.images[wrong], _SHOWN), caption))
    return pictures


def _read_counts(numbers: Sequence[int | str], classes: int) -> list[int]:
    """The numbers in rising order. Raises UserError if they are not whole, of at least one sample a class."""
    try:
        counts = sorted({int(str(number).replace("_", "")) for number in numbers})
    except ValueError:
        counts = []
    if not counts or counts[0] < classes or counts[-1] > 2**31 - 1:
        raise UserError(
            f"--num={','.join(map(str, numbers))} must be whole numbers from {classes} (a sample of each class) to "
            "2147483647, such as 50000,1000000."
        )
    return counts


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of a trained run.", required=True)
    _STEP = run_flags.define_step_flag()
    _NUM = flags.DEFINE_list("num", ["50000"], "Numbers of samples, with commas.")
    _TEST_SOURCE = flags.DEFINE_string("test_source", None, "Images to test on; default: another split of the run's.")
    _TEST_SPLIT = flags.DEFINE_string("test_split", "test", "Split to test on; for folders, give 'train'.")
    _DATA_DIR = command_line.define_path("data_dir", None, "TFDS data folder; default: the run's.")
    _REAL_SPLIT = flags.DEFINE_string("real_split", "", "Another split of the run's images to compare with.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", lower_bound=0, upper_bound=2**31 - 1)
    _NORM = flags.DEFINE_enum(
        "norm", "running", ("running", "frozen"), "Statistics of batch normalisation; see sampler.py."
    )
    command_line.run(main)
