"""Opens the images of a config: their pack, without near-duplicates if the config asks for that."""

import os
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from dcgan_jax.datasets import pack, sources
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.datasets.source import local_path
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError


def open_or_build(data: ConfigDict, *, progress: bool = True) -> ImageDataset:
    """The images of `config.data`, packed first if they are not yet; see `pack.open_or_build`.

    With data.dedup or data.duplicates, near-duplicates are left out. 'pack:/path' is opened in place.

    Raises:
        UserError: as `pack.open_or_build`, `pack.open_in_place` and `duplicates.find_duplicates`.
    """
    if folder := sources.packed_folder(data.source):
        return pack.open_in_place(folder, data)
    return pack.open_or_build(data, _duplicates(data, progress), progress=progress)


def pack_path(data: ConfigDict) -> Path:
    """The folder where the pack of `config.data` is or will be. Raises UserError as `open_or_build` does."""
    return sources.packed_folder(data.source) or pack.pack_path(data, _duplicates(data, progress=False))


def open_others(data: ConfigDict, *, source: str = "", split: str = "", folder: str = "") -> ImageDataset:
    """Other images than those of `config.data`, made as it says: all of them, duplicates too.

    Args:
        data: config.data, for the size, channels and crop.
        source, split, folder: in place of data.source, data.split and data.dir; '' leaves them.

    Raises:
        UserError: as `open_or_build`; or a split is given of a source that has none.
    """
    held_out = split == "held_out" and data.held_out and not source
    if split not in ("", "train") and not held_out and not sources.has_splits(source or data.source):
        raise UserError(
            f"split {split!r} of {source or data.source}: this kind of source has no splits. Give these images a "
            "source of their own and no split (config.eval.source and config.eval.split=, or this command's flags), "
            "or set config.data.held_out, which makes a split 'held_out'."
        )
    others = data.copy_and_resolve_references()
    if source:
        others.held_out = 0
    changes = {"source": source, "split": split, "dir": folder}
    others.update({name: value for name, value in changes.items() if value})
    others.update(dedup=False, dedup_radius=0, duplicates="", num_examples=0)
    return open_or_build(others)


_SHARED = 0.01  # part of the test images that may be training images too: natural sets have some duplicates


def need_apart(training: ImageDataset, testing: ImageDataset, source: str) -> None:
    """Raises UserError if test images, of `source`, are training images: every figure would be too good."""
    share = testing.share_in(training)
    if share <= _SHARED:
        return
    what = f"{100 * share:.0f} % of the test images are training images"
    if share > 0.5:
        what = "the training and test images are the same"
    raise UserError(
        f"{what} ({source}): give others, by --test_source or --test_split, or config.eval.source or config.eval.split."
    )


def _duplicates(data: ConfigDict, progress: bool) -> pack.Duplicates | None:
    if data.duplicates:
        if data.dedup:
            raise UserError("config.data.dedup and config.data.duplicates both say what is left out: give one of them.")
        listed = read_listing(local_path(data.duplicates, "data.duplicates"))
        return pack.Duplicates(["listed", sorted(listed.items())], lambda: listed)
    if not data.dedup:
        return None
    from dcgan_jax.datasets import duplicates  # imports JAX

    return pack.Duplicates(duplicates.fingerprint(data), partial(duplicates.find_duplicates, data, progress=progress))


def read_listing(file: Path) -> dict[str, str]:
    """Originals by key of the images to leave out, from a duplicates.txt: an image, a tab and its original a line.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    try:
        with files.reading(file):
            lines = os.fsdecode(file.read_bytes()).splitlines()
            listed = dict(line.split("\t") for line in lines)
    except files.Damaged as error:
        raise UserError(f"{file} is no list of duplicates ({error.reason}): see dcgan_jax.datasets.dedup.") from error
    return listed
