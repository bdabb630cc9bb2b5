"""Concepts as sets of samples: chosen by number from a sheet, or by what the attribute probe sees.

Both are written on the command line. `12,40,7` are numbers of samples, as sheet.png of vector_arithmetic shows them;
`smiling=1,man=0` or `label=happiness` are attributes and the values that they must have.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dcgan_jax.machine import number_lists
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics.attribute_probe import Target

# A sample shows a value if the probe gives it at least this probability.
CONFIDENT = 0.9


class Concept(NamedTuple):
    """Either sample numbers, or attributes with their values.

    Attributes:
      text: as written.
      numbers: of samples; empty if the concept is described by attributes.
      traits: value by attribute.
    """

    text: str
    numbers: tuple[int, ...]
    traits: Mapping[str, int]


def parse_numbers(flag: str, text: str, count: int, what: str = "sample") -> tuple[int, ...]:
    """The numbers of a flag, of samples or `what` else. Raises UserError if they are none or not below `count`."""
    try:
        numbers = tuple(number_lists.parse(text))
    except UserError as error:
        raise UserError(f"--{flag}={text!r} must be numbers of {what}s, such as 3,17,20-22: {error}") from error
    if beyond := [number for number in numbers if number >= count]:
        raise UserError(f"--{flag}={text}: there is no {what} {beyond[0]}; they are numbered 0 to {count - 1}.")
    return numbers


def parse(flag: str, text: str, count: int, targets: Mapping[str, Target], class_names: list[str] | None) -> Concept:
    """A concept of `count` samples at most.

    Args:
      flag: its name, for messages.
      text: see the module's docstring.
      count: how many samples there are.
      targets: what a probe reads (attribute_probe.targets_of); {} if nothing is known about the images.
      class_names: of the label.

    Raises:
      UserError: it is not one, a number is out of range, or there is no such attribute or value.
    """
    if re.fullmatch(r"[\d\s,-]+", text):
        return Concept(text, parse_numbers(flag, text, count), {})
    if not re.fullmatch(r"\s*\w+\s*=[^,=]+(,\s*\w+\s*=[^,=]+)*", text):
        raise UserError(f"--{flag}={text!r} is neither numbers (3,17,20) nor attributes (smiling=1,man=0).")
    if not targets:
        raise UserError(
            f"--{flag}={text}: the run's images have no labels and no attributes; choose samples by their numbers."
        )
    traits = {}
    for part in text.split(","):
        name, value = (side.strip() for side in part.split("="))
        traits[name] = _value(flag, name, value, targets, (class_names or []) if name == "label" else [])
    return Concept(text, (), traits)


def _value(flag: str, name: str, text: str, targets: Mapping[str, Target], names: list[str]) -> int:
    target = targets.get(name)
    if target is None or not target.classes:
        known = ", ".join(target.name for target in targets.values() if target.classes) or "none"
        raise UserError(f"--{flag}: the images have no attribute {name!r} with classes; they have {known}.")
    names = names[: target.classes]
    value = names.index(text) if text in names else int(text) if text.isdecimal() else target.classes
    if value < target.classes:
        return value
    known = ", ".join(names) or f"0 to {target.classes - 1}"
    raise UserError(f"--{flag}: {name} has no value {text!r}; it has {known}.")


def describe(traits: Mapping[str, int], class_names: list[str] | None) -> str:
    """As it is written on the command line, classes by name."""
    names = class_names or []
    return ",".join(f"{name}={names[value] if name == 'label' and names else value}" for name, value in traits.items())


def shows(found: Mapping[str, np.ndarray], traits: Mapping[str, int], least: float | None = None) -> np.ndarray:
    """Which images show all traits, bool [count].

    Args:
      found: what `AttributeProbe.read` gives.
      traits: value by attribute.
      least: probability that each value must have; None: more than any other value.
    """
    matches = np.ones(len(next(iter(found.values()))), bool)
    for name, value in traits.items():
        probability = found[name]
        matches &= probability.argmax(1) == value if least is None else probability[:, value] >= least
    return matches


def combine(a: Mapping[str, int], b: Mapping[str, int], c: Mapping[str, int]) -> dict[str, int]:
    """Traits of A - B + C.

    What A and B share cancels, so C decides; what B and C share cancels, so A decides.

    Raises:
      UserError: the three are not described by the same attributes, or one of them has three values.
    """
    if not a.keys() == b.keys() == c.keys():
        raise UserError("the three concepts must be described by the same attributes, such as smiling and man.")
    traits = {}
    for name in a:
        if a[name] == b[name]:
            traits[name] = c[name]
        elif b[name] == c[name]:
            traits[name] = a[name]
        else:
            raise UserError(f"A - B + C has no {name}: B shares its value neither with A nor with C.")
    return traits
