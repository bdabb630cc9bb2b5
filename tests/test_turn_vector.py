"""Turn vectors: the choice of exemplars, the figures along an axis by hand, and the command."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import turn_vector
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics.attribute_probe import AttributeProbe, Target
from dcgan_jax.runs import trained
from tests.trained import analyse


def test_exemplars_are_extremes() -> None:
    values = np.random.default_rng(0).permutation(100).astype(float)
    groups = turn_vector.choose_extremes(values, 4, 5, np.random.default_rng(1))
    assert len(groups) == 5
    for low, high in groups:
        assert len(set(low)) == len(set(high)) == 4
        assert values[low].max() < 10 and values[high].min() >= 90


class Reader:
    """Stands for a probe: images are rows of z, the attribute their first number, the class the sign of the second."""

    def __init__(self) -> None:
        self.targets = {"yaw": Target("yaw", 0), "man": Target("man", 2)}

    def read(self, images: np.ndarray) -> dict[str, np.ndarray]:
        man = (images[:, 1] > 0).astype(float)
        return {"yaw": images[:, 0], "man": np.stack([1 - man, man], 1)}


def test_measures_by_hand() -> None:
    """Along (1, 0) the attribute rises and the class stays; along (0, 3) it is the other way round."""
    z = np.array([[0.5, 1.0], [-0.5, -1.0]])
    steps = np.array([-1.0, 0.0, 1.0])

    def measure(*vectors: tuple[float, float]) -> dict[str, Any]:
        reader = cast(AttributeProbe, Reader())
        return turn_vector.turn(reader, "yaw", lambda images: images, z, np.array(vectors), steps)

    turned = measure((1.0, 0.0), (3.0, 0.0))
    assert turned["mean"] == [-2, 0, 2]
    assert turned["standard_error"] == pytest.approx([1, 0, 1])
    assert turned["span"] == 4 and turned["kept"] == 1
    assert turned["monotone_share"] == 1 and turned["correlation"] == pytest.approx(1)
    other = measure((0.0, 3.0), (0.0, 3.0))
    assert other["mean"] == [0, 0, 0] and other["monotone_share"] == other["span"] == 0
    assert other["kept"] == 0.5  # one end of the axis each


def test_exemplars_by_number(trained_run: Path) -> None:
    process = analyse("turn_vector", trained_run, "--left=1,2,3,4", "--right=5,6,7,8")
    assert process.returncode == 0, process.stderr
    out = trained_run / "analysis" / "turn_vector"
    results = json.loads((out / "results.json").read_text())
    assert results["left"] == [1, 2, 3, 4] and results["axis"][0] == -1 and len(results["axis"]) == 9
    with Image.open(out / "turn.png") as sheet, Image.open(out / "exemplars.png") as exemplars:
        assert sheet.size == (9 * 8, 6 * 8)
        assert exemplars.size == (5 * 8, 2 * 8 + 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"left": [1, 2]}, "--right is missing"),
        ({"left": [1, 2], "right": [3, 2000]}, "there is no sample 2000"),
        ({}, "have no real-valued attribute"),
    ],
)
def test_bad_input(trained_run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        turn_vector.measure(trained.load(trained_run), **options)


def test_a_command_that_cannot_work(trained_run: Path) -> None:
    process = analyse("turn_vector", trained_run, "--left=1,2", "--right=3,x")
    assert process.returncode == 2
    assert "must be numbers of samples" in process.stderr and "Traceback" not in process.stderr
