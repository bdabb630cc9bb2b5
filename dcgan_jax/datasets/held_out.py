"""Some of a source's images are kept from training, evenly spread over it: its split 'held_out'."""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Sequence

from dcgan_jax.datasets.source import Items, Source
from dcgan_jax.machine.errors import UserError

SPLIT = "held_out"


def part_of(source: Source, count: int, split: str) -> Source:
    """The source without `count` of its images, or for split 'held_out' those alone.

    Where labels are known before images are read, no class loses its last image: another one is held out instead.
    """
    return dataclasses.replace(
        source,
        fingerprint={**source.fingerprint, "held_out": count},
        list_items=functools.partial(_list_part, source, count, split == SPLIT),
        earlier=None,
    )


def _list_part(source: Source, count: int, held_out: bool) -> Items:
    """Raises UserError if nothing would be left for training, or nothing of a class."""
    items = source.list_items()
    labels = items.labels or [None] * items.count
    most = items.count - max(1, len(set(labels)))
    if count > most:
        raise UserError(
            f"data.held_out is {count}, but {source.name} has {items.count} images, and one of each class must stay: "
            f"give {most} or less, or 0 to train on all."
        )
    chosen = _chosen(labels, count)
    kept = [(i in chosen) == held_out for i in range(items.count)]
    return dataclasses.replace(
        items,
        count=sum(kept),
        references=itertools.compress(items.references, kept),  # which may be images: not all of them at once
        labels=list(itertools.compress(items.labels, kept)) if items.labels else None,
        whole=items.count,
    )


def _chosen(labels: Sequence[int | None], count: int) -> set[int]:
    """Numbers of `count` images, evenly spread, or the next ones behind them that are not the last of their class."""
    left, chosen, images = Counter(labels), set[int](), len(labels)
    for first in (i * images // count for i in range(count)):
        following = itertools.chain(range(first, images), range(first))
        i = next(i for i in following if i not in chosen and left[labels[i]] > 1)
        left[labels[i]] -= 1
        chosen.add(i)
    return chosen
