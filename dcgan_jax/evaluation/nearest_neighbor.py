"""A nearest-neighbour classifier trained on generated images, tested on real ones [paper appendix, table 3].

    python -m dcgan_jax.evaluation.nearest_neighbor --workdir=runs/mnist --num=50000,1000000

Draws N labelled samples of a conditional generator and classifies real test images by the label of the nearest one, by
Euclidean distance of pixels. The better the classes are drawn and the more of each is covered, the fewer errors. Beside
it stands the same classifier trained on the real images that the generator was trained on. Smaller N are the beginning
of larger ones, so a run gives the whole curve; samples are streamed (nearest.py), so ten million need no more memory
than one.

The paper's table compares a DCGAN (configs/mnist.py) with a GAN of dense layers (configs/mnist_dense.py).
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from dcgan_jax import command_line
from dcgan_jax.datasets import batches, opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import nearest
from dcgan_jax.nets import pixels
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Picture, Report, Row
from dcgan_jax.runs import run_flags, trained

NAME = "nearest_neighbor"
# Table 3, test error on MNIST by number of samples, as remembered; the text's statements agree with it.
PAPER: dict[str, Any] = {
    "real": {"50000": 0.031},
    "dcgan": {"50000": 0.0298, "10000000": 0.0148},
    "gan": {"50000": 0.0628, "10000000": 0.0565},
}
_SHOWN = 10  # samples of each class, and wrongly read test images


def main() -> None:
    """Real images first, then samples in rising numbers, each the beginning of the next."""
    workdir = Path(_WORKDIR.value)
    config, state = trained.load_run(workdir, _STEP.value)
    if not config.model.num_classes:
        raise UserError(f"{workdir} holds an unconditional network: its samples have no labels to learn from.")
    counts = _read_counts(_NUM.value, config.model.num_classes)
    if _DATA_DIR.value:
        config.data.dir = _DATA_DIR.value
    train = opening.open_or_build(config.data)
    source, split = _TEST_SOURCE.value or config.data.source, _TEST_SPLIT.value
    test = opening.open_others(config.data, source=source, split=split)
    batches.check_labels(config, config.data.source, train)
    batches.check_labels(config, f"{source} {split}", test)
    assert test.labels is not None
    truth = test.labels
    queries = pixels.to_network(jnp.asarray(test.images), config.model.output).reshape(len(truth), -1)

    real = nearest.Neighbors(queries)
    nearest.add_images(real, train.images, train.labels, config.model.output, "real images of class")
    figures: dict[str, Any] = {
        "step": int(state.step),
        "seed": _SEED.value,
        "test_images": len(truth),
        "real": _measure(real, truth) | {"num": len(train.images)},
        "generated": [],
    }
    kind = "dcgan" if config.model.generator.stages else "gan"
    rows = [
        _row(
            f"trained on {len(train.images):,} real images", figures["real"], _paper(config, "real", len(train.images))
        )
    ]

    stream = nearest.make_stream(config, _SEED.value)
    variables = trained.make_sampling_variables(config, _NORM.value)(state)
    generated, done = nearest.Neighbors(queries), 0
    for count in counts:
        for samples, label in stream(**variables, begin=done, end=count, what=f"{count:,} samples"):
            generated.add(samples, label)
        done = count
        outcome = _measure(generated, truth)
        figures["generated"].append(outcome | {"num": count})
        rows.append(_row(f"trained on {count:,} samples", outcome, _paper(config, kind, count)))

    title = "Nearest-neighbour classifier trained on samples (appendix, table 3)"
    pictures = _pictures(config, variables, test, generated.labels())
    report.publish(report.folder(workdir, "evaluation", NAME), Report(title, figures, rows, pictures, PAPER))


def _measure(neighbors: nearest.Neighbors, truth: np.ndarray) -> dict[str, float]:
    return {
        "error": float((neighbors.labels() != truth).mean()),
        "nnd": float(neighbors.distances().mean()),
    }


def _row(what: str, outcome: dict[str, float], paper: str) -> Row:
    return Row(f"{what}: test error (mean distance)", f"{100 * outcome['error']:.2f} % ({outcome['nnd']:.3f})", paper)


def _paper(config: ConfigDict, kind: str, count: int) -> str:
    """The paper's figure for MNIST, where it has one."""
    if config.data.source != "tfds:mnist" or str(count) not in PAPER[kind]:
        return ""
    return f"{100 * PAPER[kind][str(count)]:.2f} %"


def _pictures(config: ConfigDict, variables: dict[str, Any], test: ImageDataset, found: np.ndarray) -> list[Picture]:
    """Samples, a class per column; and test images that are read wrongly."""
    assert test.labels is not None
    classes = config.model.num_classes
    generate = trained.make_generate(config)
    numbers = jnp.arange(_SHOWN * classes)
    samples = generate(**variables, z=trained.draw_noise_of(config, _SEED.value, numbers), labels=numbers % classes)
    pictures = [
        Picture("samples.png", image_grid.make_grid(np.asarray(samples), classes), "Samples, a class per column.")
    ]
    wrong = np.flatnonzero(found != test.labels)[: _SHOWN * classes]
    if len(wrong):
        read = ", ".join(f"{test.labels[i]} as {found[i]}" for i in wrong[:_SHOWN])
        caption = f"Test images whose nearest sample has another label, in rows. The first are {read}."
        pictures.append(Picture("errors.png", image_grid.make_grid(test.images[wrong], _SHOWN), caption))
    return pictures


def _read_counts(texts: list[str], classes: int) -> list[int]:
    """Raises UserError if they are not whole numbers of at least one sample a class."""
    try:
        counts = sorted({int(text.replace("_", "")) for text in texts})
    except ValueError:
        counts = []
    if not counts or counts[0] < classes or counts[-1] > 2**31 - 1:
        raise UserError(
            f"--num={','.join(texts)} must be whole numbers from {classes} (a sample of each class) to 2147483647, "
            "such as 50000,1000000."
        )
    return counts


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
    _STEP = run_flags.define_step_flag()
    _NUM = flags.DEFINE_list("num", ["50000"], "Numbers of samples, with commas.")
    _TEST_SOURCE = flags.DEFINE_string("test_source", None, "Images to test on; default: another split of the run's.")
    _TEST_SPLIT = flags.DEFINE_string("test_split", "test", "Split to test on; for folders, give 'train'.")
    _DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS data folder; default: the run's.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of the noise.", lower_bound=0, upper_bound=2**31 - 1)
    _NORM = flags.DEFINE_enum(
        "norm", "running", ("running", "frozen"), "Statistics of batch normalisation; see sample.py."
    )
    command_line.run(main)
