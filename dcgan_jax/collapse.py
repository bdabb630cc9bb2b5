"""Signs that training has collapsed: the discriminator has won, or all samples look alike.

Both are warnings: training goes on, and may recover. The limits are this project's own; the paper gives none.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from dcgan_jax.losses import Loss

# The discriminator has won when its loss stays below this part of what one that cannot tell real from generated has.
# With cross entropy that is D(x) around 0.97 and D(G(z)) around 0.03; a healthy D sits at 0.5 to 0.9 and 0.1 to 0.5.
_D_LOSS = 0.05
# Samples look alike when they are this much nearer to each other than images of the data are.
_DIVERSITY = 0.25
# Lines of metrics.jsonl, of those that hold the numbers, that must agree one after the other.
_LINES_D_WINS, _LINES_ALIKE = 10, 3
# Images are compared after averaging them down to about this many pixels a side.
_SIDE = 8

_TEXTS = {
    "alarm_d_wins": "the discriminator wins: its loss has been next to nothing for long, so G learns little. "
    "A lower --config.optimizer.discriminator_learning_rate in a new --workdir may help.",
    "alarm_alike": f"samples look alike: they are less than {_DIVERSITY} times as far apart as images of the data. The "
    "generator may have collapsed; go back to an earlier checkpoint, or lower the learning rates in a new --workdir.",
}


class Alarms:
    """Watches the lines of metrics.jsonl. After a resume it knows of the lines before."""

    def __init__(self, loss: Loss, before: Iterable[Mapping[str, float]] = ()) -> None:
        self._d_loss = _D_LOSS * loss.undecided
        self._d_wins = self._alike = 0
        for row in before:
            self.watch(row)

    def watch(self, row: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """Takes the next line.

        Returns:
          What to add to it, 'alarm_...': 1.0 for every alarm that is on; and warnings for those that have just begun.
        """
        if "d_loss" in row:
            self._d_wins = self._d_wins + 1 if row["d_loss"] < self._d_loss else 0
        if "diversity" in row:
            self._alike = self._alike + 1 if row["diversity"] < _DIVERSITY else 0
        counts = {"alarm_d_wins": (self._d_wins, _LINES_D_WINS), "alarm_alike": (self._alike, _LINES_ALIKE)}
        present = {"alarm_d_wins": "d_loss" in row, "alarm_alike": "diversity" in row}
        on = {name: 1.0 for name, (count, most) in counts.items() if count >= most and present[name]}
        begun = [_TEXTS[name] for name in on if counts[name][0] == counts[name][1]]
        return on, begun


def diversity(samples: np.ndarray, data: np.ndarray) -> float:
    """How far samples are from the next one like them, relative to as many images of the data; 0: all the same.

    Args:
      samples, data: uint8 [count, height, width, channels]; the counts may differ, the smaller one counts.

    Returns:
      The ratio of the mean distances to the nearest other image, Euclidean, on averages of pixels.
    """
    count = min(len(samples), len(data))
    return _mean_nearest(samples[:count]) / max(_mean_nearest(data[:count]), 1e-6)


def _mean_nearest(images: np.ndarray) -> float:
    count, height, width, channels = images.shape
    block = max(1, min(height, width) // _SIDE)
    rows, columns = height // block, width // block
    blocks = images[:, : rows * block, : columns * block].reshape(count, rows, block, columns, block, channels)
    points = blocks.mean(axis=(2, 4), dtype=np.float64).reshape(count, -1)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(axis=1).mean())
