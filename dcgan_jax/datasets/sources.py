"""config.data.source -> a Source: a list of items, and a function that reads them.

A Source is cheap to make. It knows its fingerprint (what its content depends on) without reading images and without
importing anything heavy; only building a pack lists and reads the items.
"""

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from dcgan_jax.datasets import (
    array_file,
    held_out,
    hf_source,
    idx_file,
    image_folder,
    lsun_lmdb,
    parquet_file,
    tfds_source,
    zip_archive,
)
from dcgan_jax.datasets.source import Example, Items, Source, local_path
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.shapes import image_shape

_FORMS = (
    "'folder:/path' (or a .zip), 'tfds:NAME', 'hf:NAME', 'lsun:/path/to/X_train_lmdb', 'array:/path.npz', "
    "'idx:/path/X-images-idx3-ubyte.gz', 'parquet:/path', 'pack:/path', 'toy_bedrooms' or 'toy_faces'"
)
_PACK = "pack"
_TOY_SEEDS = {"train": 0, "test": 1}
_TOY_COUNT = 20_000


def open_source(data: ConfigDict) -> Source:
    """The source that `config.data` describes.

    Raises:
        UserError: unknown kind, missing path or one that may not be read, unknown split; or it is a pack, which is
            opened and not read, see `packed_folder`.
    """
    try:
        return _open(data)
    except OSError as error:
        raise UserError(f"data.source {data.source!r} cannot be opened: {error}.") from error


def _open(data: ConfigDict) -> Source:
    kind, _, argument = data.source.partition(":")
    toy = data.source in ("toy_bedrooms", "toy_faces")
    if not toy and (not argument or kind not in ("tfds", "hf", _PACK, *_OPENERS)):
        raise UserError(f"data.source {data.source!r} is not one of {_FORMS}.")
    if data.held_out and kind not in _OPENERS:
        raise UserError(
            f"data.held_out is {data.held_out}, but {data.source} has splits: leave it at 0, and name another split by "
            "--config.eval.split."
        )
    if toy:
        return _toy(data.source, data)
    if kind == _PACK:
        raise UserError(
            f"data.source {data.source!r} is a pack, and packs are used as they are: this needs the images that it was "
            "made from."
        )
    if kind == "tfds":
        return tfds_source.open_tfds(argument, data.dir, data.split)
    if kind == "hf":
        return hf_source.open_hf(argument, data.dir, data.split)
    if data.split not in ("train", "", *((held_out.SPLIT,) if data.held_out else ())):
        raise UserError(
            f"data.split is {data.split!r}, but {kind}: sources have no splits but 'held_out', which data.held_out "
            "makes. Leave it at 'train' and give the images of each split a source of their own."
        )
    source = _OPENERS[kind](local_path(argument, "data.source"), data.num_examples)
    return held_out.part_of(source, data.held_out, data.split) if data.held_out else source


def has_splits(source: str) -> bool:
    """Whether a source of this kind has splits; others have all their images in one, but for data.held_out."""
    return source.partition(":")[0] not in (_PACK, *_OPENERS)


def packed_folder(source: str) -> Path | None:
    """The folder of 'pack:/path'; None for sources of all other kinds. Raises UserError if it cannot be a path."""
    kind, _, argument = source.partition(":")
    return local_path(argument, "data.source") if kind == _PACK and argument else None


def _open_folder(path: Path, num_examples: int) -> Source:
    opener = zip_archive.open_zip if zip_archive.is_archive(path) else image_folder.open_folder
    return opener(path, num_examples)


# By kind: path, data.num_examples -> Source.
_OPENERS: dict[str, Callable[[Path, int], Source]] = {
    "folder": _open_folder,
    "lsun": lsun_lmdb.open_lsun,
    "array": array_file.open_array,
    "idx": idx_file.open_idx,
    "parquet": parquet_file.open_parquet,
}


def _toy(name: str, data: ConfigDict) -> Source:
    if data.split not in _TOY_SEEDS:
        raise UserError(f"data.split {data.split!r} is not a split of {name}; it has 'train' and 'test'.")
    if data.crop_size:
        raise UserError(f"{name} is drawn at data.image_size; data.crop_size {data.crop_size} must stay 0.")
    height, width, _ = image_shape(data)
    if width != height:
        raise UserError(f"{name} is drawn as squares; data.image_width {width} must stay 0.")
    version = importlib.import_module(f"dcgan_jax.datasets.{name}").VERSION
    count = data.num_examples or _TOY_COUNT
    return Source(
        name=name,
        version=str(version),
        fingerprint={"version": version, "split": data.split, "count": count},
        list_items=functools.partial(_list_toy, count),
        read=functools.partial(_read_toy, name, data.split, data.image_size),
    )


def _list_toy(count: int) -> Items:
    return Items(count, range(count))


def _read_toy(name: str, split: str, image_size: int, indices: Sequence[int]) -> Iterator[Example]:
    render = importlib.import_module(f"dcgan_jax.datasets.{name}").render
    for index in indices:
        image, factors = render(_TOY_SEEDS[split], index, image_size)
        yield Example(image, f"{split}/{index}", attributes=factors)
