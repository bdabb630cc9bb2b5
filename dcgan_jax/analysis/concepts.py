"""Concepts as sets of samples: chosen by number from a sheet, or by what the attribute probe sees.

Both are written on the command line. `12,40,7` are numbers of samples, as sheet.png of vector_arithmetic shows them;
`smiling=1,man=0` or `label=happiness` are attributes and the values that they must have.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dcgan_jax.attribute_probe import AttributeProbe
from dcgan_jax.errors import UserError

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


def parse(flag: str, text: str, count: int, probe: AttributeProbe | None) -> Concept:
    """A concept of `count` samples at most.

    Args:
      flag: its name, for messages.
      text: see the module's docstring.
      count: how many samples there are.
      probe: None if the data has no attributes.

    Raises:
      UserError: it is not one, a number is out of range, or the probe knows no such attribute or value.
    """
    if re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", text):
        numbers = tuple(int(number) for number in text.split(","))
        if beyond := [number for number in numbers if number >= count]:
            raise UserError(f"--{flag}={text}: there is no sample {beyond[0]}; they are numbered 0 to {count - 1}.")
        return Concept(text, numbers, {})
    if not re.fullmatch(r"\s*\w+\s*=[^,=]+(,\s*\w+\s*=[^,=]+)*", text):
        raise UserError(f"--{flag}={text!r} is neither numbers (3,17,20) nor attributes (smiling=1,man=0).")
    if probe is None:
        raise UserError(
            f"--{flag}={text} needs an attribute probe, but the run's images have no labels and no attributes: "
            "choose samples by their numbers."
        )
    pairs = [part.split("=") for part in text.split(",")]
    return Concept(text, (), {name.strip(): _value(flag, name.strip(), value.strip(), probe) for name, value in pairs})


def _value(flag: str, name: str, text: str, probe: AttributeProbe) -> int:
    target = probe.targets.get(name)
    if target is None or not target.classes:
        known = ", ".join(target.name for target in probe.targets.values() if target.classes)
        raise UserError(f"--{flag}: the probe has no attribute {name!r}; it has {known}.")
    names = (probe.class_names or []) if name == "label" else []
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < target.classes:
        return int(text)
    known = ", ".join(names) or f"0 to {target.classes - 1}"
    raise UserError(f"--{flag}: {name} has no value {text!r}; it has {known}.")


def describe(traits: Mapping[str, int], probe: AttributeProbe) -> str:
    """As it is written on the command line, classes by name."""
    names = probe.class_names or []
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
