"""LSUN as it is distributed: an LMDB database whose values are encoded images (WebP, shorter side 256 pixels)."""

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcgan_jax.datasets.source import Example, Items, Source
from dcgan_jax.machine.errors import UserError


def open_lsun(path: Path, num_examples: int = 0) -> Source:
    """The images of an LSUN database in the order of their keys; no labels.

    Args:
        path: the folder that holds data.mdb, or a database file itself.
        num_examples: how many of the images will be taken, evenly from all; 0: all.

    Raises:
        UserError: there is no database at `path`.
    """
    if not path.exists():
        raise UserError(f"The LSUN database {path} does not exist.")
    if path.suffix == ".zip":
        raise UserError(f"{path} is a zip archive. Unpack it and give the folder ending in _lmdb that it unpacks to.")
    file = _file(path)
    if not file.is_file():
        raise UserError(f"{path} is not an LSUN database: it has no data.mdb. For a folder of images use folder:{path}")
    status = file.stat()
    of_file = {"bytes": status.st_size, "modified": status.st_mtime_ns}
    return Source(
        name=f"lsun:{path}",
        version="",
        fingerprint=of_file | ({"num_examples": "evenly"} if num_examples else {}),
        list_items=functools.partial(_list_items, path),
        read=functools.partial(_read, path),
        earlier=of_file if num_examples else None,  # the first ones: keys are hashes, so these are any images too
    )


def _list_items(path: Path) -> Items:
    with _transaction(path) as transaction:
        # About 80 bytes of memory a key: 250 MB for the 3 million bedrooms. Values are not touched.
        keys = list(transaction.cursor().iternext(keys=True, values=False))
    if not keys:
        raise UserError(f"The LSUN database {path} has no entries.")
    return Items(len(keys), keys, spread=True)


def _read(path: Path, keys: Sequence[bytes]) -> Iterator[Example]:
    # Opening maps the file and reads nothing, so each run of keys can afford its own.
    with _transaction(path) as transaction:
        for key in keys:
            yield Example(transaction.get(key), key.decode("utf-8", "backslashreplace"))


def _file(path: Path) -> Path:
    return path / "data.mdb" if path.is_dir() else path


def _check_size(path: Path, database: Any) -> None:
    """Raises UserError if the file ends before its last page: LMDB would read on, and the system kill the process."""
    size, needed = _file(path).stat().st_size, (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if size < needed:
        raise UserError(
            f"The LSUN database {path} is cut short: it has {size:,} bytes, of {needed:,}. Download or unpack it again."
        )


@contextmanager
def _transaction(path: Path) -> Iterator[Any]:
    try:
        import lmdb
    except ImportError as error:
        raise UserError("lsun: sources need the lmdb package: pip install lmdb") from error
    try:
        with (
            lmdb.open(os.fsencode(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False) as database,
            database.begin() as transaction,
        ):
            _check_size(path, database)
            yield transaction
    except lmdb.Error as error:
        raise UserError(f"The LSUN database {path} cannot be read ({error}). Download or unpack it again.") from error
