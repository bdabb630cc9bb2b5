"""Boxes that mark something on samples: a file, and masks.

    {"step": 4000, "seed": 0, "boxes": [{"sample": 3, "x0": 10, "y0": 4.5, "x1": 22, "y1": 20}, ...]}

in pixels of the image, x to the right and y down. `python -m dcgan_jax.analysis.window_dropout --annotate` writes it.
"""

import json
from pathlib import Path

import numpy as np

from dcgan_jax import attribute_probe, run_folder
from dcgan_jax.errors import UserError

Box = dict[str, float]


def read(file: Path, step: int, seed: int) -> list[Box]:
    """The boxes in a file.

    Args:
      file: its path.
      step, seed: of the samples; the file's must be the same.

    Raises:
      UserError: there is no such file, it is not one of boxes, or it belongs to other samples.
    """
    try:
        content = json.loads(file.read_text())
        found = check(content["boxes"])
        drawn_on = int(content["step"]), int(content["seed"])
    except FileNotFoundError:
        raise UserError(f"there is no file {file}: draw boxes with --annotate.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a file of boxes ({type(error).__name__}: {error}).") from error
    if drawn_on != (step, seed):
        raise UserError(
            f"the boxes in {file} were drawn on samples of step {drawn_on[0]}, seed {drawn_on[1]}, not of step {step}, "
            f"seed {seed}: give --step and --seed, or move the file away and draw new ones with --annotate."
        )
    return found


def check(boxes: list[Box]) -> list[Box]:
    """The boxes with all their numbers and nothing else. Raises ValueError, KeyError or TypeError if one is missing."""
    return [{name: float(box[name]) for name in ("sample", "x0", "y0", "x1", "y1")} for box in boxes]


def write(file: Path, step: int, seed: int, boxes: list[Box]) -> None:
    """Writes the boxes atomically."""
    content = json.dumps({"step": step, "seed": seed, "boxes": boxes}, indent=1)
    run_folder.write_atomically(file, (content + "\n").encode())


def masks(boxes: list[Box], count: int, side: int) -> np.ndarray:
    """Pixels of `count` samples whose centre lies in a box, bool [count, side, side].

    Raises:
      UserError: a box lies outside the image or on no sample, or there are none.
    """
    covered = np.zeros((count, side, side), bool)
    for box in boxes:
        x0, y0, x1, y1 = (box[name] for name in ("x0", "y0", "x1", "y1"))
        if not 0 <= box["sample"] < count:
            raise UserError(f"a box is on sample {box['sample']:g}, but the samples are numbered 0 to {count - 1}.")
        if not (0 <= x0 < x1 <= side and 0 <= y0 < y1 <= side):
            raise UserError(
                f"the box on sample {box['sample']:g}, x {x0:g} to {x1:g} and y {y0:g} to {y1:g}, does not lie in the "
                f"image, whose side is {side} pixels."
            )
        covered[int(box["sample"])] |= attribute_probe.box_masks(np.array([[[x0, y0, x1, y1]]]) / side, side)[0]
    if not covered.any():
        raise UserError("there are no boxes: draw some with --annotate.")
    return covered
