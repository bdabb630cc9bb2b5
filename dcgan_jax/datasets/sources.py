"""config.data.source -> a Source: a list of items, and a function that reads them.

A Source is cheap to make. It knows its fingerprint (what its content depends on) without opening a single image and
without importing anything heavy; only building a pack lists and reads the items.
"""

import functools
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dcgan_jax.errors import UserError

_FORMS = "'tfds:NAME', 'folder:/path', 'lsun:/path/to/X_train_lmdb', 'toy_bedrooms' or 'toy_faces'"
_TOY_SEEDS = {"train": 0, "test": 1}
_TOY_COUNT = 20_000


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


def open_source(data: ConfigDict) -> Source:
    """The source that `config.data` describes.

    Raises:
        UserError: unknown kind, missing path or one that may not be read, unknown split.
    """
    try:
        return _open(data)
    except OSError as error:
        raise UserError(f"data.source {data.source!r} cannot be opened: {error}.") from error


def _open(data: ConfigDict) -> Source:
    from dcgan_jax.datasets import image_folder, lsun_lmdb, tfds_source  # They import this module.

    kind, _, argument = data.source.partition(":")
    if data.source in ("toy_bedrooms", "toy_faces"):
        return _toy(data.source, data)
    if not argument or kind not in ("tfds", "folder", "lsun"):
        raise UserError(f"data.source {data.source!r} is not one of {_FORMS}.")
    if kind == "tfds":
        return tfds_source.open_tfds(argument, data.dir, data.split)
    if data.split not in ("train", ""):
        raise UserError(
            f"data.split is {data.split!r}, but {kind}: sources have no splits. Leave it at 'train' and give the "
            "images of each split a source of their own."
        )
    path = local_path(argument, "data.source")
    return image_folder.open_folder(path) if kind == "folder" else lsun_lmdb.open_lsun(path)


def local_path(text: str, setting: str) -> Path:
    """`text` as an absolute path, ~ expanded, links kept. Raises UserError for what cannot be one, such as a bucket."""
    if "://" in text:
        raise UserError(f"{setting} {text!r} is not a folder on this machine. Copy or mount it, and give that path.")
    if "\0" in text:
        raise UserError(f"{setting} {text!r} cannot be the name of a folder.")
    return Path(os.path.abspath(os.path.expanduser(text)))


def _toy(name: str, data: ConfigDict) -> Source:
    if data.split not in _TOY_SEEDS:
        raise UserError(f"data.split {data.split!r} is not a split of {name}; it has 'train' and 'test'.")
    if data.crop_size:
        raise UserError(f"{name} is drawn at data.image_size; data.crop_size {data.crop_size} must stay 0.")
    version = importlib.import_module(f"dcgan_jax.datasets.{name}").VERSION
    count = data.num_examples or _TOY_COUNT
    return Source(
        name=name,
        version=str(version),
        fingerprint={"version": version, "split": data.split, "count": count},
        list_items=functools.partial(_list_toy, count),
        read=functools.partial(_read_toy, name, data.split, data.image_size),
    )


def _list_toy(count: int) -> Items:
    return Items(count, range(count))


def _read_toy(name: str, split: str, image_size: int, indices: Sequence[int]) -> Iterator[Example]:
    render = importlib.import_module(f"dcgan_jax.datasets.{name}").render
    for index in indices:
        image, factors = render(_TOY_SEEDS[split], index, image_size)
        yield Example(image, f"{split}/{index}", attributes=factors)
