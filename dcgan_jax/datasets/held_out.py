"""Some of a source's images are kept from training, evenly spread over it: its split 'held_out'."""

import dataclasses
import functools

from dcgan_jax.datasets.source import Items, Source
from dcgan_jax.machine.errors import UserError

SPLIT = "held_out"


def part_of(source: Source, count: int, split: str) -> Source:
    """The source without `count` of its images, or for split 'held_out' those alone."""
    return dataclasses.replace(
        source,
        fingerprint={**source.fingerprint, "held_out": count},
        list_items=functools.partial(_list_part, source, count, split == SPLIT),
        earlier=None,
    )


def _list_part(source: Source, count: int, held_out: bool) -> Items:
    """Raises UserError if nothing would be left for training."""
    items = source.list_items()
    if count >= items.count:
        raise UserError(
            f"data.held_out is {count}, but {source.name} has {items.count} images: give fewer, or 0 to train on all."
        )
    chosen = {i * items.count // count for i in range(count)}
    references = [one for i, one in enumerate(items.references) if (i in chosen) == held_out]
    return dataclasses.replace(items, count=len(references), references=references)
