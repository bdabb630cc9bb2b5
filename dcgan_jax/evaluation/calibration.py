"""Do the metrics that need no download agree with the eye, and how much of them is chance?

    python -m dcgan_jax.evaluation.calibration --config=configs/cifar10.py --held_out_split=test --out=calibration/

Measures held-out images instead of samples, in the feature spaces that need no download (feature_spaces.py):

    damaged ever more   blurred, under noise, or only a few of them again and again, as a generator that has lost most
                        of the data draws them. A distance that can rank checkpoints rises from each strength to the
                        next. [Heusel et al. 2017, figure 3, do this with FID]
    fewer of them       a distance falls with the number of images, and scatters: several draws of each number
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from absl import flags
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_spaces, measures, nearest, reference
from dcgan_jax.metrics.feature_spaces import FeatureSpace
from dcgan_jax.metrics.measures import Measure
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report

TITLE = "How distances answer to damage and to chance"
_COUNTS = (500, 1000, 2000, 5000)
_DRAWS = 5
_SHOWN = 12  # images of each kind in the picture


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
    blurred = scipy.ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))
    return np.round(blurred).astype(np.uint8)  # of uint8 the filter cuts decimals off, once for each axis


def _add_noise(images: np.ndarray, std: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, std, images.shape)
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


def _repeat(images: np.ndarray, distinct: float) -> np.ndarray:
    """`distinct`: how many of the images are left, all of them equally often."""
    return images[np.arange(len(images)) % int(distinct)]


Damages = dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], tuple[float, ...]]]
# Strengths in rising order: standard deviations in pixels, in levels of 255, and numbers of images.
DAMAGES: Damages = {
    "blur": (_blur, (0.5, 1.0, 2.0, 4.0)),
    "noise": (_add_noise, (8.0, 16.0, 32.0, 64.0)),
    "few": (_repeat, (1000.0, 100.0, 10.0, 1.0)),
}


def rises(values: list[float]) -> bool:
    """Whether each value is above the one before."""
    return all(a < b for a, b in itertools.pairwise(values))


def measure(config: ConfigDict, *, held_out_source: str = "", held_out_split: str = "test") -> Report:
    """Every damage and number of images, in every space.

    Args:
      config: whose data are taken.
      held_out_source: images that stand for samples; '': the data's source.
      held_out_split: their split; for folders, ''.

    Returns:
      'images': how many; for each space, the numbers of measures.py for 'undamaged' images, for each strength of each
      damage, and their means and deviations over draws of 'counts' of images.

    Raises:
      UserError: the data cannot be used, or the held-out images are those of training.
    """
    held_out = opening.open_others(config.data, source=held_out_source, split=held_out_split)
    dataset = opening.open_or_build(config.data)
    if held_out.has_images_of(dataset):
        raise UserError(
            "the held-out images are those of training: give another --held_out_split or --held_out_source."
        )
    images = nearest.some(held_out.images)
    images = images[np.random.default_rng(0).permutation(len(images))]

    damages = DAMAGES | {"few": (_repeat, tuple(n for n in DAMAGES["few"][1] if 2 * n <= len(images)))}
    figures = [Figure("images", len(images))]
    for space in (feature_spaces.without_download(dataset), feature_spaces.of_pixels()):
        if space.name not in [
            figure.name for figure in figures
        ]:  # both are pixels where nothing is known of the images
            figures += _in_space(space, dataset, images, damages)

    kinds = [images] + [apply(images, s) for apply, strengths in damages.values() for s in strengths]
    sheet = np.concatenate([image_grid.make_grid(kind[:_SHOWN], _SHOWN) for kind in kinds])
    caption = f"Held-out images, then {', '.join(DAMAGES)}, in rising strengths."
    return Report(TITLE, figures, [Picture("damages.png", sheet, caption)])


def main() -> None:
    out = Path(_OUT.value)
    files.make_writable(out, "--out")
    found = measure(_CONFIG.value, held_out_source=_HELD_OUT_SOURCE.value, held_out_split=_HELD_OUT_SPLIT.value)
    report.publish(out, found)


def _in_space(space: FeatureSpace, dataset: ImageDataset, images: np.ndarray, damages: Damages) -> list[Figure]:
    """All numbers in one space, under its name, and the lines of the table."""
    score = measures.make_measure(space, reference.open_or_build(None, space, dataset))
    found: dict[str, Any] = {"undamaged": score(images)}
    lines, distance = [], space.measure("frechet")
    for damage, (apply, strengths) in damages.items():
        outcomes = [score(apply(images, strength)) for strength in strengths]
        found[damage] = [{"strength": s, **outcome} for s, outcome in zip(strengths, outcomes, strict=True)]
        values = [outcome[distance] for outcome in (found["undamaged"], *outcomes)]
        here = ", ".join(f"{value:.3g}" for value in values) + ("" if rises(values) else "  (does not always rise)")
        text = f"{distance}, undamaged, {damage} {', '.join(f'{s:g}' for s in strengths)}"
        lines.append(Figure("", text=text, here=here))
    counts = [count for count in _COUNTS if 2 * count <= len(images)]
    found["counts"] = [_scatter(score, images, count) for count in counts]
    for count, scatter in zip(counts, found["counts"], strict=True):
        mean, std = scatter[distance]
        lines.append(Figure("", text=f"{distance}, {count:,} undamaged images", here=f"{mean:.4g} ± {std:.2g}"))
    return [Figure(space.name, found), *lines]


def _scatter(score: Measure, images: np.ndarray, count: int) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) of every measure over _DRAWS draws of `count` images; and the count."""
    rng = np.random.default_rng(count)
    drawn = [score(images[rng.choice(len(images), count, replace=False)]) for _ in range(_DRAWS)]
    scatter = {name: [float(f([row[name] for row in drawn])) for f in (np.mean, _std)] for name in drawn[0]}
    return {"count": count, **scatter}


def _std(values: list[float]) -> float:
    return float(np.std(values, ddof=1))


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Whose data are taken.")
    _OUT = command_line.define_path("out", None, "Folder for the results.", required=True)
    _HELD_OUT_SOURCE = flags.DEFINE_string("held_out_source", "", "Images that stand for samples; default: the data's.")
    _HELD_OUT_SPLIT = flags.DEFINE_string("held_out_split", "test", "Their split; for folders, give 'train'.")
    flags.mark_flag_as_required("config")
    command_line.run(main)
