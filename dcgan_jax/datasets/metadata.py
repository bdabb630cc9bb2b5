"""Labels from a table beside the images: metadata.csv or metadata.jsonl with the columns file_name and label.

That is how the Hugging Face hub's image folders are labelled. A table without either column says nothing here.
"""

import csv
import itertools
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dcgan_jax.datasets import classes
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

_NAMES = ("metadata.csv", "metadata.jsonl")
_FILE, _LABEL = "file_name", "label"


class Labels(NamedTuple):
    """A label per image, the names of the classes, and how many rows belong to no image."""

    labels: list[int]
    class_names: list[str]
    unused: int

    def left_out(self, table: "Table") -> dict[str, int]:
        """Of `Items.left_out`."""
        return {f"rows of {table.name} without image": self.unused} if self.unused else {}


Table = Path | zipfile.Path
_Folder = TypeVar("_Folder", Path, zipfile.Path)


def find(root: _Folder) -> _Folder | None:
    """The table of labels in the folder `root`, or None. Raises UserError if it cannot be read."""
    for name in _NAMES:
        path = root / name
        if path.is_file():
            with files.reading(Path(str(path))):
                first = next(_rows(path), {})
            if _FILE in first and _LABEL in first:
                return path
    return None


def labels_of(table: Table, paths: Sequence[str]) -> Labels:
    """The labels of images by their paths in the table's folder.

    Raises:
        UserError: the table cannot be read, or images have no row or several.
    """
    with files.reading(Path(str(table))):
        rows = [(row.get(_FILE), row.get(_LABEL)) for row in _rows(table)]
    found: dict[str, str] = {}
    for number, (name, label) in enumerate(rows, 1):
        if not isinstance(name, str) or isinstance(label, dict | list | None) or label == "":
            raise UserError(f"{table}: row {number} has no {_FILE} or no {_LABEL}.")
        path = os.path.normpath(name)
        if found.setdefault(path, str(label)) != str(label):
            raise UserError(f"{table} gives {name!r} two labels: {found[path]!r} and {str(label)!r}.")
    if without := [path for path in paths if path not in found]:
        raise UserError(
            f"{table} has no row for {len(without):,} of {len(paths):,} images, such as {without[0]}: add them, remove "
            f"these images, or remove the column {_LABEL!r} to train without labels."
        )
    labels, class_names = classes.by_name([found[path] for path in paths])
    return Labels(labels, class_names, len(found) - len(paths))


def _rows(path: Table) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
        if path.suffix == ".csv":
            yield from csv.DictReader(file)
            return
        for line in itertools.filterfalse(str.isspace, file):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line is no JSON object")
            yield row
