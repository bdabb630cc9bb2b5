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
    """One image before decoding: encoded bytes, the path of a file, or uint8 [height, width] or [height, width, 3].

    Either all examples of a source have a label or none has; all have the same attributes, of the same shapes.
    problem: why the source has no such image, as a clause ("is encrypted"); '' if it has.
    """

    image: bytes | Path | np.ndarray
    key: str
    label: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Items:
    """What there is to read: `count` picklable references, in the order of the pack.

    spread: whether neighbours are alike, as in a folder per class, so that a part is taken evenly from all.
    left_out: how many of what else was found and is not read, {".jp2": 20}.
    note: what a reader should know of the labels, or of why there are none, as a sentence; ''.
    labels: of the references, in their order; None where only reading tells them.
    whole: how many images there are with those that were held out, or are not; 0: `count`.
    """

    count: int
    references: Iterable[Any]
    class_names: list[str] | None = None
    spread: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    labels: Sequence[int | None] | None = None
    whole: int = 0


@dataclass(frozen=True)
class Source:
    """Where images come from.

    name: the source in its canonical form, paths absolute.
    version: of the data set or renderer; '' where there is none.
    fingerprint: JSON values that change whenever the examples do.
    list_items: called once, in the process that builds the pack. May download; raises UserError.
    read: references -> their examples, in order. Picklable; called with short runs of references in many processes.
    earlier: the fingerprint under which version 0.1.0 has made packs that are as good; None: there are none.
    changed: when the source changed last, in ns; packs of `earlier` that are not newer are not used.
    """

    name: str
    version: str
    fingerprint: Mapping[str, Any]
    list_items: Callable[[], Items]
    read: Callable[[Sequence[Any]], Iterator[Example]]
    earlier: Mapping[str, Any] | None = None
    changed: int = 0


def local_path(text: str, setting: str) -> Path:
    """`text` as an absolute path, ~ expanded, links kept.

    Raises:
        UserError: it cannot be one, such as a bucket, or ~ in a process that has no home folder.
    """
    if "://" in text:
        raise UserError(f"{setting} {text!r} is not a folder on this machine. Copy or mount it, and give that path.")
    if "\0" in text:
        raise UserError(f"{setting} {text!r} cannot be the name of a folder.")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):  # a folder of this name would be made otherwise
        raise UserError(f"{setting} {text!r}: there is no such home folder. Give the whole path.")
    return Path(os.path.abspath(expanded))
