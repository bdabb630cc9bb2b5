"""What samples are worth in numbers, against the data.

    python -m dcgan_jax.evaluation.quality --workdir=runs/cifar10 --all_checkpoints
    python -m dcgan_jax.evaluation.quality --workdir=runs/cifar10 --features=inception --num_samples=50000
    python -m dcgan_jax.evaluation.quality --images=samples/ --config=configs/cifar10.py --out=results/

measures a run's checkpoints, or a folder or .npz file of anybody's images, in one feature space (feature_spaces.py);
measures.py lists the numbers. Training does the same beside itself, with config.eval_every. docs/quality.md says which
settings give which published number.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from absl import flags
from matplotlib import pyplot as plt
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line, image_grid, report, run_folder, sample
from dcgan_jax.datasets import pack
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.errors import UserError
from dcgan_jax.evaluation import feature_spaces, measures, nearest, reference, resize, samples_file
from dcgan_jax.evaluation.feature_spaces import FeatureSpace
from dcgan_jax.evaluation.measures import Measure
from dcgan_jax.evaluation.memorization import Memorization
from dcgan_jax.report import Picture, Report, Row

NAME = "quality"
_TITLE = "Quality of samples"
_SHOWN = 64  # samples of a sheet


def main() -> None:
    """Measures one set of images, or checkpoints of a run; held-out images beside them."""
    if bool(_WORKDIR.value) == bool(_IMAGES.value):
        raise UserError("give either --workdir, a run, or --images, a folder or .npz file of samples.")
    if _WORKDIR.value:
        _measure_run(Path(_WORKDIR.value))
    else:
        _measure_images(Path(str(_IMAGES.value)))


def _measure_images(path: Path) -> None:
    if not (_CONFIG.value and _OUT.value):
        raise UserError("--images needs --config, for the data to compare with, and --out, a folder for the results.")
    config, out = _CONFIG.value, Path(_OUT.value)
    run_folder.make_writable(out, "--out")
    images = samples_file.read(path, config.data.image_size, config.data.channels)
    measure, figures, outcomes = _prepare(config)
    outcomes[str(path)] = measure(images)
    figures |= {"images": str(path), "num_samples": len(images), "found": outcomes[str(path)]}
    sheet = image_grid.make_grid(images[:_SHOWN], 8)
    report.publish(
        out, Report(_TITLE, figures, _table(outcomes), [Picture("images.png", sheet, "The first images.")], {})
    )


def _measure_run(workdir: Path) -> None:
    config = run_folder.load_config(workdir)
    wanted = run_folder.steps(workdir) if _ALL_CHECKPOINTS.value else [_STEP.value]
    measure, figures, outcomes = _prepare(config)
    draw = sample.make_draw_images(config, _NORM.value)
    curve: list[dict[str, float]] = []
    sheets: dict[int, np.ndarray] = {}
    for chosen in wanted:
        _, state = sample.load_run(workdir, chosen)
        step = int(state.step)
        samples = np.concatenate(list(draw(state, _NUM_SAMPLES.value, _SEED.value)))
        sheets[step] = image_grid.make_grid(samples[:_SHOWN], 8)
        outcomes[f"step {step}"] = found = measure(samples)
        curve.append({"step": step, **found})
    rows = _table(outcomes)
    name = next(iter(found))  # the Frechet distance
    best = int(min(curve, key=lambda row: row[name])["step"])
    figures |= {"num_samples": _NUM_SAMPLES.value, "norm": _NORM.value, "seed": _SEED.value}
    figures |= {"checkpoints": curve, "best": best}
    pictures = [Picture("last.png", sheets[step], f"Samples of step {step}.")]
    if len(curve) > 1:
        rows.append(Row(f"lowest {name}", f"step {best}"))
        pictures.append(Picture("best.png", sheets[best], f"Samples of step {best}, whose {name} is the lowest."))
        pictures.append(Picture("curve.png", _plot(curve, name), f"{name} over training steps."))
    report.publish(report.folder(workdir, "evaluation", NAME), Report(_TITLE, figures, rows, pictures, {}))


def _prepare(config: ConfigDict) -> tuple[Measure, dict[str, Any], dict[str, dict[str, float]]]:
    """What measures samples, the settings that it depends on, and what held-out images get."""
    if _DATA_DIR.value:
        config.data.dir = _DATA_DIR.value
    dataset = pack.open_or_build(config.data)
    space = _open_space(dataset)
    file = Path(_REFERENCE.value) if _REFERENCE.value else None
    real = reference.open_or_build(file, space, dataset, _NUM_REFERENCE.value)
    figures: dict[str, Any] = {"reference": real.identity}
    source, split = _HELD_OUT_SOURCE.value, _HELD_OUT_SPLIT.value
    if not (source or split):
        return measures.make_measure(space, real), figures, {}
    held_out = pack.open_others(config.data, source=source, split=split)
    measure = measures.make_measure(space, real, Memorization(space, dataset, held_out))
    figures["held_out"] = measure(nearest.some(held_out.images))
    return measure, figures, {"held-out images": figures["held_out"]}


def _open_space(dataset: ImageDataset) -> FeatureSpace:
    if _FEATURES.value == "inception":
        return feature_spaces.inception(_WEIGHTS.value, _RESIZE.value)
    return feature_spaces.of_pixels() if _FEATURES.value == "pixels" else feature_spaces.without_download(dataset)


def _table(outcomes: dict[str, dict[str, float]]) -> list[Row]:
    """A row of numbers for each, under a row of their names without the feature space's."""
    names = [f"{name.split('_', 1)[-1]:>9}" for name in next(iter(outcomes.values()))]
    rows = [Row("", "  ".join(names))]
    for what, found in outcomes.items():
        numbers = [f"{value:>{len(name)}.4g}" for name, value in zip(names, found.values(), strict=True)]
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
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.")
    _STEP = sample.define_step_flag()
    _ALL_CHECKPOINTS = flags.DEFINE_bool("all_checkpoints", False, "Measure all that are there.")
    _IMAGES = flags.DEFINE_string(
        "images", None, "Instead of a run: samples, a folder or .npz file; see samples_file.py."
    )
    _CONFIG = config_flags.DEFINE_config_file("config", None, "With --images: whose data they are compared with.")
    _OUT = flags.DEFINE_string("out", None, "With --images: folder for the results.")
    _FEATURES = flags.DEFINE_enum(
        "features", "auto", ("auto", "pixels", "inception"), "See feature_spaces.py; auto: what needs no download."
    )
    _WEIGHTS = flags.DEFINE_string("weights", None, "Inception's weights; default: the file in the cache folder.")
    _RESIZE = flags.DEFINE_enum("resize", "pytorch-fid", resize.RULES, "How images are made 299 x 299 for Inception.")
    _NUM_SAMPLES = flags.DEFINE_integer("num_samples", 10_000, "Samples of each checkpoint.", lower_bound=2)
    _NUM_REFERENCE = flags.DEFINE_integer("num_reference", 0, "Images of the data; 0: all.", lower_bound=0)
    _REFERENCE = flags.DEFINE_string("reference", None, "File of reference statistics; written if it is not there.")
    _HELD_OUT_SPLIT = flags.DEFINE_string("held_out_split", "", "Split with images that were not trained on.")
    _HELD_OUT_SOURCE = flags.DEFINE_string("held_out_source", "", "Their source, if it is not that of the data.")
    _NORM = flags.DEFINE_enum("norm", "frozen", sample.NORMS, "Statistics of batch normalisation; see sample.py.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of the samples.", lower_bound=0, upper_bound=2**32 - 1)
    _DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS data folder; default: the config's.")
    command_line.run(main)
