"""What samples are worth in numbers, against the data.

    python -m dcgan_jax.evaluation.quality --workdir=runs/cifar10 --all_checkpoints
    python -m dcgan_jax.evaluation.quality --workdir=runs/cifar10 --features=inception --num_samples=50000
    python -m dcgan_jax.evaluation.quality --images=samples/ --config=configs/cifar10.py --out=results/

measures a run's checkpoints, or a folder or .npz file of anybody's images, in one feature space (feature_spaces.py);
measures.py lists the numbers. Training does the same beside itself, with config.eval_every. docs/quality.md says which
settings give which published number.
"""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import numpy as np
from absl import flags
from matplotlib import pyplot as plt
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line
from dcgan_jax.config import FEWEST_SAMPLES
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.evaluation import samples_file
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_spaces, measures, nearest, reference, resize
from dcgan_jax.metrics.feature_spaces import FeatureSpace
from dcgan_jax.metrics.measures import Measure
from dcgan_jax.metrics.memorization import Memorization
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Picture, Report, Row
from dcgan_jax.runs import run_flags, run_folder, trained

NAME = "quality"
_TITLE = "Quality of samples"
_SHOWN = 64  # samples of a sheet


def main() -> None:
    """Measures one set of images, or checkpoints of a run; held-out images beside them."""
    if bool(_WORKDIR.value) == bool(_IMAGES.value):
        raise UserError("give either --workdir, a run, or --images, a folder or .npz file of samples.")
    of_run, of_images = ("step", "all_checkpoints", "num_samples", "norm", "seed"), ("config", "out")
    _refuse(of_images if _WORKDIR.value else of_run, "--workdir" if _WORKDIR.value else "--images")
    if _FEATURES.value != "inception":
        _refuse(("weights", "resize"), f"--features={_FEATURES.value}")
    if _ALL_CHECKPOINTS.value:
        _refuse(("step",), "--all_checkpoints")
    if _WORKDIR.value:
        _measure_run(Path(_WORKDIR.value))
    else:
        _measure_images(Path(str(_IMAGES.value)))


def _refuse(names: tuple[str, ...], beside: str) -> None:
    """Raises UserError if a flag is given that would have no effect."""
    for name in names:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name} has no effect with {beside}.")


class _Comparison(NamedTuple):
    """What measures samples, the settings that it depends on, and what held-out images get."""

    space: FeatureSpace
    measure: Measure
    figures: dict[str, Any]
    outcomes: dict[str, dict[str, float]]


def _measure_images(path: Path) -> None:
    if not (_CONFIG.value and _OUT.value):
        raise UserError("--images needs --config, for the data to compare with, and --out, a folder for the results.")
    config, out = _CONFIG.value, Path(_OUT.value)
    files.make_writable(out, "--out")
    images = samples_file.read(path, config.data.image_size, config.data.channels)
    _, measure, figures, outcomes = _prepare(config, _open_data(config), len(images))
    outcomes[str(path)] = measure(images)
    figures |= {"images": str(path), "num_samples": len(images), "found": outcomes[str(path)]}
    sheet = image_grid.make_grid(images[:_SHOWN], 8)
    report.publish(out, Report(_TITLE, figures, _table(outcomes), [Picture("images.png", sheet, "Some of them.")], {}))


def _measure_run(workdir: Path) -> None:
    config = run_folder.load_config(workdir)
    wanted = run_folder.steps(workdir) if _ALL_CHECKPOINTS.value else [_STEP.value]
    if not run_folder.steps(workdir):
        raise UserError(f"{workdir} has no checkpoint yet.")
    dataset = _open_data(config)
    run_folder.check_data(workdir, dataset.meta)
    space, measure, figures, outcomes = _prepare(config, dataset, _NUM_SAMPLES.value)
    out = report.folder(workdir, "evaluation", NAME) / space.name
    files.make_writable(out, "--workdir")
    draw = trained.make_draw_images(config, _NORM.value)
    curve: list[dict[str, float]] = []
    sheets: dict[int, np.ndarray] = {}
    for chosen in wanted:
        try:
            step, found, sheets_of_step = _measure_checkpoint(workdir, chosen, draw, measure)
        except UserError as error:
            if not _ALL_CHECKPOINTS.value:
                raise
            print(f"WARNING: left out: {error}", file=sys.stderr)  # damaged, or deleted by a run in training
            continue
        outcomes[f"step {step}"], sheets[step] = found, sheets_of_step
        curve.append({"step": step, **found})
    if not curve:
        raise UserError(f"no checkpoint of {workdir} could be measured.")
    rows, name = _table(outcomes), space.measure("frechet")
    best = int(min(curve, key=lambda row: row[name])["step"])
    figures |= {"num_samples": _NUM_SAMPLES.value, "norm": _NORM.value, "seed": _SEED.value}
    figures |= {"ema_decay": config.ema_decay, "checkpoints": curve, "best": best}
    pictures = [Picture("last.png", sheets[step], f"Samples of step {step}.")]
    if len(curve) > 1:
        rows.append(Row(f"lowest {name}", f"step {best}"))
        pictures.append(Picture("best.png", sheets[best], f"Samples of step {best}, whose {name} is the lowest."))
        pictures.append(Picture("curve.png", _plot(curve, name), f"{name} over training steps."))
    report.publish(out, Report(_TITLE, figures, rows, pictures, {}))


