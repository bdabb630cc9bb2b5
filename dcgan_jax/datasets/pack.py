"""The pack: a whole image set as one memory-mapped array on disk, built once.

Decoding is far slower than training (a few thousand small images a second per core), so the first run decodes every
image once and later runs map the result. A pack is a folder:

    images.npy        uint8 [N, height, width, channels]
    labels.npy        int32 [N], if the source has labels
    attributes.npz    arrays with first axis N, if the source has attributes
    keys.json         N names of images in the source
    meta.json         what the pack was made from and how; written last

With config.data.dedup, near-duplicates are left out (opening.py, duplicates.py). They are looked for in a pack of the
same images at 32 pixels, which is built first and stays.

It is named by a fingerprint of everything that shapes its content, so a pack is never out of date: another setting or
a changed source is another pack. Those that nobody needs any more can be listed and removed: python -m
dcgan_jax.datasets. A pack holds all that training needs: it may be copied to another machine and named there as
config.data.source, 'pack:/path'.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import statistics
import sys
import threading
import time
import types
import warnings
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
from ml_collections import ConfigDict

import dcgan_jax
from dcgan_jax.datasets import decode, sources
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.datasets.source import Example, Items, Source, local_path
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.files import cache_folder
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets.shapes import image_shape

_FORMAT = 1  # Part of the fingerprint: raise it whenever the same source would give different pixels or files.
_CHUNK = 32  # Images per task of a decoding process.
_SMALL = 500  # Fewer images than this are decoded in this process: starting others would take longer.
_LINE_SECONDS = 10.0  # Between lines of progress where there is no terminal.
_LONGEST_SLUG = 100  # File systems allow names of 255 bytes.
_MAX_BAD = 0.01  # Share of bad images above which the source, not an image, is taken to be bad; one is always allowed.
_HOPELESS = 64  # So many images, bad without exception and too many, are enough to give a source up.

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
        return _open(path)
    with _lock(path) as alone:
        try:
            return _open(path)  # Another process has built it meanwhile.
        except files.Missing:
            pass
        except files.Damaged as error:
            _log.warning("The pack %s is damaged (%s: %s); building it again.", path, error.path.name, error.reason)
        _build(path, source, target, data, duplicates, progress, alone)
    return _open(path)


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
        dataset = _open(path)
        with files.reading(path):  # what a copy may lack, and what `_open` does not look at
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
    if (data.dedup or data.duplicates) and not named["duplicates_left_out"]:
        raise UserError(
            f"{given} was packed with its near-duplicates, and none can be left out now: set "
            "--config.data.dedup=False --config.data.duplicates=, or make a pack without them."
        )


def folder_of(data_cache_dir: str) -> Path:
    """The folder of all packs, as config.data.cache_dir gives it. Raises UserError if it cannot be one."""
    return local_path(data_cache_dir or str(cache_folder() / "packs"), "data.cache_dir")


# --- Naming ----------------------------------------------------------------------------------------------------------


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


# --- Opening ---------------------------------------------------------------------------------------------------------


def _open(path: Path) -> ImageDataset:
    """Raises files.Missing if there is no folder `path`, files.Damaged if there is no sound pack in it."""
    if not path.exists():
        raise files.Missing(path, "there is no such folder")
    names = [name for name in ("images.npy", "meta.json") if not (path / name).exists()]
    if names:
        raise files.Damaged(path / names[0], "it is missing")
    with files.reading(path):
        meta = files.read_json(path / "meta.json", dict)
        images = files.load_npy(path / "images.npy", mapped=True)
        labels = files.load_npy(path / "labels.npy") if (path / "labels.npy").exists() else None
        attributes = files.load_npz(path / "attributes.npz") if (path / "attributes.npz").exists() else {}
        width = meta.get("image_width", meta["image_size"])
        shape = (meta["count"], meta["image_size"], width, meta["channels"])
        class_names = meta["class_names"]
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(f"images.npy is {images.dtype} {images.shape}, not uint8 {shape}")
        if (path / "images.npy").stat().st_size != meta["bytes"]:
            raise ValueError("images.npy does not have the size that meta.json promises")
        if (labels is None) != (meta["labels_sha256"] is None):
            raise ValueError("labels.npy is missing or left over")
        if labels is not None and (labels.shape != shape[:1] or labels.dtype != np.int32):
            raise ValueError(f"labels.npy is {labels.dtype} {labels.shape}, not int32 {shape[:1]}")
        if any(len(values) != len(images) for values in attributes.values()):
            raise ValueError("its files have different lengths")
        if class_names is not None and not all(isinstance(name, str) for name in class_names):
            raise ValueError("its classes have no names")
        if not all(isinstance(meta[name], str) for name in ("source", "sha256")):
            raise ValueError("meta.json does not say what the pack was made from")
    return ImageDataset(images, labels, attributes, class_names, meta, path)


# --- Building --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Holds the pack's lock, waiting for it if need be; yields False where the file system has no locks."""
    with contextlib.ExitStack() as stack:
        with _writing(path):
            alone = stack.enter_context(files.lock(lock_file(path), f"the pack {path}"))
        yield alone


