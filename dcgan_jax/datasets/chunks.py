"""All images of a source, decoded in order, in chunks, by a process per core where that is worth while."""

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import types
import warnings
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np

from dcgan_jax.datasets import decode
from dcgan_jax.datasets.source import Example
from dcgan_jax.machine.errors import UserError

_CHUNK = 32  # Images per task of a decoding process.
_SMALL = 500  # Fewer images than this are decoded in this process: starting others would take longer.

_Read = Callable[[Sequence[Any]], Iterator[Example]]


class Skipped(NamedTuple):
    """An image that cannot be used."""

    key: str
    reason: str
    small: bool


class Chunk(NamedTuple):
    """What became of a run of examples: the n good ones, and the others."""

    images: np.ndarray  # uint8 [n, height, width, channels]
    keys: list[str]
    labels: np.ndarray | None  # int32 [n]
    attributes: dict[str, np.ndarray]
    aspects: list[float]  # [n]
    skipped: list[Skipped]
    several_frames: int  # images with more frames than the one that counts


def without(chunk: Chunk, duplicates: Mapping[str, str], before: Container[str]) -> Chunk:
    """The chunk without the images whose originals, by key, are in the pack: in this chunk, or among those `before`.

    An original may be too small, held out, or not one of data.num_examples: its duplicate is taken then.
    """
    here = set(chunk.keys)
    originals = [duplicates.get(key) for key in chunk.keys]
    kept = np.array([one is None or not (one in here or one in before) for one in originals], bool)
    if kept.all():
        return chunk
    return Chunk(
        chunk.images[kept],
        list(itertools.compress(chunk.keys, kept)),
        None if chunk.labels is None else chunk.labels[kept],
        {name: values[kept] for name, values in chunk.attributes.items()},
        list(itertools.compress(chunk.aspects, kept)),
        chunk.skipped,
        chunk.several_frames,
    )


def decode_all(
    read: _Read, references: Iterable[Any], target: decode.Target, count: int
) -> Generator[Chunk, None, None]:
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
    pending: deque[Future[Chunk]] = deque()
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


def _decode_chunk(read: _Read, target: decode.Target, references: Sequence[Any]) -> Chunk:
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
                    skipped.append(Skipped(example.key, str(error), small))
        except OSError as error:
            raise UserError(f"The images cannot be read: {error}.") from error
    if not good:
        return Chunk(np.empty(0, np.uint8), [], None, {}, [], skipped, 0)
    labels = None if good[0].label is None else np.asarray([example.label for example in good], np.int32)
    attributes = {name: np.stack([example.attributes[name] for example in good]) for name in good[0].attributes}
    keys = [example.key for example in good]
    return Chunk(np.stack(images), keys, labels, attributes, aspects, skipped, several_frames)