def _measure_checkpoint(
    workdir: Path, chosen: int | str | None, draw: Callable[..., Iterator[np.ndarray]], measure: Measure
) -> tuple[int, dict[str, float], np.ndarray]:
    """Its step, its numbers, and a sheet of its samples."""
    config, state = trained.load_run(workdir, chosen)
    count = _NUM_SAMPLES.value
    samples = trained.collect(config, draw(state, count, _SEED.value), count)
    return int(state.step), measure(samples), image_grid.make_grid(samples[:_SHOWN], 8)


def _open_data(config: ConfigDict) -> ImageDataset:
    if _DATA_DIR.value:
        config.data.dir = _DATA_DIR.value
    return opening.open_or_build(config.data)


def _prepare(config: ConfigDict, dataset: ImageDataset, num_samples: int) -> _Comparison:
    """`num_samples`: as many held-out images are measured, if there are so many."""
    space = _open_space(dataset)
    compared = opening.open_others(config.data, split=_SPLIT.value) if _SPLIT.value else dataset
    file = Path(_REFERENCE.value) if _REFERENCE.value else None
    real = reference.open_or_build(file, space, compared, _NUM_REFERENCE.value)
    measure = measures.make_measure(space, real)
    figures: dict[str, Any] = {"reference": real.identity}
    source, split = _HELD_OUT_SOURCE.value, _HELD_OUT_SPLIT.value
    if not (source or split):
        return _Comparison(space, measure, figures, {})
    held_out = opening.open_others(config.data, source=source, split=split)
    memorization = Memorization(space, dataset, held_out)
    images = nearest.some(held_out.images)
    images = images[np.random.default_rng(0).permutation(len(images))[:num_samples]]
    found = measure(images)
    figures |= {"held_out": found, "num_held_out": len(images)}
    outcomes = {f"{len(images):,} held-out images": found}
    return _Comparison(space, measures.make_measure(space, real, memorization), figures, outcomes)


def _open_space(dataset: ImageDataset) -> FeatureSpace:
    if _FEATURES.value == "inception":
        return feature_spaces.inception(_WEIGHTS.value, _RESIZE.value)
    return feature_spaces.of_pixels() if _FEATURES.value == "pixels" else feature_spaces.without_download(dataset)


def _table(outcomes: dict[str, dict[str, float]]) -> list[Row]:
    """A row of numbers for each, under a row of their names without the feature space's."""
    names = list(list(outcomes.values())[-1])
    heads = [f"{name.split('_', 1)[-1]:>9}" for name in names]
    rows = [Row("", "  ".join(heads))]
    for what, found in outcomes.items():
        numbers = [
            f"{found[name]:>{len(h)}.4g}" if name in found else " " * len(h)
            for name, h in zip(names, heads, strict=True)
        ]
        rows.append(Row(what, "  ".join(numbers)))
    return rows


def _plot(curve: list[dict[str, float]], name: str) -> bytes:
    """PNG of a measure over the steps of checkpoints."""
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axis.plot([row["step"] for row in curve], [row[name] for row in curve], marker=".")
    axis.set(xlabel="step", title=name, yscale="log")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run, whose checkpoints are measured.")
    _STEP = run_flags.define_step_flag()
    _ALL_CHECKPOINTS = flags.DEFINE_bool("all_checkpoints", False, "Measure all checkpoints that are there.")
    _NUM_SAMPLES = flags.DEFINE_integer(
        "num_samples", 10_000, "Samples that are drawn from each checkpoint.", lower_bound=FEWEST_SAMPLES
    )
    _NORM = flags.DEFINE_enum("norm", "frozen", trained.NORMS, "Statistics of batch normalisation; see sample.py.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of the noise of the samples.", lower_bound=0, upper_bound=2**32 - 1)
    _IMAGES = flags.DEFINE_string("images", None, "In place of a run: a folder or .npz file of anybody's images.")
    _CONFIG = config_flags.DEFINE_config_file("config", None, "With --images: names the data to compare with.")
    _OUT = flags.DEFINE_string("out", None, "With --images: folder for the results.")
    _FEATURES = flags.DEFINE_enum(
        "features",
        "auto",
        ("auto", "pixels", "inception"),
        "What images are compared in. 'inception': FID, KID and Inception score; 'pixels': averages of blocks; 'auto': "
        "features of a small network that is trained on the data's labels, once, or pixels where there are none.",
    )
    _WEIGHTS = flags.DEFINE_string(
        "weights", None, "File of Inception's weights; default: the one in the cache folder."
    )
    _RESIZE = flags.DEFINE_enum("resize", "pytorch-fid", resize.RULES, "How images are made 299 x 299 for Inception.")
    _SPLIT = flags.DEFINE_string("split", "", "Split of the data to compare with; default: that of the config.")
    _NUM_REFERENCE = flags.DEFINE_integer(
        "num_reference", 0, "Images of the data to compare with, drawn at random; 0: all.", lower_bound=0
    )
    _REFERENCE = flags.DEFINE_string("reference", None, "File of the data's statistics; written if it is not there.")
    _HELD_OUT_SPLIT = flags.DEFINE_string(
        "held_out_split", "", "Split of images that were not trained on: measured besides, and to find copies."
    )
    _HELD_OUT_SOURCE = flags.DEFINE_string("held_out_source", "", "Their source, if it is not the config's.")
    _DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS data folder; default: the config's.")
    command_line.run(main)
