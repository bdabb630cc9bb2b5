"""Signs that training has gone wrong: the discriminator has won, samples look alike, or are training images.

All are warnings: training continues, and may recover. The limits are this project's own; the paper gives none.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from dcgan_jax.nets import pixels
from dcgan_jax.nets.losses import Loss

# The discriminator has won when its loss stays below this part of the way from the lowest to what one that cannot tell
# real from generated has.
# With cross entropy that is D(x) around 0.97 and D(G(z)) around 0.03; a healthy D sits at 0.5 to 0.9 and 0.1 to 0.5.
_D_LOSS = 0.05
# Samples look alike when they are this much nearer to each other than images of the data are.
_DIVERSITY = 0.25
# Of a generator that draws like the data, 5 % of the samples count as memorised, see metrics/memorization.py.
_MEMORIZED = 0.5
# Lines of metrics.jsonl, of those that hold the numbers, that must agree one after the other.
_LINES = {"alarm_d_wins": 10, "alarm_alike": 3, "alarm_memorized": 1}
# Images are compared after averaging them down to about this many pixels a side.
_SIDE = 8

_TEXTS = {
    "alarm_d_wins": "the discriminator wins: its loss has been next to nothing for long, so G learns little. "
    "A lower --config.optimizer.discriminator_learning_rate in a new --workdir may help.",
    "alarm_alike": f"samples look alike: they are less than {_DIVERSITY} times as far apart as images of the data. The "
    "generator may have collapsed; go back to an earlier checkpoint, or lower the learning rates in a new --workdir.",
    "alarm_memorized": f"more than {100 * _MEMORIZED:.0f} % of the samples are as near to training images as 5 % of "
    "held-out images are: the generator may have memorised them. More data helps.",
}


class Alarms:
    """Watches the lines of metrics.jsonl. After a resume it knows of the lines before."""

    def __init__(self, loss: Loss, before: Iterable[Mapping[str, float]] = ()) -> None:
        self._d_loss = loss.lowest + _D_LOSS * (loss.undecided - loss.lowest)
        self._lines = dict.fromkeys(_LINES, 0)
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
            signs["alarm_alike"] = row["diversity"] < _DIVERSITY
        for share in (value for name, value in row.items() if name.endswith("_memorized")):
            signs["alarm_memorized"] = share > _MEMORIZED
        for name, seen in signs.items():
            self._lines[name] = self._lines[name] + 1 if seen else 0
        on = {name: 1.0 for name in signs if self._lines[name] >= _LINES[name]}
        return on, [_TEXTS[name] for name in on if self._lines[name] == _LINES[name]]


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
