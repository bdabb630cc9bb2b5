"""Classes by name: their order, what is chosen on the command line, and the labels of another labelled set."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import number_lists
from dcgan_jax.machine.errors import UserError

_log = logging.getLogger(__name__)

# Folders of these names are parts of a data set, not classes.
_SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev"))
# Labels are below this number.
MOST = 2**16
_MOST_LISTED = 20  # classes in a message


def in_order(names: Iterable[str]) -> list[str]:
    """The different names, digits in them as numbers: 2 before 10."""
    return sorted(set(names), key=lambda name: (_parts(name), name))


def _parts(name: str) -> list[tuple[int, int, str]]:
    """Text and numbers in turn, comparable; a number by its count of digits and then by these."""
    parts = re.split(r"([0-9]+)", name)
    digits = [part.lstrip("0") for part in parts[1::2]]
    numbers = [(0, len(part), part) for part in digits]
    texts = [(1, 0, part) for part in parts[::2]]
    mixed = [part for pair in zip(texts, numbers, strict=False) for part in pair]
    return [part for part in [*mixed, texts[-1]] if part != (1, 0, "")]


def by_name(values: Sequence[str]) -> tuple[list[int], list[str]]:
    """Labels for the names of classes, one per image, and the names in the order of the labels."""
    names = in_order(values)
    labels = {name: label for label, name in enumerate(names)}
    return [labels[value] for value in values], names


def are_splits(class_names: Sequence[str] | None) -> bool:
    """Whether the classes are train, test and the like, which say nothing about an image."""
    return bool(class_names) and all(name.lower() in _SPLITS for name in class_names or ())


def counts(dataset: ImageDataset) -> list[int]:
    """How many images each class has, also those with a name but without an image; [] if there are no labels."""
    if dataset.labels is None:
        return []
    return np.bincount(dataset.labels, minlength=len(dataset.class_names or ())).tolist()


def describe(labels: Iterable[int], class_names: Sequence[str] | None, counts: Sequence[int] = ()) -> str:
    """Labels for a message: "0 cat (12), 1 dog (30)"; as many of them as a line can hold."""
    labels, names = list(labels), class_names or ()
    words = []
    for label in labels[:_MOST_LISTED]:
        name = f" {names[label]}" if label < len(names) and names[label] != str(label) else ""
        words.append(f"{label}{name}" + (f" ({counts[label]:,})" if label < len(counts) else ""))
    more = [f"and {len(labels) - _MOST_LISTED:,} more"] if len(labels) > _MOST_LISTED else []
    return ", ".join(words + more)


def find_label(text: str, class_names: Sequence[str] | None, count: int | None = None) -> int:
    """The label of a class given by name or, if none has this name, by number.

    Args:
      text: the name or number.
      class_names: of labels 0, 1, ...; None: there are only numbers.
      count: how many classes there are; None: as many as names.

    Raises:
      UserError: there is no such class.
    """
    names = list(class_names or ())
    if text in names:
        return names.index(text)
    count = len(names) if count is None and names else count
    if re.fullmatch(r"[0-9]{1,9}", text) and (count is None or int(text) < count):
        return int(text)
    if names:
        known = describe(range(len(names)), names)
    else:
        known = "numbers from 0 on" if count is None else f"0 to {count - 1}"
    raise UserError(f"there is no class {text!r}; the classes are: {known}.")


def listed(text: str, class_names: Sequence[str] | None) -> list[str]:
    """A list of classes in its parts, for `find_label`: "dog,3,10-12" is dog, 3, 10, 11, 12.

    A name that holds a hyphen is a name; one that holds a comma cannot be listed, but its number can.

    Raises:
      UserError: a range runs backwards or has too many numbers.
    """
    names, parts = list(class_names or ()), list[str]()
    for part in (part.strip() for part in text.split(",")):
        is_range = part not in names and re.fullmatch(r"[0-9]{1,9}-[0-9]{1,9}", part)
        parts += map(str, number_lists.parse(part)) if is_range else [part]
    return parts


def numbered_like(
    dataset: ImageDataset, class_names: Sequence[str] | None, where: str, count: int | None = None
) -> ImageDataset:
    """The same images with the labels of a first set, see `map_labels`. Classes without an image are a warning."""
    mapped = map_labels(dataset, class_names, where, count)
    if mapped.missing:
        _log.warning("%s has no images of %s.", where, ", ".join(mapped.missing))
    return replace(dataset, labels=mapped.labels, class_names=list(class_names) if class_names else dataset.class_names)


class Mapped(NamedTuple):
    """Labels of another set, in the numbers of the first.

    Attributes:
      labels: int32 [N].
      missing: classes of the first set, by name or number, of which the other has no image.
    """

    labels: np.ndarray
    missing: list[str]


def map_labels(
    dataset: ImageDataset, class_names: Sequence[str] | None, where: str, count: int | None = None
) -> Mapped:
    """The labels of `dataset` as the first set numbers its classes: by name, or by number if one set has no names.

    Args:
      dataset: the other set.
      class_names: of the first set.
      where: names the other set in messages.
      count: how many classes the first set has; None: as many as names.

    Raises:
      UserError: the other set has no labels, or images of a class that the first set does not have.
    """
    if dataset.labels is None:
        raise UserError(f"{where} has no labels: for an image folder, sort the images into one subfolder per class.")
    names, others = list(class_names or ()), dataset.class_names or []
    count = len(names) if count is None and names else count
    present = np.flatnonzero(np.bincount(dataset.labels)).tolist()
    if names and others:
        known = {name: label for label, name in enumerate(names)}
        target = {label: known.get(others[label], -1) if label < len(others) else -1 for label in present}
    else:
        target = {label: label if count is None or label < count else -1 for label in present}
    if unknown := [label for label in present if target[label] < 0]:
        have = describe(range(len(names)), names) if names else f"0 to {(count or 0) - 1}"
        raise UserError(
            f"{where} has images of classes that the first set does not have: {describe(unknown, others)}. "
            f"The first set has {have}. Rename or remove them."
        )
    table = np.zeros(max(present, default=0) + 1, np.int32)
    for label, new in target.items():
        table[label] = new
    labels = table[dataset.labels]
    missing = sorted(set(range(count or 0)) - set(labels.tolist()))
    return Mapped(labels, [names[label] if label < len(names) else str(label) for label in missing])
