"""IDX files, as MNIST and Fashion-MNIST are distributed: images, and the labels in a file beside them.

http://yann.lecun.com/exdb/mnist describes the format: two zero bytes, the type of the values (8: uint8), the number of
axes, each axis as a big-endian uint32, then the values.
"""

import functools
import gzip
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np

from dcgan_jax.datasets.array_file import numbered_images
from dcgan_jax.datasets.source import Example, Items, Source
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

_MOST_PIXELS, _MOST_IMAGES = 2**26, 2**28  # of one image, and of one file


def open_idx(path: Path, num_examples: int = 0) -> Source:
    """The images of a file like train-images-idx3-ubyte, or the same with .gz.

    The labels are those of the file whose name has labels-idx1 in place of images-idx3, if it is there.

    Raises:
        UserError: there is no such file.
    """
    del num_examples  # always taken evenly
    if not path.is_file():
        raise UserError(f"idx: needs a file such as train-images-idx3-ubyte.gz; {path} is none.")
    labels = _labels_file(path)
    stats = [file.stat() for file in (path, labels) if file]
    return Source(
        name=f"idx:{path}",
        version="",
        fingerprint={"files": [[status.st_size, status.st_mtime_ns] for status in stats]},
        list_items=functools.partial(_list_items, path, labels),
        read=iter,
    )


def _labels_file(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    stem = name.removesuffix(".gz")
    found = [path.with_name(other) for other in (name, stem, f"{stem}.gz") if name != path.name]
    return next((file for file in found if file.is_file()), None)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if compressed else path.open("rb")


def _shape(path: Path, file: IO[bytes], axes: int) -> tuple[int, ...]:
    zeros, kind, found = struct.unpack(">HBB", file.read(4))
    if zeros or kind != 8 or found != axes:
        raise UserError(f"{path} is no IDX file of uint8 values with {axes} axes.")
    shape: tuple[int, ...] = struct.unpack(f">{axes}I", file.read(4 * axes))
    if min(shape) < 1 or math.prod(shape[1:]) > _MOST_PIXELS or shape[0] > _MOST_IMAGES:
        raise ValueError(f"it promises values {list(shape)}")
    return shape


def _list_items(path: Path, labels_file: Path | None) -> Items:
    with files.reading(path), _open(path) as file:
        shape = _shape(path, file, 3)
    labels = None
    if labels_file:
        with files.reading(labels_file), _open(labels_file) as file:
            count = _shape(labels_file, file, 1)[0]
            if count != shape[0]:
                raise UserError(f"{path} has {shape[0]:,} images, but {labels_file} {count:,} labels.")
            labels = np.frombuffer(file.read(count), np.uint8)
            if len(labels) != count:
                raise ValueError("it is cut short")
    known = None if labels is None else labels.tolist()
    return Items(shape[0], _examples(path, shape, labels), spread=True, labels=known)


def _examples(path: Path, shape: tuple[int, ...], labels: np.ndarray | None) -> Iterator[Example]:
    with _open(path) as file:
        with files.reading(path):
            _shape(path, file, 3)
        yield from numbered_images(path, file, shape, labels)
