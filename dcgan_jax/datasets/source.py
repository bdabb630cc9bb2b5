"""What a source of images is: examples, a list of them, and how they are read."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_jax.machine.errors import UserError


@dataclass(frozen=True)
class Example:
    """One image before decoding: encoded bytes, the path of a file, or uint8 [height, width, 3].

    Either all examples of a source have a label or none has; all have the same attributes, of the same shapes.
    """

    image: bytes | Path | np.ndarray
    key: str
    label: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Items:
    """What there is to read: `count` picklable references, in the order of the pack."""

    count: int
    references: Iterable[Any]
    class_names: list[str] | None = None


@dataclass(frozen=True)
class Source:
    """Where images come from.

    name: the source in its canonical form, paths absolute.
    version: of the data set or renderer; '' where there is none.
    fingerprint: JSON values that change whenever the examples do.
    list_items: called once, in the process that builds the pack. May download; raises UserError.
    read: references -> their examples, in order. Picklable; called with short runs of references in many processes.
    """

    name: str
    version: str
    fingerprint: Mapping[str, Any]
    list_items: Callable[[], Items]
    read: Callable[[Sequence[Any]], Iterator[Example]]


def local_path(text: str, setting: str) -> Path:
    """`text` as an absolute path, ~ expanded, links kept. Raises UserError for what cannot be one, such as a bucket."""
    if "://" in text:
        raise UserError(f"{setting} {text!r} is not a folder on this machine. Copy or mount it, and give that path.")
    if "\0" in text:
        raise UserError(f"{setting} {text!r} cannot be the name of a folder.")
    return Path(os.path.abspath(os.path.expanduser(text)))
