"""The pack: a whole image set as one memory-mapped array on disk, built once.

Decoding is far slower than training (a few thousand small images a second per core), so the first run decodes every
image once and later runs map the result. A pack is a folder:

    images.npy        uint8 [N, height, width, channels]
    labels.npy        int32 [N], if the source has labels
    attributes.npz    arrays with first axis N, if the source has attributes
    keys.json         N names of images in the source
    meta.json         what the pack was made from and how; written last (pack_writer.py)

With config.data.dedup, near-duplicates are left out (opening.py, duplicates.py). They are looked for in a pack of the
same images at 32 pixels, which is built first and stays.

It is named by a fingerprint of everything that shapes its content, so a pack is never out of date: another setting or
a changed source is another pack. Those that nobody needs any more can be listed and removed: python -m
dcgan_jax.datasets. A pack holds all that training needs: it may be copied to another machine and named there as
config.data.source, 'pack:/path'.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dcgan_jax.datasets import decode, pack_writer, sources
from dcgan_jax.datasets.held_out import SPLIT as HELD_OUT
from dcgan_jax.datasets.image_dataset import ImageDataset, open_pack
from dcgan_jax.datasets.source import Source, local_path
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.files import cache_folder
from dcgan_jax.nets.shapes import image_shape

_FORMAT = 1  # Part of the fingerprint: raise it whenever the same source would give different pixels or files.
_LONGEST_SLUG = 100  # File systems allow names of 255 bytes.

_log = logging.getLogger(__name__)


class Duplicates(NamedTuple):
    """Images to leave out.

    Attributes:
        fingerprint: JSON values that change whenever other images would be left out.
        find: gives the originals by key of the images to leave out; called only if a pack is built.
    """

    fingerprint: Any
    find: Callable[[], Mapping[str, str]]


def open_or_build(data: ConfigDict, duplicates: Duplicates | None = None, *, progress: bool = True) -> ImageDataset:
    """Opens the pack of `config.data`, building it first if it is not there or damaged.

    Only one process builds a pack; others wait for it.

    Args:
        data: config.data; `opening` looks at data.dedup.
        duplicates: to leave out; None: nothing is.
        progress: whether to report the build on stderr.

    Raises:
        UserError: a setting is wrong, the source cannot be read, more than one and more than 1 % of its images are
            bad, or the pack cannot be written. Nothing is left behind then but a list of the bad images.
    """
    source, target = sources.open_source(data), decode.target_of(data)
    path = _find(source, target, data, duplicates)
    with contextlib.suppress(OSError, files.Damaged):
        return open_pack(path)
    with pack_writer.lock(path) as alone:
        try:
            return open_pack(path)  # Another process has built it meanwhile.
        except files.Missing:
            pass
        except files.Damaged as error:
            _log.warning("The pack %s is damaged (%s: %s); building it again.", path, error.path.name, error.reason)
        pack_writer.write(path, source, target, data, duplicates.find if duplicates else None, progress, alone)
    return open_pack(path)


def pack_path(data: ConfigDict, duplicates: Duplicates | None = None) -> Path:
    """The folder where the pack of `config.data` is or will be. Raises UserError as `open_or_build` does."""
    return _find(sources.open_source(data), decode.target_of(data), data, duplicates)


def open_in_place(path: Path, data: ConfigDict) -> ImageDataset:
    """Opens the pack in the folder `path`, wherever that is. Nothing is written there, and nothing is built.

    Args:
        path: a folder that `open_or_build` has made, on this machine or another.
        data: config.data. What shapes a pack must be as it is there, or at its default; see `_check_settings`.

    Raises:
        UserError: there is no such folder, it is not a pack, it is damaged, or it is not what `data` asks for.
    """
    given = f"data.source pack:{path}"
    try:
        dataset = open_pack(path)
        with files.reading(path):  # what a copy may lack, and what `open_pack` does not look at
            (path / "keys.json").stat()
            named = {name: dataset.meta[name] for name in ("split", "crop_size", "duplicates_left_out")}
    except files.Missing as error:
        if not os.path.isdir(path):
            raise UserError(f"{given}: there is no such folder.") from error
        raise UserError(f"{given} is not complete ({error.reason}): copy it again.") from error
    except files.Damaged as error:
        if not (path / "meta.json").exists() and not (path / "images.npy").exists():
            raise UserError(
                f"{given} is not a pack, which has images.npy and meta.json: give one of the folders that "
                "python -m dcgan_jax.datasets lists, or another kind of source."
            ) from error
        raise UserError(f"{given} is damaged ({error.path.name}: {error.reason}): copy it again.") from error
    except OSError as error:
        raise UserError(f"{given} cannot be opened: {error}.") from error
    _check_settings(given, dataset, data, named)
    checksum = f"{dataset.meta['sha256']}{dataset.meta['labels_sha256']}".encode()
    kept = cache_folder() / "of_packs" / hashlib.sha256(checksum).hexdigest()[:12]
    return dataclasses.replace(dataset, kept_in=kept)


def _check_settings(given: str, dataset: ImageDataset, data: ConfigDict, named: Mapping[str, Any]) -> None:
    """Raises UserError if `data` asks for other images than those of a pack that is used as it is.

    Settings of how single images are read, such as data.allow_upsampling, are not looked at.
    """
    count, *shape = dataset.images.shape
    if tuple(shape) != image_shape(data):
        (height, width, channels), (rows, columns, wanted) = shape, image_shape(data)
        as_wide = "" if width == height and not data.image_width else f"--config.data.image_width={width} "
        raise UserError(
            f"{given} has images of {height} x {width} pixels and {channels} channels, not {rows} x {columns} and "
            f"{wanted}: set --config.data.image_size={height} {as_wide}--config.data.channels={channels}, with stages "
            "that fit, or give another pack."
        )
    if data.fit not in ("crop", made_with := dataset.meta.get("fit", "crop")):
        raise UserError(
            f"data.fit is {data.fit!r}, but the images of {given} are fitted already, with {made_with!r}: leave it at "
            "'crop'."
        )
    if data.split == HELD_OUT != named["split"]:
        raise UserError(
            f"{given} has no held-out images, for which config.eval.split asks: give their own pack, by "
            "--config.eval.source=pack:/path --config.eval.split=, or set --config.eval_every=0."
        )
    if data.split not in ("", "train", named["split"]):
        raise UserError(
            f"data.split is {data.split!r}, but {given} holds split {named['split']!r}, and all of it is used: leave "
            "it at 'train'. Each split has a pack of its own."
        )
    if data.held_out not in (0, kept_back := dataset.meta.get("held_out", 0)):
        raise UserError(
            f"data.held_out is {data.held_out}, but {given} was packed with {kept_back}, and all of it is used: leave "
            "it at 0, and name held-out images by config.eval.source; or give the images themselves."
        )
    if data.crop_size not in (0, named["crop_size"]):
        raise UserError(
            f"data.crop_size is {data.crop_size}, but the images of {given} are cropped already, with "
            f"{named['crop_size']}: leave it at 0."
        )
    if 0 < data.num_examples < count:
        raise UserError(
            f"data.num_examples is {data.num_examples}, but {given} has {count:,} images, and all are used: leave it "
            "at 0, or make a pack of so many."
        )
    if (data.dedup or data.duplicates) and not dataset.meta.get("dedup", named["duplicates_left_out"]):
        raise UserError(
            f"{given} was packed with its near-duplicates, and none can be left out now: set "
            "--config.data.dedup=False --config.data.duplicates=, or make a pack without them."
        )


def folder_of(data_cache_dir: str) -> Path:
    """The folder of all packs, as config.data.cache_dir gives it. Raises UserError if it cannot be one."""
    return local_path(data_cache_dir or str(cache_folder() / "packs"), "data.cache_dir")


def _find(source: Source, target: decode.Target, data: ConfigDict, duplicates: Duplicates | None) -> Path:
    """The folder of the pack; that of version 0.1.0 where there is one that will do."""
    path = _path(source, source.fingerprint, target, data, duplicates)
    if source.earlier is not None and not path.exists():
        earlier = _path(source, source.earlier, target, data, duplicates)
        with contextlib.suppress(OSError):
            if (earlier / "meta.json").stat().st_mtime_ns > source.changed:
                return earlier
    return path


def _path(
    source: Source,
    fingerprint_of_source: Mapping[str, Any],
    target: decode.Target,
    data: ConfigDict,
    duplicates: Duplicates | None,
) -> Path:
    content = {
        "format": _FORMAT,
        "source": source.name,
        "source_fingerprint": fingerprint_of_source,
        "split": data.split,
        "num_examples": data.num_examples,
        "target": target.described(),
    }
    if duplicates:
        content["dedup"] = duplicates.fingerprint
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", re.sub(r":/.*/", ":", source.name)).strip("-")[:_LONGEST_SLUG]
    size = f"{target.image_size}x{target.image_width}" if target.image_width else f"{target.image_size}"
    return folder_of(data.cache_dir) / f"{slug}-{size}px-{fingerprint}"
