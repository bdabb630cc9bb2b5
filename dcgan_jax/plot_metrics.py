"""Plots a run's losses, D(x) and D(G(z)): python -m dcgan_jax.plot_metrics --workdir=runs/faces

writes metrics.png into the run's folder. Thin lines are the logged values, thick ones their running mean.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from dcgan_jax import command_line
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import plots
from dcgan_jax.runs import run_folder

_PANELS = {
    "loss": {"d_loss": "discriminator", "g_loss": "generator"},
    "mean sigmoid of the logit": {"d_real": "D(x)", "d_fake": "D(G(z))"},
}
# Share of the curve that the running mean covers.
_WINDOW = 0.03
_LARGEST = 3.5e38  # metrics are float32


def plot(workdir: Path) -> Path:
    """Writes <workdir>/metrics.png and returns its path.

    Raises:
      UserError: the run has no metrics yet.
    """
    rows = [row for row in run_folder.read_metrics(workdir) if _is_complete(row)]
    if not rows:
        raise UserError(
            f"{run_folder.metrics(workdir)} holds no metrics: give the --workdir of a run that has logged some."
        )
    steps = np.array([row["step"] for row in rows])
    figure, axes = plt.subplots(1, len(_PANELS), figsize=(10, 3.2), layout="constrained")
    for axis, (title, curves) in zip(axes, _PANELS.items(), strict=True):
        for color, (name, label) in zip(("tab:blue", "tab:orange"), curves.items(), strict=True):
            values = np.array([row[name] for row in rows])
            axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.7)
            axis.plot(steps, running_mean(values, max(1, round(_WINDOW * len(values)))), color=color, label=label)
        axis.set(xlabel="step", title=title)
        axis.legend(frameon=False)
    axes[1].set_ylim(0, 1)
    files.write_atomically(workdir / "metrics.png", plots.png(figure))
    return workdir / "metrics.png"


def _is_complete(row: dict[str, Any]) -> bool:
    names = ["step", *(name for curves in _PANELS.values() for name in curves)]
    return all(isinstance(row.get(name), int | float) and abs(row[name]) < _LARGEST for name in names)


def running_mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over up to `radius` neighbours on either side, float64 [n] -> float64 [n]."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - radius, 0)
    last = np.minimum(np.arange(len(values)) + radius + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def main() -> None:
    print(plot(Path(_WORKDIR.value)))


if __name__ == "__main__":
    _WORKDIR = command_line.define_path("workdir", None, "Folder of the run.", required=True)
    command_line.run(main)
