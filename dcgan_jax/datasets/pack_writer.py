"""Writes a pack: a source's images, labels and names into a folder that appears when it is complete."""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import secrets
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
from ml_collections import ConfigDict

import dcgan_jax
from dcgan_jax.datasets import decode, image_dataset
from dcgan_jax.datasets.chunks import Chunk, Skipped, decode_all, without
from dcgan_jax.datasets.source import Items, Source
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm

_LINE_SECONDS = 10.0  # Between lines of progress where there is no terminal.
_MAX_BAD = 0.01  # Share of bad images above which the source, not an image, is taken to be bad; one is always allowed.
_HOPELESS = 64  # So many images, bad without exception and too many, are enough to give a source up.

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
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


def write(
    path: Path,
    source: Source,
    target: decode.Target,
    data: ConfigDict,
    find_duplicates: Callable[[], Mapping[str, str]] | None,
    progress: bool,
    alone: bool,
) -> None:
    """Makes the pack in a folder beside `path` and renames it when it is complete.

    Args:
      path: of the pack, whose lock the caller holds.
      source, target, data: what is packed, and how.
      find_duplicates: gives the originals by key of the images to leave out; None: none are.
      progress: whether to report on stderr.
      alone: False where there are no locks: others may make the same pack meanwhile.

    Raises:
      UserError: as `pack.open_or_build` does.
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
    duplicates = find_duplicates() if find_duplicates else {}
    temporary = path.with_name(path.name + ("" if alone else f".{secrets.token_hex(4)}") + ".building")
    try:
        with _writing(path, needed):
            temporary.mkdir()
            references = _chosen(items, count)
            with (
                contextlib.closing(decode_all(source.read, references, target, count)) as chunks,
                _reporter(named, path, count, progress) as report,
            ):
                rule = _Rule(count, max(count, items.whole), data.small_images == "skip", bad_images_file(path))
                outcome = _write_arrays(temporary, chunks, target, rule, duplicates, report)
            meta = _meta(source, data.split, target, items, outcome, find_duplicates is not None)
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
        image_dataset.open_pack(path)
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


class _Rule(NamedTuple):
    """When a source is refused.

    Attributes:
      expected: how many images.
      whole: how many there are with those that were held out, of which a share may be bad.
      skip_small: whether small ones are no matter.
      list_file: where bad ones are listed.
    """

    expected: int
    whole: int
    skip_small: bool
    list_file: Path

    def bad(self, skipped: list[Skipped]) -> list[Skipped]:
        return [one for one in skipped if not (one.small and self.skip_small)]

    def refuses(self, skipped: list[Skipped]) -> bool:
        return len(self.bad(skipped)) > max(1, _MAX_BAD * self.whole)


class _Outcome(NamedTuple):
    kept: int
    skipped: list[Skipped]
    duplicates: int  # left out
    several_frames: int  # images
    class_counts: list[int] | None
    aspect: float  # median width over height of the whole images


def _write_arrays(
    folder: Path,
    chunks: Iterable[Chunk],
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
    skipped: list[Skipped] = []
    left_out = several_frames = 0
    kept: set[str] = set()
    with open(folder / "images.npy", "wb") as file:
        _write_header(file, (rule.expected, *target.shape))
        for decoded in chunks:
            skipped += decoded.skipped
            several_frames += decoded.several_frames
            refused = rule.refuses(skipped)
            if refused and not keys and not decoded.keys and len(skipped) >= _HOPELESS:
                break
            chunk = without(decoded, duplicates, kept) if duplicates else decoded
            kept.update(chunk.keys if duplicates else ())
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


def _refuse(skipped: list[Skipped], good: int, rule: _Rule) -> NoReturn:
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


def _meta(
    source: Source, split: str, target: decode.Target, items: Items, outcome: _Outcome, deduplicated: bool
) -> dict[str, Any]:
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
        "dedup": deduplicated,
        "duplicates_left_out": outcome.duplicates,
        "skipped": {"count": len(outcome.skipped), "first": [bad[:2] for bad in outcome.skipped[:20]]},
        "left_out": left_out,
        "class_names": items.class_names,
        "class_counts": counts,
        "note": items.note,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dcgan_jax": dcgan_jax.__version__,
    }


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
