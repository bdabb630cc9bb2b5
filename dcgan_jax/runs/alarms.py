"""Signs that training has gone wrong: the discriminator has won, samples look alike, got worse, or are training images.

All are warnings. Those of COLLAPSE may also stop the run or take it back, see config.on_collapse. The limits are this
project's own; the paper gives none.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from dcgan_jax.nets import pixels
from dcgan_jax.nets.losses import Loss
from dcgan_jax.runs import run_folder

# Alarms that mean that training has collapsed.
COLLAPSE = ("alarm_d_wins", "alarm_alike", "alarm_narrow", "alarm_worse")
# The discriminator has won when its loss stays below this part of the way from the lowest to what one that cannot tell
# real from generated has.
# With cross entropy that is D(x) around 0.97 and D(G(z)) around 0.03; a healthy D sits at 0.5 to 0.9 and 0.1 to 0.5.
_D_LOSS = 0.05
# Samples look alike when they are this much nearer to each other than images of the data are, and are narrow when they
# stay below the second. Of the runs in docs/reliability.md, those that stay behind for good are between the two; the
# others pass both as they begin.
_ALIKE, _NARROW = 0.25, 0.5
# Samples have become worse when they are this many times as far from the data as they were at best. After the best
# evaluation of the runs in docs/quality.md, the distance rises 1.4-fold at most.
_DISTANCE = 3
# Of a generator that draws like the data, 5 % of the samples count as memorised, see metrics/memorization.py. So does
# what is blurred: it lies near the middle of all images, where some training image is near. Copies are as far apart as
# the data, whose spread is 1.
_MEMORIZED = 0.5
_SPREAD = 0.5
# Lines of metrics.jsonl, of those that hold the numbers, that must agree one after the other.
_LINES = {"alarm_d_wins": 10, "alarm_alike": 3, "alarm_narrow": 10, "alarm_worse": 2, "alarm_memorized": 1}
# Images are compared after averaging them down to about this many pixels a side.
_SIDE = 8

_TEXTS = {
    "alarm_d_wins": "the discriminator wins: its loss has been next to nothing for long, so G learns little. "
    "A lower --config.optimizer.discriminator_learning_rate in a new --workdir may help; where each image was seen "
    "hundreds of times, an earlier checkpoint (--step=best) or config.augment (docs/own_images.md).",
    "alarm_alike": f"samples look alike: they are less than {_ALIKE} times as far apart as images of the data. The "
    "generator may have collapsed; go back to an earlier checkpoint, or lower the learning rates in a new --workdir.",
    "alarm_narrow": f"samples differ too little for long: they are less than {_NARROW} times as far apart as images of "
    "the data. Go back to an earlier checkpoint, or lower the learning rates in a new --workdir.",
    "alarm_worse": f"samples have become worse: the distance to the data is more than {_DISTANCE} times the lowest so "
    "far. Go back to the best checkpoint, or lower the learning rates in a new --workdir.",
    "alarm_memorized": f"more than {100 * _MEMORIZED:.0f} % of the samples are as near to training images as 5 % of "
    "held-out images are: the generator may have memorised them. More data helps.",
}


class Alarms:
    """Watches the lines of metrics.jsonl. After a resume it knows of the lines before."""

    def __init__(self, loss: Loss, before: Iterable[Mapping[str, float]] = ()) -> None:
        self._d_loss = loss.lowest + _D_LOSS * (loss.undecided - loss.lowest)
        self._best: dict[run_folder.Way, float] = {}  # the lowest distance so far
        self._signs: dict[str, list[float]] = {name: [] for name in _LINES}  # steps of lines one after the other
        for row in before:
            self.watch(row)

    def watch(self, row: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """Takes the next line.

        Returns:
          What to add to it, 'alarm_...': 1.0 for every alarm that is on; and warnings for those that have just begun.
        """
        signs = {}
        if "d_loss" in row:
            signs["alarm_d_wins"] = row["d_loss"] < self._d_loss
        if "diversity" in row:
            signs["alarm_alike"] = row["diversity"] < _ALIKE
            signs["alarm_narrow"] = row["diversity"] < _NARROW
        if measured := run_folder.distance(row):
            way, distance = measured
            best = self._best[way] = min(distance, self._best.get(way, math.inf))
            signs["alarm_worse"] = distance > _DISTANCE * best
        for name in (name for name in row if name.endswith("_memorized")):
            spread = row.get(name.replace("_memorized", "_spread"), 1.0)  # earlier versions did not measure it
            signs["alarm_memorized"] = row[name] > _MEMORIZED and spread > _SPREAD
        for name, seen in signs.items():
            if seen:
                self._signs[name].append(row["step"])
            else:
                self._signs[name].clear()
        on = {name: 1.0 for name in signs if len(self._signs[name]) >= _LINES[name]}
        return on, [_TEXTS[name] for name in on if len(self._signs[name]) == _LINES[name]]

    def first_signs(self) -> dict[str, int]:
        """The step of the first sign that is there of each alarm of collapse, before the alarm is on as well."""
        return {name: int(self._signs[name][0]) for name in COLLAPSE if self._signs[name]}


def diversity(samples: np.ndarray, data: np.ndarray) -> float:
    """How far samples are from the next one like them, relative to as many images of the data; 0: all the same.

    Args:
      samples, data: uint8 [count, height, width, channels]; the counts may differ, the smaller one counts.

    Returns:
      The ratio of the mean distances to the nearest other image, Euclidean, on averages of pixels; nan where the data
      has no two different images to compare with.
    """
    count = min(len(samples), len(data))
    apart = _mean_nearest(data[:count]) if count > 1 else 0.0
    return _mean_nearest(samples[:count]) / apart if apart > 0 else math.nan


def _mean_nearest(images: np.ndarray) -> float:
    points = pixels.block_means(images, _SIDE)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(axis=1).mean())
