"""What every analysis leaves in the run's folder: <workdir>/analysis/<name>/results.json and pictures."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcgan_jax import run_folder


def folder(workdir: Path, name: str) -> Path:
    """Where the analysis `name` of a run writes."""
    return workdir / "analysis" / name


def write(out: Path, figures: dict[str, Any], paper: dict[str, Any]) -> None:
    """Writes results.json.

    Args:
      out: see `folder`.
      figures: plain names and numbers.
      paper: the paper's figures under the same names, and a "source" for each that the paper does not print.
    """
    command = ["python", "-m", _module(), *sys.argv[1:]]
    content = {**figures, "paper": paper, "command": " ".join(command)}
    run_folder.write_atomically(out / "results.json", (json.dumps(content, indent=2) + "\n").encode())


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Lines of (what, here, paper), aligned."""
    head = ("", "here", "paper")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(3)]
    return "\n".join(
        f"{what:{widths[0]}}  {here:>{widths[1]}}  {paper:>{widths[2]}}".rstrip() for what, here, paper in (head, *rows)
    )


def _module() -> str:
    """Name of the module that was started with `python -m`."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]
