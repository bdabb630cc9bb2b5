"""A .zip archive of image files, read where it is: nothing is unpacked to disk."""

import functools
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dcgan_jax.datasets import decode, image_folder, metadata
from dcgan_jax.datasets.source import Example, Items, Source
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

# Archives can claim any size: images beyond this one are skipped. The largest that Pillow decodes is smaller.
LARGEST = 2**29  # bytes


def open_zip(path: Path, num_examples: int = 0) -> Source:
    """All images in the archive `path` in the order of their names, with classes as those of a folder.

    Folders that all images have in common are not classes: most archives hold one folder with everything in it. The
    innermost of them is where a metadata file is looked for.

    Raises:
        UserError: there is no such archive.
    """
    del num_examples  # always taken evenly
    if not path.is_file():
        raise UserError(f"The archive {path} does not exist.")
    status = path.stat()
    return Source(
        name=f"folder:{path}",
        version="",
        fingerprint={"bytes": status.st_size, "modified": status.st_mtime_ns},
        list_items=functools.partial(_list_items, path),
        read=functools.partial(_read, path, status.st_mtime_ns),
    )


def _listed(path: Path) -> tuple[dict[str, int], Counter[str]]:
    """The numbers of the images' entries by their names, and how many of what else there is."""
    others: Counter[str] = Counter()
    numbers: dict[str, int] = {}
    for number, entry in enumerate(_open(path, path.stat().st_mtime_ns).infolist()):
        parts = [part for part in entry.filename.split("/") if part not in ("", ".")]
        if entry.filename.endswith("/") or not parts or any(part.startswith(".") for part in parts):
            continue
        extension = Path(parts[-1]).suffix.lower()
        if extension in decode.EXTENSIONS:
            numbers["/".join(parts)] = number  # of two entries of one name, the last one counts, as when unpacking
        else:
            others[extension or image_folder.NO_EXTENSION] += 1
    return numbers, others


def _depth(paths: Sequence[str]) -> int:
    """How many folders all images are in."""
    common = 0
    while len({path.split("/")[common] for path in paths}) == 1 and all(path.count("/") > common for path in paths):
        common += 1
    return common


def _table(path: Path, paths: Sequence[str]) -> zipfile.Path | None:
    """The table of labels in the innermost folder that all images are in."""
    folder = "".join(f"{part}/" for part in paths[0].split("/")[: _depth(paths)])
    return metadata.find(zipfile.Path(_open(path, path.stat().st_mtime_ns), folder))


def _list_items(path: Path) -> Items:
    with files.reading(path):
        numbers, others = _listed(path)
    if not numbers:
        found = ", ".join(f"{what} ({count})" for what, count in others.most_common(5)) or "no files"
        raise UserError(f"No image found in {path}; it holds {found}.")
    paths = sorted(numbers)
    common = _depth(paths)
    inner = [path.split("/", common)[common] for path in paths]
    left_out: Mapping[str, int] = image_folder.without_silent(others)
    labels: Sequence[int | None]
    names: list[str] | None
    if table := _table(path, paths):
        listed = metadata.labels_of(table, inner)
        labels, names, note = listed.labels, listed.class_names, ""
        left_out = {**left_out, **listed.left_out(table)}
    else:
        labelled = image_folder.labels_of(inner, f"folder:{path}")
        labels, names = labelled.labels, labelled.class_names
        note = labelled.note if names is None else ""  # a folder inside cannot be given
    references = [(name, numbers[name], label) for name, label in zip(paths, labels, strict=True)]
    return Items(len(paths), references, names, spread=True, left_out=left_out, note=note, labels=labels)


@functools.lru_cache(maxsize=2)  # reading the names of a large archive takes seconds
def _open(path: Path, modified: int) -> zipfile.ZipFile:
    del modified  # only so that another archive under this name is opened
    return zipfile.ZipFile(path)


def _read(path: Path, modified: int, items: Sequence[tuple[str, int, int | None]]) -> Iterator[Example]:
    with files.reading(path):
        archive = _open(path, modified)
        entries = [archive.infolist()[number] for _, number, _ in items]
    for (name, _, label), entry in zip(items, entries, strict=True):
        content, problem = _content(archive, entry)
        yield Example(content, name, label, problem=problem)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[bytes, str]:
    """The bytes of an entry, or why there are none."""
    if entry.flag_bits & 1:
        return b"", "is encrypted"
    if entry.file_size > LARGEST:
        return b"", f"has {entry.file_size:,} bytes, more than {LARGEST:,}"
    try:
        with archive.open(entry) as file:
            return file.read(), ""  # never more than file_size
    except OSError:
        raise
    except Exception as error:  # zipfile and the decompressors raise nearly anything
        return b"", f"cannot be unpacked ({type(error).__name__}: {error})"


def is_archive(path: Path) -> bool:
    """Whether folder:`path` means the inside of an archive."""
    return path.suffix.lower() == ".zip" and not path.is_dir()