def lock_file(path: Path) -> Path:
    """Beside the pack `path`; held while it is built."""
    return path.with_name(path.name + ".lock")


def bad_images_file(path: Path) -> Path:
    """Beside the pack `path`, which was refused for these images: a name, a tab and a reason a line."""
    return path.with_name(path.name + ".bad.txt")


@contextlib.contextmanager
def _writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns a failure to write into a UserError; `needed` is the size of the pack in bytes."""
    try:
        yield
    except OSError as error:
        size = f" ({needed:,} bytes)" if needed else ""
        raise UserError(
            f"Cannot write the pack {path}{size}: {error.strerror or error}. "
            "Make room or set --config.data.cache_dir to a folder that can hold it."
        ) from error


def _build(
    path: Path,
    source: Source,
    target: decode.Target,
    data: ConfigDict,
    duplicates: Duplicates | None,
    progress: bool,
    alone: bool,
) -> None:
    """Makes the pack in a folder beside `path` and renames it when it is complete.

    Needs the pack's lock. If it is not `alone`, as there are no locks, others may make the same pack meanwhile.
    """
    items = source.list_items()
    count = min(items.count, data.num_examples or items.count)
    if count == 0:
        raise UserError(f"{source.name} has no examples in split {data.split!r}.")
    needed = count * math.prod(target.shape)
    named = source.name if data.split in ("", "train") else f"{source.name}, {data.split}"
    with _writing(path, needed):
        if alone:
            _remove_dead_builds(path)
        _check_free_space(path, needed)
    left_out = duplicates.find() if duplicates else {}
    temporary = path.with_name(path.name + ("" if alone else f".{secrets.token_hex(4)}") + ".building")
    try:
        with _writing(path, needed):
            temporary.mkdir()
            references = _chosen(items, count)
            with (
                contextlib.closing(_decode_all(source.read, references, target, count)) as chunks,
                _reporter(named, path, count, progress) as report,
            ):
                rule = _Rule(count, data.small_images == "skip", bad_images_file(path))
                outcome = _write_arrays(temporary, chunks, target, rule, left_out, report)
            meta = _meta(source, data.split, target, items, outcome)
            images, labels = temporary / "images.npy", temporary / "labels.npy"
            meta |= {"bytes": images.stat().st_size, "sha256": _sha256(images)}
            meta["labels_sha256"] = _sha256(labels) if labels.exists() else None
            (temporary / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
            _publish(temporary, path)
            bad_images_file(path).unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if outcome.skipped:
        first = "; ".join(f"{bad.key} {bad.reason}" for bad in outcome.skipped[:3])
        _log.warning("Skipped %d of %d images: %s ... See %s/meta.json", len(outcome.skipped), count, first, path)
    if meta["left_out"]:
        words = ", ".join(f"{number:,} {what}" for what, number in meta["left_out"].items())
        _log.warning("Left out of %s: %s", source.name, words)


def _chosen(items: Items, count: int) -> Iterable[Any]:
    """`count` references: those whose numbers are 0, n/count, 2n/count ... rounded up, or the first ones."""
    if not items.spread:
        return itertools.islice(items.references, count)
    return itertools.compress(items.references, (i * count % items.count < count for i in range(items.count)))


def _publish(temporary: Path, path: Path) -> None:
    """Gives a finished pack its name, unless another process without a lock was quicker."""
    try:
        _open(path)
    except files.Damaged:
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_dead_builds(path: Path) -> None:
    """Removes what builds that were killed have left in the folder of packs, of this and of other packs."""
    shutil.rmtree(path.with_name(path.name + ".building"), ignore_errors=True)
    for temporary in path.parent.glob("*.building"):
        lock = lock_file(temporary.with_suffix(""))
        with contextlib.suppress(OSError), files.lock(lock, "", wait=False):  # Fails if that build is alive.
            shutil.rmtree(temporary, ignore_errors=True)


def _check_free_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise UserError(
            f"The pack {path} needs {needed:,} bytes, but only {free:,} are free there. "
            "Make room or set --config.data.cache_dir to a folder on a larger disk."
        )


class _Skipped(NamedTuple):
    """An image that cannot be used."""

    key: str
    reason: str
    small: bool


class _Rule(NamedTuple):
    """When a source is refused: how many images are expected, whether small ones are no matter, where bad ones go."""

    expected: int
    skip_small: bool
    list_file: Path

    def bad(self, skipped: list[_Skipped]) -> list[_Skipped]:
        return [one for one in skipped if not (one.small and self.skip_small)]

    def refuses(self, skipped: list[_Skipped]) -> bool:
        return len(self.bad(skipped)) > max(1, _MAX_BAD * self.expected)


class _Outcome(NamedTuple):
    kept: int
    skipped: list[_Skipped]
    duplicates: int  # left out
    several_frames: int  # images
    class_counts: list[int] | None
    aspect: float  # median width over height of the whole images


def _write_arrays(
    folder: Path,
    chunks: Iterable["_Chunk"],
    target: decode.Target,
    rule: _Rule,
    duplicates: Mapping[str, str],
    report: Callable[[int], object],
) -> _Outcome:
    """Writes everything but meta.json.

    `duplicates`: originals by key of the images to leave out; originals come first.

    Raises:
        UserError: too many images are bad; all are looked at first, so that they can be listed, unless none is good.
    """
    keys: list[str] = []
    labels: list[np.ndarray] = []
    attributes: list[dict[str, np.ndarray]] = []
    aspects: list[float] = []
    skipped: list[_Skipped] = []
    left_out = several_frames = 0
    with open(folder / "images.npy", "wb") as file:
        _write_header(file, (rule.expected, *target.shape))
        for decoded in chunks:
            skipped += decoded.skipped
            several_frames += decoded.several_frames
            refused = rule.refuses(skipped)
            if refused and not keys and not decoded.keys and len(skipped) >= _HOPELESS:
                break
            chunk = _without(decoded, duplicates, {bad.key for bad in skipped}) if duplicates else decoded
            left_out += len(decoded.keys) - len(chunk.keys)
            if refused:
                keys += chunk.keys
            elif chunk.keys:
                file.write(chunk.images.data)
                keys += chunk.keys
                attributes.append(chunk.attributes)
                aspects += chunk.aspects
                labels += [] if chunk.labels is None else [chunk.labels]
            report(len(decoded.keys) + len(decoded.skipped))
        if rule.refuses(skipped) or not keys:
            _refuse(skipped, len(keys), rule)
        file.seek(0)
        _write_header(file, (len(keys), *target.shape))  # As long as before: numpy leaves room for the first axis.
    class_counts = None
    if labels:
        np.save(folder / "labels.npy", np.concatenate(labels))
        class_counts = np.bincount(np.concatenate(labels)).tolist()
    if attributes[0]:
        arrays = {name: np.concatenate([part[name] for part in attributes]) for name in attributes[0]}
        np.savez(folder / "attributes.npz", **arrays)  # type: ignore[arg-type]
    (folder / "keys.json").write_text(json.dumps(keys))
    return _Outcome(len(keys), skipped, left_out, several_frames, class_counts, statistics.median(aspects))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _refuse(skipped: list[_Skipped], good: int, rule: _Rule) -> NoReturn:
    bad = rule.bad(skipped) or skipped
    listed = "".join(f"\n  {one.key} {one.reason}" for one in bad[:5])
    lines = "".join(f"{one.key}\t{one.reason}\n" for one in bad)
    rule.list_file.write_text(lines, errors="surrogateescape")
    if not good:
        what = f"None of the first {len(skipped):,} images" if len(skipped) < rule.expected else "None of the images"
        what += " can be used"
    else:
        what = f"{len(bad):,} of the {rule.expected:,} images, more than 1 %, cannot be used"
    small = any(one.small for one in bad) and not rule.skip_small
    raise UserError(
        f"{what}. Remove or replace them, or change data.image_size or data.crop_size"
        + ("; --config.data.small_images=skip leaves small ones out" if small else "")
        + f". All are listed in {rule.list_file}. The first are:{listed}"
    )


def _meta(source: Source, split: str, target: decode.Target, items: Items, outcome: _Outcome) -> dict[str, Any]:
    left_out = dict(items.left_out)
    if outcome.several_frames:
        left_out["files with several frames, but for their first"] = outcome.several_frames
    counts = outcome.class_counts
    if counts is not None and items.class_names:
        counts += [0] * (len(items.class_names) - len(counts))
    return {
        "source": source.name,
        "version": source.version,
        "split": split,
        "held_out": source.fingerprint.get("held_out", 0),
        **target.described(),
        **({"aspect": outcome.aspect} if target.fit == "squeeze" else {}),
        "resampling": decode.RESAMPLING,
        "count": outcome.kept,
        "duplicates_left_out": outcome.duplicates,
        "skipped": {"count": len(outcome.skipped), "first": [bad[:2] for bad in outcome.skipped[:20]]},
        "left_out": left_out,
        "class_names": items.class_names,
        "class_counts": counts,
        "note": items.note,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dcgan_jax": dcgan_jax.__version__,
    }


# --- Decoding --------------------------------------------------------------------------------------------------------

_Read = Callable[[Sequence[Any]], Iterator[Example]]


class _Chunk(NamedTuple):
    """What became of a run of examples: the n good ones, and the others."""

    images: np.ndarray  # uint8 [n, height, width, channels]
    keys: list[str]
    labels: np.ndarray | None  # int32 [n]
    attributes: dict[str, np.ndarray]
    aspects: list[float]  # [n]
    skipped: list[_Skipped]
    several_frames: int  # images with more frames than the one that counts


def _without(chunk: _Chunk, duplicates: Mapping[str, str], lost: Container[str]) -> _Chunk:
    """The chunk without the images whose originals, by key, are in the pack; those that are `lost` are not."""
    kept = np.array([key not in duplicates or duplicates[key] in lost for key in chunk.keys], bool)
    if kept.all():
        return chunk
    return _Chunk(
        chunk.images[kept],
        list(itertools.compress(chunk.keys, kept)),
        None if chunk.labels is None else chunk.labels[kept],
        {name: values[kept] for name, values in chunk.attributes.items()},
        list(itertools.compress(chunk.aspects, kept)),
        chunk.skipped,
        chunk.several_frames,
    )


def _decode_all(
    read: _Read, references: Iterable[Any], target: decode.Target, count: int
) -> Generator[_Chunk, None, None]:
    """Decodes everything in order, in one process per core if it is worth while."""
    remaining = iter(references)
    chunks = iter(lambda: list(itertools.islice(remaining, _CHUNK)), [])
    work = functools.partial(_decode_chunk, read, target)
    workers = _num_cores() if count >= _SMALL else 1
    if workers == 1:
        yield from map(work, chunks)
        return
    # Spawned, not forked: JAX and TensorFlow run threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    pending: deque[Future[_Chunk]] = deque()
    try:
        for chunk in chunks:
            with _main_module_hidden():
                pending.append(pool.submit(work, chunk))
            if len(pending) > 4 * workers:  # Enough to keep all busy; bounds the memory when the disk is slow.
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "A process that decodes images was killed, probably because memory ran out or the source is damaged."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """A spawned process begins by importing the main module again, JAX and all. Ours need nothing from it."""
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then shuts the pool down.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Should the parent be killed, nothing else would end this process."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _decode_chunk(read: _Read, target: decode.Target, references: Sequence[Any]) -> _Chunk:
    images, good, aspects, skipped, several_frames = [], [], [], [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about oddities that do not stop it.
        try:
            for example in read(references):
                try:
                    if example.problem:
                        raise decode.BadImage(example.problem)
                    decoded = decode.decode(example.image, target)
                    images.append(decoded.pixels)
                    good.append(example)
                    aspects.append(decoded.aspect)
                    several_frames += decoded.several_frames
                except decode.BadImage as error:
                    small = isinstance(error, decode.TooSmall)
                    skipped.append(_Skipped(example.key, str(error), small))
        except OSError as error:
            raise UserError(f"The images cannot be read: {error}.") from error
    if not good:
        return _Chunk(np.empty(0, np.uint8), [], None, {}, [], skipped, 0)
    labels = None if good[0].label is None else np.asarray([example.label for example in good], np.int32)
    attributes = {name: np.stack([example.attributes[name] for example in good]) for name in good[0].attributes}
    keys = [example.key for example in good]
    return _Chunk(np.stack(images), keys, labels, attributes, aspects, skipped, several_frames)


# --- Reporting -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reporter(name: str, path: Path, count: int, progress: bool) -> Iterator[Callable[[int], object]]:
    """Gives a function to call with the number of images done since the last call."""
    if not progress:
        yield lambda _: None
        return
    print(f"Packing {name}: {count:,} images into {path}", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        with tqdm(total=count, unit=" images") as bar:
            yield bar.update
        return
    done, start, due = 0, time.monotonic(), _LINE_SECONDS

    def report(images: int) -> None:
        nonlocal done, due
        done += images
        elapsed = time.monotonic() - start
        if elapsed >= due or done == count:
            due = elapsed + _LINE_SECONDS
            print(f"Packed {done:,} of {count:,} images in {elapsed:.0f} s", file=sys.stderr, flush=True)

    yield report
