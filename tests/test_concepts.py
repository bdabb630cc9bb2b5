"""Concepts on the command line, and what A - B + C should show."""

import numpy as np
import pytest

from dcgan_jax.analysis import concepts
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics.attribute_probe import Target

TARGETS = {"man": Target("man", 2), "label": Target("label", 2), "yaw": Target("yaw", 0)}
NAMES = ["calm", "merry"]


def parse(text: str) -> concepts.Concept:
    return concepts.parse("a", text, 30, TARGETS, NAMES)


def test_numbers_and_attributes() -> None:
    assert parse("3, 17,29").numbers == (3, 17, 29)
    assert parse("man=1, label=merry").traits == {"man": 1, "label": 1}
    assert parse("label=0").traits == {"label": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3,30", "there is no sample 30; they are numbered 0 to 29"),
        ("3,x", "is neither numbers"),
        ("", "is neither numbers"),
        ("hat=1", "no attribute 'hat' with classes; they have man, label"),
        ("yaw=1", "no attribute 'yaw' with classes"),
        ("man=2", "man has no value '2'; it has 0 to 1"),
        ("label=angry", "label has no value 'angry'; it has calm, merry"),
    ],
)
def test_what_is_wrong_is_told(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


def test_a_class_that_no_image_has() -> None:
    """The folder has three classes, but only two were packed."""
    names = [*NAMES, "sad"]
    assert concepts.parse("a", "label=merry", 30, TARGETS, names).traits == {"label": 1}
    with pytest.raises(UserError, match="label has no value 'sad'; it has calm, merry"):
        concepts.parse("a", "label=sad", 30, TARGETS, names)


def test_description_is_what_was_written() -> None:
    assert concepts.describe({"label": 1, "man": 0}, NAMES) == "label=merry,man=0"


def test_attributes_without_a_probe() -> None:
    with pytest.raises(UserError, match="have no labels and no attributes"):
        concepts.parse("a", "man=1", 30, {}, None)


def test_shows() -> None:
    found = {
        "man": np.array([[0.4, 0.6], [0.05, 0.95], [0.9, 0.1]]),
        "label": np.array([[0.1, 0.9], [0.02, 0.98], [0.5, 0.5]]),
    }
    traits = {"man": 1, "label": 1}
    np.testing.assert_array_equal(concepts.shows(found, traits), [True, True, False])
    np.testing.assert_array_equal(concepts.shows(found, traits, 0.9), [False, True, False])


def test_combination_by_hand() -> None:
    """Smiling woman - neutral woman + neutral man is a smiling man."""
    woman, man = {"man": 0}, {"man": 1}
    smiling, neutral = {"smiling": 1}, {"smiling": 0}
    result = concepts.combine(smiling | woman, neutral | woman, neutral | man)
    assert result == {"smiling": 1, "man": 1}
    with pytest.raises(UserError, match="B shares its value neither with A nor with C"):
        concepts.combine({"label": 0}, {"label": 1}, {"label": 2})
    with pytest.raises(UserError, match="described by the same attributes"):
        concepts.combine(smiling, neutral | woman, neutral | man)
