"""Boxes that mark something on samples: a file, and masks.

    {"samples": {"step": 4000, "seed": 0, ...}, "boxes": [{"sample": 3, "x0": 10, "y0": 4.5, "x1": 22, "y1": 20}, ...]}

in pixels of the image, x to the right and y down. `python -m dcgan_jax.analysis.window_dropout --annotate` writes it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.runs.trained import Run

Box = dict[str, float]


def samples_of(run: Run, seed: int, label: int | str | None) -> dict[str, Any]:
    """All that the image of a row of noise, and the noise of a number, depend on."""
    return {
        "step": run.step,
        "seed": seed,
        "norm": run.sampler.norm,
        "label": run.find_label(label),
        "run_seed": run.config.seed,
        "data": run.config.data.source,
    }


def read(file: Path, samples: dict[str, Any]) -> list[Box]:
    """The boxes in a file.

    Args:
      file: its path.
      samples: what they depend on (`samples_of`); the file's must be the same.

    Raises:
      UserError: there is no such file, it is not one of boxes, or it belongs to other samples.
    """
    try:
        with files.reading(file):
            content = files.read_json(file, dict)
            found = check(content["boxes"])
            drawn_on = dict(content["samples"])
    except files.Missing:
        raise UserError(f"there is no file {file}: draw boxes with --annotate.") from None
    except files.Damaged as error:
        raise UserError(f"{file} is not a file of boxes ({error.reason}).") from error
    if drawn_on != samples:
        different = [name for name, value in samples.items() if drawn_on.get(name) != value]
        how = "; ".join(f"{name} {drawn_on.get(name)!r} there, {samples[name]!r} here" for name in different)
        raise UserError(
            f"the boxes in {file} were drawn on other samples ({how}): give the same flags, or move the file away and "
            "draw new ones with --annotate."
        )
    return found


def check(boxes: list[Box]) -> list[Box]:
    """The boxes with all their numbers and nothing else. Raises ValueError, KeyError or TypeError if one is missing."""
    return [{name: float(box[name]) for name in ("sample", "x0", "y0", "x1", "y1")} for box in boxes]


def write(file: Path, samples: dict[str, Any], boxes: list[Box]) -> None:
    """Writes the boxes atomically."""
    content = json.dumps({"samples": samples, "boxes": boxes}, indent=1)
    files.write_atomically(file, (content + "\n").encode())


def masks(boxes: list[Box], count: int, height: int, width: int) -> np.ndarray:
    """Pixels of `count` samples whose centre lies in a box, bool [count, height, width].

    Raises:
      UserError: a box lies outside the image, or on no sample.
    """
    covered = np.zeros((count, height, width), bool)
    for box in boxes:
        x0, y0, x1, y1 = (box[name] for name in ("x0", "y0", "x1", "y1"))
        if not 0 <= box["sample"] < count:
            raise UserError(f"a box is on sample {box['sample']:g}, but the samples are numbered 0 to {count - 1}.")
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(
                f"the box on sample {box['sample']:g}, x {x0:g} to {x1:g} and y {y0:g} to {y1:g}, does not lie in the "
                f"image of {width} x {height} pixels."
            )
        shares = np.array([[[x0 / width, y0 / height, x1 / width, y1 / height]]])
        covered[int(box["sample"])] |= attribute_probe.box_masks(shares, height, width)[0]
    return covered
