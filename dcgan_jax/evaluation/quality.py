"""Scores samples against the data.

    python -m dcgan_jax.evaluation.quality --workdir=runs/cifar10 --all_checkpoints
    python -m dcgan_jax.evaluation.quality --workdir=runs/cifar10 --features=inception --num_samples=50000
    python -m dcgan_jax.evaluation.quality --images=samples/ --config=configs/cifar10.py --out=results/

measures a run's checkpoints, or any folder or .npz file of images, in one feature space (feature_spaces.py);
measures.py lists the numbers. With config.eval_every, training takes them too. docs/quality.md says which
settings give which published number.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

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
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.reports import image_grid, plots, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags, run_folder, trained
from dcgan_jax.runs.sampler import NORMS
from dcgan_jax.runs.trained import Run

NAME = "quality"
TITLE = "Quality of samples"
FEATURES = ("auto", "pixels", "inception")
_SHOWN = 64  # samples of a sheet
_SHOWN_NEAREST = 16  # above their nearest training images


@dataclass(frozen=True, kw_only=True)
class Settings:
    """In which features samples are compared, and with which images.

    Attributes:
      features: 'inception': FID, KID and Inception score; 'pixels': averages of blocks; 'auto': features of a small
        network that is trained on the data's labels, once, or pixels where there are none.
      weights: file of Inception's weights; None: the one in the cache folder.
      resize: how images are made 299 x 299 for Inception, one of `resize.RULES`.
      split: of the data to compare with; '': that of the config.
      num_reference: images of the data to compare with, drawn at random; 0: all.
      reference: file of the data's statistics, written if it is not there; None: in the pack's folder.
      held_out_source: of images that were not trained on, which are measured too, and find copies; '': the config's.
      held_out_split: their split; both '': none are measured.
      data_dir: TFDS data folder; None: the config's.
    """

    features: str = "auto"
    weights: str | None = None
    resize: str = resize.RULES[0]
    split: str = ""
    num_reference: int = 0
    reference: str | Path | None = None
    held_out_source: str = ""
    held_out_split: str = ""
    data_dir: str | None = None

    def data(self, config: ConfigDict) -> ConfigDict:
        """config.data with the `data_dir`."""
        data = config.data.copy_and_resolve_references()
        data.dir = self.data_dir or data.dir
        return data

    def open_space(self, dataset: ImageDataset) -> FeatureSpace:
        if self.features not in FEATURES:
            raise UserError(f"features is {self.features!r}; choose from {', '.join(map(repr, FEATURES))}.")
        if self.features == "inception":
            return feature_spaces.inception(self.weights, self.resize)
        return feature_spaces.of_pixels() if self.features == "pixels" else feature_spaces.without_download(dataset)


class _Comparison(NamedTuple):
    """What scores samples, the figures of what it depends on, and, where there are held-out images, their scores."""

    space: FeatureSpace
    score: Measure
    figures: list[Figure]
    outcomes: dict[str, dict[str, float]]
    memorization: Memorization | None

    def nearest(self, samples: np.ndarray, of: str) -> list[Picture]:
        """The first samples above their nearest training images, where copies are looked for. `of`: what they are."""
        if not self.memorization:
            return []
        sheet = self.memorization.nearest_sheet(samples[:_SHOWN_NEAREST])
        return [Picture("nearest.png", sheet, f"{of} (top) above the training images that are nearest in features.")]


def measure(
    run: Run, *, steps: Sequence[int] | None = None, num_samples: int = 10_000, seed: int = 0, **settings: Any
) -> Report:
    """Measures checkpoints of a run; held-out images beside them.

    Args:
      run: a trained run; its norm is that of the samples.
      steps: of the checkpoints. Those that cannot be read are left out with a warning. None: the run as it is.
      num_samples: drawn from each checkpoint.
      seed: of their noise.
      **settings: see `Settings`.

    Returns:
      'checkpoints': a row of numbers for each, see measures.py; 'best': the step of the lowest Frechet distance;
      'held_out': those of as many held-out images; and the settings. Sheets of samples, the curve over the steps, and,
      with held-out images, samples of the last step above their nearest training images.

    Raises:
      UserError: the data are not those of the run or cannot be used, or no checkpoint can be read.
    """
    chosen = Settings(**settings)
    data = chosen.data(run.config)
    dataset = opening.open_or_build(data)
    run_folder.check_data(run.workdir, dataset.meta)
    comparison = _compare(chosen, data, dataset, num_samples)
    space, score, figures, outcomes, _ = comparison
    curve: list[dict[str, float]] = []
    sheets: dict[int, np.ndarray] = {}
    nearest_of_last: list[Picture] = []
    for checkpoint in [run] if steps is None else _checkpoints(run, steps):
        step, samples = checkpoint.step, checkpoint.sample(num_samples, seed)
        found, sheets[step] = score(samples), image_grid.make_grid(samples[:_SHOWN], 8)
        outcomes[f"step {step}"] = found
        curve.append({"step": step, **found})
        nearest_of_last = comparison.nearest(samples, f"Samples of step {step}")
    if not curve:
        raise UserError(f"no checkpoint of {run.workdir} could be measured.")
    name = space.measure("frechet")
    best, last = int(min(curve, key=lambda row: row[name])["step"]), int(curve[-1]["step"])
    figures += [
        Figure("num_samples", num_samples),
        Figure("norm", run.sampler.norm),
        Figure("seed", seed),
        Figure("ema_decay", run.config.ema_decay),
        Figure("checkpoints", curve),
        Figure("best", best),
        *_table(outcomes),
    ]
    pictures = [Picture("last.png", sheets[last], f"Samples of step {last}.")]
    if len(curve) > 1:
        figures.append(Figure("", text=f"lowest {name}", here=f"step {best}"))
        pictures.append(Picture("best.png", sheets[best], f"Samples of step {best}, whose {name} is the lowest."))
        pictures.append(Picture("curve.png", _plot(curve, name), f"{name} over training steps."))
    pictures += nearest_of_last
    return Report(TITLE, figures, pictures)


def measure_images(images: np.ndarray | str | Path, config: ConfigDict, **settings: Any) -> Report:
    """Measures images of any origin; held-out images beside them.

    Args:
      images: uint8 [count, height, width, channels], or a folder or .npz file of them, see samples_file.py.
      config: whose data they are compared with.
      **settings: see `Settings`.

    Returns:
      'found': their numbers, see measures.py; 'num_samples'; 'held_out': those of as many held-out images; and the
      settings. A sheet of images.

    Raises:
      UserError: the images or the data cannot be used.
    """
    chosen, name = Settings(**settings), "images"
    if not isinstance(images, np.ndarray):
        name, images = str(images), samples_file.read(Path(images), image_shape(config.data))
    data = chosen.data(config)
    comparison = _compare(chosen, data, opening.open_or_build(data), len(images))
    _, score, figures, outcomes, _ = comparison
    outcomes[name] = found = score(images)
    figures += [Figure("images", name), Figure("num_samples", len(images)), Figure("found", found), *_table(outcomes)]
    sheet = Picture("images.png", image_grid.make_grid(images[:_SHOWN], 8), "Some of them.")
    return Report(TITLE, figures, [sheet, *comparison.nearest(images, "Images")])


def main() -> None:
    """Measures one set of images, or checkpoints of a run."""
    if bool(_WORKDIR.value) == bool(_IMAGES.value):
        raise UserError("give either --workdir, a run, or --images, a folder or .npz file of samples.")
    of_run, of_images = ("step", "all_checkpoints", "num_samples", "norm", "seed"), ("config", "out")
    _refuse(of_images if _WORKDIR.value else of_run, "--workdir" if _WORKDIR.value else "--images")
    if _FEATURES.value != "inception":
        _refuse(("weights", "resize"), f"--features={_FEATURES.value}")
    if _ALL_CHECKPOINTS.value:
        _refuse(("step",), "--all_checkpoints")
    settings = {field.name: flags.FLAGS[field.name].value for field in fields(Settings)}
    if _WORKDIR.value:
        run = trained.load(_WORKDIR.value, _STEP.value, _NORM.value)
        out = report.folder(run.workdir, "evaluation", NAME)
        files.make_writable(out, "--workdir")
        steps = run_folder.steps(run.workdir) if _ALL_CHECKPOINTS.value else None
        found = measure(run, steps=steps, num_samples=_NUM_SAMPLES.value, seed=_SEED.value, **settings)
        report.publish(out / feature_spaces.name_of(found["reference"]), found)
    elif not (_CONFIG.value and _OUT.value):
        raise UserError("--images needs --config, for the data to compare with, and --out, a folder for the results.")
    else:
        out = Path(_OUT.value)
        files.make_writable(out, "--out")
        report.publish(out, measure_images(str(_IMAGES.value), _CONFIG.value, **settings))


def _refuse(names: tuple[str, ...], beside: str) -> None:
    """Raises UserError if a flag is given that would have no effect."""
    for name in names:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name} has no effect with {beside}.")


def _checkpoints(run: Run, steps: Sequence[int]) -> Iterator[Run]:
    """The run at each of the steps, but for checkpoints that are damaged or that a run in training has deleted."""
    for step in steps:
        try:
            checkpoint = run.at(step)
        except UserError as error:
            print(f"WARNING: left out: {error}", file=sys.stderr)
        else:
            yield checkpoint


def _compare(settings: Settings, data: ConfigDict, dataset: ImageDataset, num_samples: int) -> _Comparison:
    """`num_samples`: as many held-out images are measured, if there are so many."""
    space = settings.open_space(dataset)
    compared = opening.open_others(data, split=settings.split) if settings.split else dataset
    file = Path(settings.reference) if settings.reference else None
    real = reference.open_or_build(file, space, compared, settings.num_reference)
    score = measures.make_measure(space, real)
    figures = [Figure("reference", real.identity)]
    if not (settings.held_out_source or settings.held_out_split):
        return _Comparison(space, score, figures, {}, None)
    held_out = opening.open_others(data, source=settings.held_out_source, split=settings.held_out_split)
    if compared is not dataset and held_out.has_images_of(compared):
        raise UserError(
            f"the held-out images are those that samples are compared with, --split={settings.split}: give another "
            "--held_out_split or --held_out_source."
        )
    memorization = Memorization(space, dataset, held_out, mirrored=data.flip == "x")
    images = nearest.some(held_out.images)
    images = images[np.random.default_rng(0).permutation(len(images))[:num_samples]]
    found = score(images)
    figures += [Figure("held_out", found), Figure("num_held_out", len(images))]
    outcomes = {f"{len(images):,} held-out images": found}
    return _Comparison(space, measures.make_measure(space, real, memorization), figures, outcomes, memorization)


def _table(outcomes: dict[str, dict[str, float]]) -> list[Figure]:
    """A line of numbers for each, under a line of their names, without the feature space's if all begin with it."""
    names = list(list(outcomes.values())[-1])
    alike = len({name.partition("_")[0] for name in names}) == 1  # not of Inception's: fid, kid_subsets
    heads = [f"{name.partition('_')[2] if alike else name:>9}" for name in names]
    lines = [Figure("", here="  ".join(heads))]
    for name_of_outcome, found in outcomes.items():
        numbers = [
            f"{found[name]:>{len(head)}.4g}" if name in found else " " * len(head)
            for name, head in zip(names, heads, strict=True)
        ]
        lines.append(Figure("", text=name_of_outcome, here="  ".join(numbers)))
    return lines


