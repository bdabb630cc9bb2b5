"""What analyses and evaluations leave in a run's folder, <workdir>/analysis/<name>/: pictures and results.json."""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcgan_jax.machine import files
from dcgan_jax.reports import image_grid


class Row(NamedTuple):
    """A line of the printed table: what was measured, its figure here, and the paper's ('' where it has none)."""

    what: str
    here: str
    paper: str = ""


class Picture(NamedTuple):
    """A file beside results.json.

    Attributes:
      file: its name, ending in .png or .gif.
      content: uint8 [height, width, 1 or 3] for a PNG, or the bytes of the file.
      caption: one sentence or two.
    """

    file: str
    content: np.ndarray | bytes
    caption: str


@dataclass(frozen=True)
class Report:
    """An experiment's outcome.

    Attributes:
      title: of the experiment, and where it stands in the paper.
      figures: plain names and numbers.
      rows: the figures worth printing.
      pictures: see `Picture`.
      paper: the paper's figures under the same names, and "source" for those that the paper does not print.
    """

    title: str
    figures: dict[str, Any]
    rows: Sequence[Row]
    pictures: Sequence[Picture]
    paper: dict[str, Any]


def folder(workdir: Path, kind: str, name: str) -> Path:
    """Where `name` of a kind ('analysis' or 'evaluation') writes."""
    return workdir / kind / name


def publish(out: Path, report: Report) -> None:
    """Writes the pictures and then results.json into the folder `out`, and prints the table."""
    for picture in report.pictures:
        if isinstance(picture.content, bytes):
            files.write_atomically(out / picture.file, picture.content)
        else:
            image_grid.save_png(out / picture.file, picture.content)
    content = {
        **report.figures,
        "paper": report.paper,
        "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
        "title": report.title,
        "table": [row._asdict() for row in report.rows],
        "pictures": [{"file": picture.file, "caption": picture.caption} for picture in report.pictures],
    }
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
    files.write_atomically(out / "results.json", (text + "\n").encode())
    print(table(report.rows))
    print(", ".join([*(picture.file for picture in report.pictures), "results.json"]), "in", out)


def _without_nan(value: Any) -> Any:
    """JSON has no number for what could not be measured: null."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def table(rows: Sequence[Row]) -> str:
    """The rows under a line of heads, aligned."""
    lines = [Row("", "here", "paper" if any(row.paper for row in rows) else ""), *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(3)]
    return "\n".join(
        f"{row.what:{widths[0]}}  {row.here:>{widths[1]}}  {row.paper:>{widths[2]}}".rstrip() for row in lines
    )


def _module() -> str:
    """Name of the module that was started with `python -m`."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]
