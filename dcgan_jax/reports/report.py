"""What analyses and evaluations leave in a run's folder, <workdir>/analysis/<name>/: results.json, pictures, arrays."""

import io
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcgan_jax.machine import files
from dcgan_jax.reports import image_grid


class Figure(NamedTuple):
    """One result of an experiment, written once: results.json, the table and the page all show it.

    Attributes:
      name: its key in results.json; '' for a line of the table alone.
      value: what results.json holds: numbers, strings, lists and dicts of them; nan becomes null.
      text: what the table calls it; '' with `here` '' for results.json alone.
      here: the value as the table shows it; '': as Python prints it.
      paper: the paper's value, in results.json under 'paper'; None where it has none.
      paper_here: the paper's value as the table shows it; '': as Python prints it.
    """

    name: str
    value: Any = None
    text: str = ""
    here: str = ""
    paper: Any = None
    paper_here: str = ""

    def row(self) -> dict[str, str]:
        """A line of the table: 'what' was measured, 'here' and in the 'paper' ('' where it has none)."""
        paper = self.paper_here or ("" if self.paper is None else str(self.paper))
        return {"what": self.text, "here": self.here or ("" if self.value is None else str(self.value)), "paper": paper}


class Picture(NamedTuple):
    """A file beside results.json.

    Attributes:
      file: its name, ending in .png, or in .gif, .webp or .mp4 for a film.
      content: uint8 [height, width, 1 or 3] for a PNG, or the bytes of the file.
      caption: one sentence or two.
    """

    file: str
    content: np.ndarray | bytes
    caption: str


@dataclass(frozen=True)
class Report:
    """An experiment's outcome. `report["mean_change"]` is the value of a figure.

    Attributes:
      title: of the experiment, and where it stands in the paper.
      figures: in the order of the table.
      pictures: see `Picture`.
      source: of those of the paper's figures that the paper does not print.
      paper: the paper's figures that belong to none of `figures`, by name.
      arrays: kept beside the pictures, by the name of the file, which ends in .npy.
    """

    title: str
    figures: Sequence[Figure]
    pictures: Sequence[Picture] = ()
    source: str = ""
    paper: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """The value of a figure by its name. Raises KeyError if there is none."""
        return self.values()[name]

    def values(self) -> dict[str, Any]:
        """The values of all figures by name."""
        return {figure.name: figure.value for figure in self.figures if figure.name}

    def rows(self) -> list[dict[str, str]]:
        """The lines of the table, see `Figure.row`."""
        return [figure.row() for figure in self.figures if figure.text or figure.here]

    def table(self) -> str:
        """The rows under a line of heads, aligned."""
        rows = self.rows()
        head = {"what": "", "here": "here", "paper": "paper" if any(row["paper"] for row in rows) else ""}
        lines = [head, *rows]
        widths = {name: max(len(row[name]) for row in lines) for name in head}
        return "\n".join(
            "  ".join(f"{line[name]:{'<' if name == 'what' else '>'}{widths[name]}}" for name in head).rstrip()
            for line in lines
        )

    def save(self, folder: str | Path, command: str = "") -> None:
        """Writes the pictures, the arrays and then results.json into `folder`, which is made if need be.

        `command`: what makes the report again on the command line; the page shows it.
        """
        folder = Path(folder)
        for picture in self.pictures:
            if isinstance(picture.content, bytes):
                files.write_atomically(folder / picture.file, picture.content)
            else:
                image_grid.save_png(folder / picture.file, picture.content)
        for name, array in self.arrays.items():
            files.write_atomically(folder / name, _npy(array))
        paper = {figure.name: figure.paper for figure in self.figures if figure.name and figure.paper is not None}
        content = {
            **self.values(),
            "paper": paper | dict(self.paper) | ({"source": self.source} if self.source else {}),
            "command": command,
            "title": self.title,
            "table": self.rows(),
            "pictures": [{"file": picture.file, "caption": picture.caption} for picture in self.pictures],
        }
        text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
        files.write_atomically(folder / "results.json", (text + "\n").encode())


def folder(workdir: Path, kind: str, name: str) -> Path:
    """Where the experiment `name` of a kind ('analysis' or 'evaluation') writes."""
    return workdir / kind / name


def publish(out: Path, report: Report) -> None:
    """Saves a report in the folder `out`, with this process's command, and prints its table."""
    report.save(out, shlex.join(["python", "-m", _module(), *sys.argv[1:]]))
    print(report.table())
    print(", ".join([*(picture.file for picture in report.pictures), *report.arrays, "results.json"]), "in", out)


def _npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _without_nan(value: Any) -> Any:
    """JSON has no number for what could not be measured: null."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _module() -> str:
    """Name of the module that was started with `python -m`."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]