def _plot(curve: list[dict[str, float]], name: str) -> bytes:
    """PNG of a measure over the steps of checkpoints."""
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axis.plot([row["step"] for row in curve], [row[name] for row in curve], marker=".")
    axis.set(xlabel="step", title=name, yscale="log")
    return plots.png(figure)


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of a trained run, whose checkpoints are measured.")
    _STEP = run_flags.define_step_flag()
    _ALL_CHECKPOINTS = flags.DEFINE_bool("all_checkpoints", False, "Measure all checkpoints that are there.")
    _NUM_SAMPLES = flags.DEFINE_integer(
        "num_samples", 10_000, "Samples that are drawn from each checkpoint.", lower_bound=FEWEST_SAMPLES
    )
    _NORM = flags.DEFINE_enum(
        "norm", "running", NORMS, "Statistics of batch normalisation, as of dcgan_jax.sample; see sampler.py."
    )
    _SEED = flags.DEFINE_integer("seed", 0, "Of the noise of the samples.", lower_bound=0, upper_bound=2**32 - 1)
    _IMAGES = command_line.define_path("images", None, "In place of a run: a folder or .npz file of images.")
    _CONFIG = config_flags.DEFINE_config_file("config", None, "With --images: names the data to compare with.")
    _OUT = command_line.define_path("out", None, "With --images: folder for the results.")
    _FEATURES = flags.DEFINE_enum(
        "features",
        "auto",
        FEATURES,
        "What images are compared in. 'inception': FID, KID and Inception score; 'pixels': averages of blocks; 'auto': "
        "features of a small network that is trained on the data's labels, once, or pixels where there are none.",
    )
    command_line.define_path("weights", None, "File of Inception's weights; default: the one in the cache folder.")
    flags.DEFINE_enum("resize", "pytorch-fid", resize.RULES, "How images are made 299 x 299 for Inception.")
    flags.DEFINE_string("split", "", "Split of the data to compare with; default: that of the config.")
    flags.DEFINE_integer(
        "num_reference", 0, "Images of the data to compare with, drawn at random; 0: all.", lower_bound=0
    )
    command_line.define_path("reference", None, "File of the data's statistics; written if it is not there.")
    flags.DEFINE_string(
        "held_out_split", "", "Split of images that were not trained on: they are measured too, and find copies."
    )
    flags.DEFINE_string("held_out_source", "", "Their source, if it is not the config's.")
    command_line.define_path("data_dir", None, "TFDS data folder; default: the config's.")
    command_line.run(main)
