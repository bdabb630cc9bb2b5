"""Parquet files with encoded images, as the Hugging Face hub keeps them: a column of {bytes, path} and a label."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcgan_jax.datasets import array_file, classes
from dcgan_jax.datasets.source import Example, Items, Source
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

_IMAGES, _LABELS = ("image", "img", "images"), ("label", "labels")
_ROWS = 64  # read at a time


def open_parquet(path: Path, num_examples: int = 0) -> Source:
    """The rows of a file, or of all *.parquet files of a folder in the order of their names.

    The images are in a column 'image' (or 'img'), as {bytes, path} or as bytes; labels, if any, in a column 'label':
    numbers, whose names the file's metadata may give, or names.

    Raises:
        UserError: there is no such file.
    """
    del num_examples  # always taken evenly
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise UserError(f"parquet: needs a file, or a folder of *.parquet files; {path} is none.")
    stats = [(file.name, file.stat()) for file in found]
    return Source(
        name=f"parquet:{path}",
        version="",
        fingerprint={"files": [[name, status.st_size, status.st_mtime_ns] for name, status in stats]},
        list_items=functools.partial(_list_items, found),
        read=iter,
    )


def _import_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet: sources need pyarrow: pip install pyarrow") from error
    return pyarrow.parquet


def _list_items(paths: list[Path]) -> Items:
    parquet = _import_parquet()
    count, values, first = 0, [], None
    for path in paths:
        with files.reading(path), parquet.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow)
            first = first or (path, *columns, file.schema_arrow)
            if columns != first[1:3]:
                raise UserError(f"{path} has other columns than {first[0]}.")
            count += file.metadata.num_rows
            if columns[1]:
                values += file.read(columns=[columns[1]]).column(0).to_pylist()
    assert first
    image, label, schema = first[1:]
    labels, class_names = _labels(paths[0].parent, values, _names(schema, label)) if label and values else (None, None)
    return Items(count, _examples(paths, image, labels), class_names, spread=True)


def _columns(path: Path, schema: Any) -> tuple[str, str | None]:
    """The names of the columns with images and with labels."""
    image = next((name for name in _IMAGES if name in schema.names), None)
    if image is None:
        raise UserError(f"{path} has no column {' or '.join(map(repr, _IMAGES))}; it has {', '.join(schema.names)}.")
    return image, next((name for name in _LABELS if name in schema.names), None)


def _names(schema: Any, label: str) -> list[str] | None:
    """The class names that the `datasets` package leaves in the metadata of a file."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _labels(folder: Path, values: list[Any], names: list[str] | None) -> tuple[list[int], list[str] | None]:
    if all(isinstance(value, str) for value in values):
        return classes.by_name(values)
    if not all(isinstance(value, int) for value in values):
        wrong = next(value for value in values if not isinstance(value, int))
        raise UserError(f"the labels in {folder} hold {wrong!r}; they must be numbers, or names.")
    array_file.check_numbers(f"the labels in {folder}", values, names)
    return [int(value) for value in values], names


def _examples(paths: list[Path], column: str, labels: list[int] | None) -> Iterator[Example]:
    number = 0
    for path in paths:
        with _import_parquet().ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=_ROWS, columns=[column])
            while True:
                with files.reading(path):
                    batch = next(batches, None)
                    values = None if batch is None else batch.column(0).to_pylist()
                if values is None:
                    break
                for value in values:
                    yield example(value, number, None if labels is None else labels[number])
                    number += 1


def example(value: Any, number: int, label: int | None) -> Example:
    """The image of row `number`: {bytes, path}, as the `datasets` package has it, or bytes."""
    content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    key = f"{number}" + (f" {name}" if isinstance(name, str) else "")
    if not isinstance(content, bytes):
        return Example(b"", key, label, problem="has no bytes")
    return Example(content, key, label)
