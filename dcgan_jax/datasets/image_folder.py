"""A folder of image files, at any depth; subfolders are classes."""

import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dcgan_jax.datasets.source import Example, Items, Source
from dcgan_jax.machine.errors import UserError

_log = logging.getLogger(__name__)

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))


def open_folder(root: Path) -> Source:
    """All images under `root` in the order of their paths.

    Hidden files and folders are left out; links are followed, each real folder once. If every image is in some
    subfolder of `root`, the sorted names of these subfolders are the classes; otherwise there are no labels.

    Raises:
        UserError: `root` is missing, not a folder, or holds no image.
    """
    _check_folder(root)
    files, extensions = _walk(root)
    if not files:
        found = ", ".join(f"{extension or 'none'} ({n})" for extension, n in extensions.most_common(5))
        raise UserError(
            f"No image found under {root}. Looked for {', '.join(sorted(EXTENSIONS))}; "
            + (f"found files with these extensions: {found}." if found else "it holds no files at all.")
        )
    paths = [path for path, _, _ in files]
    listing = hashlib.sha256()
    for path, size, modified in files:
        listing.update(os.fsencode(path) + f"\0{size}\0{modified}\n".encode())
    return Source(
        name=f"folder:{root}",
        version="",
        fingerprint={"files": listing.hexdigest()},
        list_items=functools.partial(_list_items, paths),
        read=functools.partial(_read, root),
    )


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    if not root.exists():
        raise UserError(f"The image folder {root} does not exist.")
    raise UserError(f"{root} is a file, not a folder. Unpack an archive first and give the folder it unpacks to.")


def _walk(root: Path) -> tuple[list[tuple[str, int, int]], Counter[str]]:
    """Images as (path relative to root, bytes, modification time in ns), sorted; counts of all other extensions."""
    files: list[tuple[str, int, int]] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=_warn, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = os.path.relpath(folder, root)
        for name in names:
            if name.startswith("."):
                continue
            extension = os.path.splitext(name)[1].lower()
            if extension in EXTENSIONS and os.path.isfile(path := os.path.join(folder, name)):
                status = os.stat(path)
                files.append((os.path.normpath(os.path.join(prefix, name)), status.st_size, status.st_mtime_ns))
            else:
                others[extension] += 1
    return sorted(files), others


def _warn(error: OSError) -> None:
    _log.warning("Left out, as it cannot be read: %s", error)


def _list_items(paths: list[str]) -> Items:
    if any(os.sep not in path for path in paths):
        return Items(len(paths), [(path, None) for path in paths])
    folders = [path.split(os.sep, 1)[0] for path in paths]
    class_names = sorted(set(folders))
    labels = {name: label for label, name in enumerate(class_names)}
    return Items(len(paths), [(path, labels[f]) for path, f in zip(paths, folders, strict=True)], class_names)


def _read(root: Path, items: Sequence[tuple[str, int | None]]) -> Iterator[Example]:
    for path, label in items:
        yield Example(root / path, path, label)
