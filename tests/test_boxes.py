"""Files of boxes: what is written is read, and what is wrong is told."""

import json
from pathlib import Path

import numpy as np
import pytest

from dcgan_jax.analysis import boxes
from dcgan_jax.machine.errors import UserError

SAMPLES = {"step": 7, "seed": 3}
BOX = {"sample": 1.0, "x0": 1.0, "y0": 0.0, "x1": 3.0, "y1": 2.0}


def test_round_trip_and_mask(tmp_path: Path) -> None:
    boxes.write(tmp_path / "boxes.json", SAMPLES, [BOX])
    assert boxes.read(tmp_path / "boxes.json", SAMPLES) == [BOX]
    masks = boxes.masks([BOX], count=2, height=4, width=4)
    assert not masks[0].any()
    np.testing.assert_array_equal(masks[1], [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_masks_of_images_that_are_not_square() -> None:
    masks = boxes.masks([{**BOX, "x1": 5.0, "y1": 1.0}], count=2, height=2, width=6)
    np.testing.assert_array_equal(masks[1], [[0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]])
    with pytest.raises(UserError, match="y 0 to 3, does not lie in the image of 6 x 2 pixels"):
        boxes.masks([{**BOX, "y1": 3.0}], count=2, height=2, width=6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": 2}, "a box is on sample 2, but the samples are numbered 0 to 1"),
        ({"x1": 4.5}, "x 1 to 4.5 and y 0 to 2, does not lie in the image of 4 x 4 pixels"),
        ({"y0": -1}, "does not lie in the image"),
        ({"x0": 3}, "does not lie in the image"),
    ],
)
def test_boxes_outside(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        boxes.masks([{**BOX, **changes}], count=2, height=4, width=4)


def test_files_that_are_not_boxes(tmp_path: Path) -> None:
    file = tmp_path / "boxes.json"
    with pytest.raises(UserError, match="there is no file"):
        boxes.read(file, SAMPLES)
    for content in ("{", "[]", json.dumps({"samples": SAMPLES, "boxes": [{"sample": 1}]})):
        file.write_text(content)
        with pytest.raises(UserError, match="is not a file of boxes"):
            boxes.read(file, SAMPLES)


def test_boxes_on_other_samples(tmp_path: Path) -> None:
    boxes.write(tmp_path / "boxes.json", SAMPLES, [BOX])
    with pytest.raises(UserError, match=r"drawn on other samples \(step 7 there, 8 here\)"):
        boxes.read(tmp_path / "boxes.json", {**SAMPLES, "step": 8})
