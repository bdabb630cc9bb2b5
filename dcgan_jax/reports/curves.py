"""Draws the distances of a study's runs over their steps.

    python -m dcgan_jax.reports.curves curves.png docs/experiments/small_faces_300.json ...

A panel for each results.json of a study (evaluation/variations.py), named for its file; a colour for each variation, a
line for each seed.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib import ticker

from dcgan_jax.machine import files
from dcgan_jax.reports import plots

_COLUMNS = 4
_PANEL = (2.5, 2.1)  # inches


def main(out: Path, results: Sequence[Path]) -> None:
    studies = {path.stem.replace("_", " "): json.loads(path.read_text())["variations"] for path in results}
    files.write_atomically(out, draw(studies))


def draw(studies: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The PNG of a panel for each study, all with the same scales.

    Args:
      studies: by title, the 'variations' of each: by name, what `variations.summarise` returns.
    """
    columns = min(_COLUMNS, len(studies))
    rows = -(-len(studies) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(_PANEL[0] * columns + 1.8, _PANEL[1] * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    names = list(dict.fromkeys(name for study in studies.values() for name in study))
    shown = {}
    for axis, (title, study) in zip(axes.flat, studies.items(), strict=False):
        for name, found in study.items():
            for run in found["runs"]:
                line = axis.plot(
                    run["steps"], run["distances"], marker=".", linewidth=1, alpha=0.7, color=f"C{names.index(name)}"
                )
                shown[name] = line[0]
        axis.set(title=title, yscale="log", xlabel="step", ylabel="distance")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        axis.label_outer()
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[len(studies) :]:
        axis.set_axis_off()
    figure.legend(shown.values(), [name.replace("_", " ") for name in shown], loc="outside right upper", frameon=False)
    return plots.png(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
