"""Lists the packs in the cache folder, and removes those that are named.

    python -m dcgan_jax.datasets
    python -m dcgan_jax.datasets --remove=folder-photos-64px-0123456789ab --remove=...

A pack that is removed is built again when it is needed. Builds that were killed are listed as unfinished.
"""

import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from absl import flags

from dcgan_jax import command_line
from dcgan_jax.datasets import pack, pack_writer
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

_DAY = 24 * 60 * 60


class Pack(NamedTuple):
    """A folder among the packs.

    Attributes:
        name: of the folder.
        size: of all its files, in bytes.
        source: what it was made from; "unfinished" or "damaged" if it does not say so.
        made, used: when it was written and last opened, in seconds since the epoch. File systems may keep the latter
            to the day only, or not at all: used is then 0.
    """

    name: str
    size: int
    source: str
    made: float
    used: float


def packs(folder: Path) -> list[Pack]:
    """All packs in a folder, the largest first. Raises OSError if it cannot be read."""
    found = [_look_at(path) for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda one: (-one.size, one.name))


def _look_at(path: Path) -> Pack:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        status = (path / "images.npy").stat()  # which is read whenever a pack is opened, but not here
        source = str(files.read_json(path / "meta.json", dict).get("source", "damaged"))
    except (OSError, files.Damaged):
        unfinished = path.suffix == ".building"
        return Pack(path.name, size, "unfinished" if unfinished else "damaged", path.stat().st_mtime, 0)
    return Pack(path.name, size, source, status.st_mtime, status.st_atime if status.st_atime > status.st_mtime else 0)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Removes packs, and the files that belong to them.

    Raises:
        UserError: there is no pack of a name, in which case none is removed; or one is being built.
    """
    names, known = list(names), {one.name for one in packs(folder)}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"there is no pack {unknown[0]!r} in {folder}; without --remove, all are listed.")
    for name in names:
        path = folder / name
        built = folder / name.removesuffix(".building")
        try:
            with files.lock(pack_writer.lock_file(built), "", wait=False):
                shutil.rmtree(path)
                pack_writer.bad_images_file(built).unlink(missing_ok=True)
                pack_writer.lock_file(built).unlink(missing_ok=True)
        except BlockingIOError:
            raise UserError(f"the pack {built} is being built by another process: wait for it, or stop it.") from None
        print(f"removed {path}")


def _listing(folder: Path) -> list[str]:
    found = packs(folder)
    lines = [f"{len(found)} packs, {sum(one.size for one in found) / 1e6:,.1f} MB, in {folder}"]
    for one in found:
        used = f"last used {_ago(one.used)}" if one.used else "last use unknown"
        lines.append(f"{one.size / 1e6:>10,.1f} MB  made {_ago(one.made)}, {used}  {one.name}  {one.source}")
    return lines


def _ago(when: float) -> str:
    days = max(0, int((time.time() - when) / _DAY))
    return "today" if not days else f"{days} day{'s' * (days > 1)} ago"


def main() -> None:
    folder = pack.folder_of(_CACHE_DIR.value)
    if _REMOVE.value:
        remove(folder, _REMOVE.value)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _listing(folder)))


if __name__ == "__main__":
    _CACHE_DIR = command_line.define_path("cache_dir", "", "Where packs live; default: the user's cache folder.")
    _REMOVE = flags.DEFINE_multi_string("remove", [], "Name of a pack to remove, as it is listed; may be repeated.")
    command_line.run(main)
