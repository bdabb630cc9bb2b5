"""A folder of image files, at any depth; subfolders are classes, or metadata.csv or metadata.jsonl names them."""

import functools
import hashlib
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dcgan_jax.datasets import classes, decode, metadata
from dcgan_jax.datasets.source import Example, Items, Source
from dcgan_jax.machine.errors import UserError

_log = logging.getLogger(__name__)

# Files that lie beside images and are none: nobody expects them to be read.
_SILENT = frozenset((".txt", ".json", ".jsonl", ".csv", ".md", ".ini", ".db"))
NO_EXTENSION = "without extension"
# Files that hold images, by extension, and how these are given.
_OTHER_SOURCES = {
    ".zip": "Give a .zip archive itself, folder:/path/x.zip.",
    ".npz": "Give a .npz file as array:/path/x.npz.",
    ".parquet": "Give .parquet files as parquet:/path.",
}
_NOWHERE, _TWICE, _UNREADABLE = "links that lead nowhere", "folders linked twice", "folders that cannot be read"
_MOST_STRAY = 3  # named in a note


def open_folder(root: Path, num_examples: int = 0) -> Source:
    """All images under `root` in the order of their paths.

    Hidden files and folders are left out; links are followed, each real folder once. Files without extension are
    opened to see whether they are images. With a metadata file (metadata.py) in `root`, its labels count. Otherwise, if
    every image is in some subfolder of `root`, the names of these subfolders, 2 before 10, are the classes; else there
    are no labels.

    Args:
        root: the folder.
        num_examples: how many of the images will be taken, evenly from all; 0: all.

    Raises:
        UserError: `root` is missing, not a folder, or holds no image.
    """
    _check_folder(root)
    files, others = _walk(root)
    if not files:
        found = ", ".join(f"{what} ({count})" for what, count in others.most_common(5))
        raise UserError(
            f"No image found under {root}. Looked for {', '.join(sorted(decode.EXTENSIONS))}; "
            + (f"found: {found}." if found else "it holds no files at all.")
            + "".join(f" {how}" for what, how in _OTHER_SOURCES.items() if what in others)
        )
    paths = [path for path, _, _ in files]
    listing = hashlib.sha256()
    for path, size, modified in files:
        listing.update(os.fsencode(path) + f"\0{size}\0{modified}\n".encode())
    table = metadata.find(root)
    fingerprint: dict[str, object] = {"files": listing.hexdigest()}
    earlier = dict(fingerprint)
    part = 0 < num_examples < len(paths)
    labelled = labels_of(paths, f"folder:{root}").class_names
    if part:
        fingerprint["num_examples"] = "evenly"
    if table:
        fingerprint["metadata"] = [table.name, table.stat().st_size, table.stat().st_mtime_ns]
    elif labelled and labelled != sorted(labelled):
        fingerprint["classes"] = "2 before 10"
    # Version 0.1.0 took the first num_examples, mostly of one class, knew no metadata, and put class 10 before 2.
    same = not table and not (part and labelled)
    return Source(
        name=f"folder:{root}",
        version="",
        fingerprint=fingerprint,
        list_items=functools.partial(_list_items, root, paths, table, without_silent(others)),
        read=functools.partial(_read, root),
        earlier=earlier if same and fingerprint != earlier else None,
    )


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    if not root.exists():
        raise UserError(f"The image folder {root} does not exist.")
    raise UserError(
        f"{root} is a file, not a folder. A .zip archive can be given as it is; unpack another one first, and give the "
        "folder it unpacks to. For arrays use array:, idx: or parquet:."
    )


def without_silent(others: Mapping[str, int]) -> dict[str, int]:
    """Of what was found beside images, by extension, that which somebody may have expected to be read."""
    return {what: count for what, count in others.items() if what not in _SILENT}


def _walk(root: Path) -> tuple[list[tuple[str, int, int]], Counter[str]]:
    """Images as (path relative to root, bytes, modification time in ns), sorted; counts of all else, by extension."""
    files: list[tuple[str, int, int]] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()

    def note(error: OSError) -> None:
        _log.warning("Left out, as it cannot be read: %s", error)
        others[_UNREADABLE] += 1

    for folder, subfolders, names in os.walk(root, onerror=note, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            others[_TWICE] += 1
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = os.path.relpath(folder, root)
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(folder, name)
            extension = os.path.splitext(name.partition("?")[0])[1].lower()  # wget keeps what follows in an address
            if os.path.islink(path) and not os.path.exists(path):
                others[_NOWHERE] += 1
            elif os.path.isfile(path) and (extension in decode.EXTENSIONS or (not extension and _is_image(path))):
                status = os.stat(path)
                files.append((os.path.normpath(os.path.join(prefix, name)), status.st_size, status.st_mtime_ns))
            else:
                others[extension or NO_EXTENSION] += 1
    return sorted(files), others


def _is_image(path: str) -> bool:
    """Whether the first bytes of the file are those of an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=decode.FORMATS):
                return True
        except Image.DecompressionBombError:
            return True  # which is skipped with this reason
        except Exception:  # Pillow's readers raise whatever a file makes them trip over
            return False


def _list_items(root: Path, paths: list[str], table: Path | None, left_out: Mapping[str, int]) -> Items:
    if table:
        found = metadata.labels_of(table, paths)
        labels: Sequence[int | None] = found.labels
        left_out = {**left_out, **found.left_out(table)}
        class_names: list[str] | None = found.class_names
        note = ""
    else:
        labels, class_names, note = labels_of(paths, f"folder:{root}")
    references = list(zip(paths, labels, strict=True))
    return Items(len(paths), references, class_names, spread=True, left_out=left_out, note=note, labels=labels)


class Labelled(NamedTuple):
    """A label or None for each path, the names of the classes or None, and what to know of them; see `Items.note`."""

    labels: Sequence[int | None]
    class_names: list[str] | None
    note: str


def labels_of(paths: Sequence[str], where: str) -> Labelled:
    """The outermost folders of relative paths as classes, if every path has one.

    Args:
        paths: with / between folders.
        where: the source they are relative to.
    """
    stray = [path for path in paths if os.sep not in path]
    if stray:
        beside = f"{', '.join(stray[:_MOST_STRAY])}{' ...' if len(stray) > _MOST_STRAY else ''}"
        verb, them = ("lies", "it") if len(stray) == 1 else ("lie", "them")
        note = f"There are no labels, as {beside} {verb} beside the class folders: move {them} into one, or away."
        return Labelled([None] * len(paths), None, note if len(stray) < len(paths) - len(stray) else "")
    labels, class_names = classes.by_name([path.split(os.sep, 1)[0] for path in paths])
    return Labelled(labels, class_names, _note(paths, class_names, where))


def _note(paths: Sequence[str], class_names: list[str], where: str) -> str:
    """Whether the classes may be others than those that are meant."""
    deeper = all(path.count(os.sep) > 1 for path in paths)
    largest = Counter(path.split(os.sep, 1)[0] for path in paths).most_common(1)[0][0]
    if classes.are_splits(class_names):
        reason = f"The folders {', '.join(class_names)} are splits and no classes"
        return f"{reason}: give {where}/{largest}."
    if deeper:
        return f"Every class folder holds only folders: if these are the classes, give {where}/{largest}."
    if len(class_names) == 1:
        return f"All images are in the one folder {largest}."
    return ""


def _read(root: Path, items: Sequence[tuple[str, int | None]]) -> Iterator[Example]:
    for path, label in items:
        yield Example(root / path, path, label)
