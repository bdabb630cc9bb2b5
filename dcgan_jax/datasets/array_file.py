"""NumPy files: a .npz with 'images' and perhaps 'labels' and 'class_names', or a .npy with images alone.

The images are read one after the other, also from a compressed file, and never all at once.
"""

import contextlib
import functools
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from dcgan_jax.datasets import classes
from dcgan_jax.datasets.source import Example, Items, Source
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

_IMAGES, _LABELS, _CLASS_NAMES = "images", "labels", "class_names"
# Of labels and names, which are read whole, in bytes.
_LARGEST = 2**31


def open_array(path: Path, num_examples: int = 0) -> Source:
    """Images uint8 [N, height, width], or with a last axis of 1, 3 (RGB) or 4 (RGBA).

    Labels are whole numbers from 0 on, or names, [N] or [N, 1].

    Raises:
        UserError: there is no such file.
    """
    del num_examples  # always taken evenly
    if not path.is_file() or path.suffix not in (".npy", ".npz"):
        raise UserError(f"array: needs a .npy or .npz file; {path} is none.")
    status = path.stat()
    return Source(
        name=f"array:{path}",
        version="",
        fingerprint={"bytes": status.st_size, "modified": status.st_mtime_ns},
        list_items=functools.partial(_list_items, path),
        read=iter,
    )


def _list_items(path: Path) -> Items:
    with files.reading(path):
        if path.suffix == ".npy":
            with path.open("rb") as file:
                shape = _image_shape(path, file, path.stat().st_size)
            return Items(shape[0], _examples(path, shape, None), spread=True)
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).stem for name in archive.namelist()]
            if _IMAGES not in names:
                raise UserError(f"{path} has no array {_IMAGES!r}; it has {', '.join(names) or 'none'}.")
            with archive.open(f"{_IMAGES}.npy") as file:
                shape = _image_shape(path, file, archive.getinfo(f"{_IMAGES}.npy").file_size)
            small = {name: _small_array(archive, name) for name in (_LABELS, _CLASS_NAMES) if name in names}
        labels, class_names = None, None
        if _LABELS in small:
            labels, class_names = _labels(path, small[_LABELS], shape[0], small.get(_CLASS_NAMES))
    return Items(shape[0], _examples(path, shape, labels), class_names, spread=True, labels=labels)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _image_shape(path: Path, file: IO[bytes], size: int) -> tuple[int, ...]:
    shape, fortran_order, dtype = _header(file)
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise UserError(
            f"the images in {path} are {dtype} {list(shape)}; they must be uint8 [N, height, width] or "
            "[N, height, width, 1, 3 or 4]."
        )
    if fortran_order:
        raise UserError(f"the images in {path} are stored with the last axis first: save np.ascontiguousarray of them.")
    if math.prod(shape) > size or min(shape) < 1:
        raise ValueError(f"it promises images {list(shape)}, but has {size:,} bytes")
    return shape


def _small_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if archive.getinfo(f"{name}.npy").file_size > _LARGEST:
        raise ValueError(f"its array {name!r} is too large")
    with archive.open(f"{name}.npy") as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _labels(
    path: Path, labels: np.ndarray, count: int, class_names: np.ndarray | None
) -> tuple[list[int], list[str] | None]:
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "biuU":
        raise UserError(
            f"the labels in {path} are {labels.dtype} {list(labels.shape)}; they must be numbers or names [{count}]."
        )
    values = labels.reshape(count)
    if values.dtype.kind == "U":
        return classes.by_name(values.tolist())
    names = None
    if class_names is not None:
        if class_names.ndim != 1 or class_names.dtype.kind != "U":
            raise UserError(f"the class_names in {path} are {class_names.dtype}; they must be text, one per class.")
        names = class_names.tolist()
    numbers = values.tolist()
    check_numbers(f"the labels in {path}", numbers, names)
    return [int(number) for number in numbers], names


def check_numbers(what: str, numbers: Sequence[int], class_names: list[str] | None) -> None:
    """Raises UserError unless the labels, which are not empty, are numbers from 0 on, below the count of names."""
    most = len(class_names) if class_names is not None else classes.MOST
    for number in (min(numbers), max(numbers)):
        if not 0 <= number < most:
            raise UserError(f"{what} hold {number}; they must be 0 to {most - 1}.")


def _examples(path: Path, shape: tuple[int, ...], labels: list[int] | None) -> Iterator[Example]:
    with contextlib.ExitStack() as stack:
        if path.suffix == ".npy":
            file: IO[bytes] = stack.enter_context(path.open("rb"))
        else:
            file = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(f"{_IMAGES}.npy"))
        with files.reading(path):
            _header(file)
        yield from numbered_images(path, file, shape, labels)


def numbered_images(path: Path, file: IO[bytes], shape: tuple[int, ...], labels: Any) -> Iterator[Example]:
    """The images [N, height, width, ...] that follow in a file, which must be there; their keys are their numbers.

    `labels`: N of them, or None.
    """
    of_one = shape[1:3] if len(shape) == 3 or shape[3] == 1 else shape[1:]
    for number in range(shape[0]):
        with files.reading(path):
            content = file.read(math.prod(of_one))
            image = np.frombuffer(content, np.uint8).reshape(of_one)  # ValueError where the file ends
        yield Example(image, str(number), None if labels is None else int(labels[number]))
