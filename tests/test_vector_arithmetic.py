"""Vector arithmetic: sums and intervals by hand, and the command on trained runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import vector_arithmetic
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import trained
from tests import tiny
from tests.trained import analyse

NUMBERS = ("--a=1,2", "--b=3,4", "--c=5,6")


def test_arithmetic_by_hand() -> None:
    values = np.array([[1.0, 0.0], [3.0, 0.0], [10.0, 2.0], [20.0, 2.0], [0.0, 5.0], [0.0, 7.0]])
    exemplars = np.array([[[0, 1], [2, 3], [4, 5]], [[4, 4], [0, 0], [1, 1]]])
    np.testing.assert_allclose(vector_arithmetic.arithmetic(values, exemplars), [[2 - 15, 0 - 2 + 6], [2, 5]])


def test_interval_by_hand() -> None:
    """Wilson's interval of 8 of 10, as published in many tables: 0.490 to 0.943."""
    assert vector_arithmetic.interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert vector_arithmetic.interval(0, 10)[0] == pytest.approx(0, abs=1e-12)
    assert vector_arithmetic.interval(10, 10)[1] == pytest.approx(1)


def test_default_formulas() -> None:
    coins = np.arange(6, dtype=np.int32) % 2
    faces = replace(tiny.dataset(6), attributes={name: coins for name in ("man", "smiling", "glasses")})
    assert vector_arithmetic.default_formulas(faces, False) == list(vector_arithmetic.FORMULAS[:2])
    labelled = replace(tiny.dataset(6), labels=np.array([2, 1, 2, 1, 2, 0], np.int32))
    assert vector_arithmetic.default_formulas(labelled, False) == [("label=1", "label=2", "label=2")]
    named = replace(labelled, class_names=["x", "y", "z"])
    assert vector_arithmetic.default_formulas(named, False) == [("label=y", "label=z", "label=z")]
    assert vector_arithmetic.default_formulas(named, True) == []
    assert vector_arithmetic.default_formulas(tiny.dataset(6), False) == []


def test_exemplars_by_number(trained_run: Path) -> None:
    process = analyse("vector_arithmetic", trained_run, *NUMBERS)
    assert process.returncode == 0, process.stderr
    out = trained_run / "analysis" / "vector_arithmetic"
    results = json.loads((out / "results.json").read_text())
    assert results["formulas"] == [{"formula": "1,2 - 3,4 + 5,6", "trials": 1, "exemplars": 2}]
    with Image.open(out / "arithmetic_1.png") as sheet:
        assert sheet.size == (8 * (3 + 3 + 1) + 2 * 8, 3 * 8)  # two exemplars and the mean, 3 x 3, baselines
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size == (560, 20 * 56)


def test_without_numbers_and_without_labels_it_asks(trained_run: Path) -> None:
    process = analyse("vector_arithmetic", trained_run)
    assert process.returncode == 2
    assert "choose samples from" in process.stderr and "sheet.png" in process.stderr


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        (("1,2", "3,4", None), "give all three of --a, --b and --c, or none"),
        (("1,2", "3,4", "5,2000"), "--c=5,2000: there is no sample 2000; they are numbered 0 to 1999"),
        (("1,2", "3,4", "5,6,7"), "must name equally many samples"),
        (("label=1", "label=0", "label=0"), "have no labels and no attributes"),
    ],
)
def test_bad_input(trained_run: Path, concepts: tuple[str | None, ...], message: str) -> None:
    a, b, c = concepts
    with pytest.raises(UserError, match=message):
        vector_arithmetic.measure(trained.load(trained_run), a=a, b=b, c=c)


def test_concepts_that_cannot_be_read_are_refused_before_anything_is_drawn(trained_run: Path) -> None:
    process = analyse("vector_arithmetic", trained_run, "--a=1,2", "--b=3,4", "--c=5,2000")
    assert process.returncode == 2
    assert "there is no sample 2000" in process.stderr and "samples to choose from" not in process.stderr
