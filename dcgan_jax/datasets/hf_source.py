"""Data sets of the Hugging Face hub, through its `datasets` package, which downloads them."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcgan_jax.datasets import array_file
from dcgan_jax.datasets.parquet_file import example
from dcgan_jax.datasets.source import Example, Items, Source, local_path
from dcgan_jax.machine.errors import UserError


def open_hf(name: str, data_dir: str, split: str) -> Source:
    """The examples of a split. Code that a data set brings along is never run.

    Args:
        name: NAME or USER/NAME of the hub.
        data_dir: cache folder of the `datasets` package; '' is its own default.
        split: a split expression: 'train', 'train[:90%]'.

    The first feature that is an image is read, and the feature 'label' if there is one. A data set that changes on the
    hub is not noticed: remove its pack then (python -m dcgan_jax.datasets).
    """
    folder = local_path(data_dir, "data.dir") if data_dir else None
    return Source(
        name=f"hf:{name}",
        version="",
        fingerprint={"split": split},
        list_items=functools.partial(_list_items, name, folder, split),
        read=iter,
    )


def _list_items(name: str, folder: Path | None, split: str) -> Items:
    try:
        import datasets
    except ImportError as error:
        raise UserError("hf: sources need the datasets package: pip install datasets") from error
    try:
        rows = datasets.load_dataset(name, split=split, cache_dir=str(folder) if folder else None)
        image = next((key for key, kind in rows.features.items() if isinstance(kind, datasets.Image)), None)
        if image is None:
            raise UserError(f"hf:{name} has no image feature; it has {', '.join(rows.features)}.")
        rows = rows.cast_column(image, datasets.Image(decode=False))
        names = getattr(rows.features.get("label"), "names", None)
        labels = [int(label) for label in rows["label"]] if "label" in rows.features else None
    except UserError:
        raise
    except Exception as error:  # of the network, the hub or the package
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise UserError(f"hf:{name}, split {split!r}, cannot be opened: {reason}") from error
    if labels:
        array_file.check_numbers(f"the labels of hf:{name}", labels, list(names) if names else None)
    return Items(len(rows), _examples(rows, image, labels), list(names) if names else None, spread=True)


def _examples(rows: Any, image: str, labels: list[int] | None) -> Iterator[Example]:
    for number, row in enumerate(rows.select_columns([image])):
        value, label = row[image], None if labels is None else labels[number]
        if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
            yield Example(Path(value["path"]), f"{number}", label)  # a file that the package has downloaded
        else:
            yield example(value, number, label)
