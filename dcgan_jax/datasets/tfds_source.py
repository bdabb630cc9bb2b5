"""TensorFlow Datasets: any set with an image feature.

Sets prepared as array_record are read at random and without TensorFlow. Those prepared as tfrecord, the default of
TFDS, are read in order and with it. In both cases images stay encoded: decode.py decodes them.
"""

import functools
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcgan_jax.datasets.source import Example, Items, Source, local_path
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

_NAME = re.compile(r"(?P<set>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_KEY_FEATURES = ("id", "file_name", "image/filename")


def open_tfds(name: str, data_dir: str, split: str) -> Source:
    """The examples of a split, in TFDS's order. A set that is not there yet is downloaded when the pack is built.

    Args:
        name: NAME or NAME/config, with or without :1.2.3; the newest prepared version if none is given.
        data_dir: TFDS's data_dir; '' is its default.
        split: a split expression of TFDS: 'train', 'train[:90%]', 'train+test'.

    The label is the feature 'label', if it is one integer. All other numbers, also those one level down (the forty
    attributes of celeb_a), are attributes under their own names.

    Raises:
        UserError: the name is malformed, needs a config or, if nothing is prepared, is unknown to TFDS.
    """
    root = local_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "data.dir")
    prepared = _prepared_folder(name, root)
    folder = prepared or _planned_folder(name, root)
    arguments = (name, root, folder, split)
    in_order = prepared is not None and _file_format(prepared) not in ("array_record", "parquet")
    of_split = {"folder": str(folder), "split": split}
    digest, changed = _listing(folder)
    return Source(
        name=f"tfds:{name}",
        version=folder.name,
        # A set that this pack's build is going to prepare has no files yet. It is found again as an `earlier` one.
        fingerprint=of_split | ({"files": digest} if prepared else {}),
        list_items=functools.partial(_list_in_order if in_order else _list_rows, *arguments),
        read=iter if in_order else functools.partial(_read_rows, folder, split),
        earlier=of_split if prepared else None,
        changed=changed,
    )


def _listing(folder: Path) -> tuple[str, int]:
    """A digest of the names, sizes and times of a prepared set's files, which tells when it is prepared again.

    Also the newest of these times in ns; 0 if there are no files.
    """
    listing, newest = hashlib.sha256(), 0
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        status = path.stat()
        listing.update(os.fsencode(path.name) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        newest = max(newest, status.st_mtime_ns)
    return listing.hexdigest(), newest


def _prepared_folder(name: str, root: Path) -> Path | None:
    """root/NAME[/config]/VERSION, found without importing TFDS; None if the set has not been prepared."""
    match = _NAME.fullmatch(name)
    if not match:
        raise UserError(f"data.source 'tfds:{name}' must look like tfds:NAME, tfds:NAME/config or tfds:NAME:1.2.3.")
    parent = root / match["set"] / (match["config"] or "")
    folders = [info.parent for info in parent.glob(f"{match['version'] or '*'}/dataset_info.json")]
    prepared = [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    if prepared:
        return max(prepared, key=lambda folder: [int(number) for number in folder.name.split(".")])
    configs = sorted({info.parent.parent.name for info in parent.glob("*/*.*.*/dataset_info.json")})
    if configs and not match["config"]:
        raise UserError(f"data.source 'tfds:{name}' needs a config: {parent} holds {', '.join(configs)}.")
    return None


def _planned_folder(name: str, root: Path) -> Path:
    """Where TFDS is going to put a set that has not been prepared."""
    tfds = _import_tfds()
    try:
        builder = tfds.builder(name, data_dir=str(root))
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"TFDS knows no data set {name!r}, and {root} (data.dir) holds none. "
            "The names are listed at https://www.tensorflow.org/datasets/catalog/overview."
        ) from error
    except Exception as error:
        raise UserError(f"TFDS cannot open 'tfds:{name}': {_first_line(error)}.") from error
    if builder.builder_config and "/" not in name:
        raise UserError(f"data.source 'tfds:{name}' needs a config, one of {', '.join(builder.builder_configs)}.")
    return Path(builder.data_dir)


def _file_format(folder: Path) -> str:
    file = folder / "dataset_info.json"
    try:
        return files.read_json(file, dict).get("fileFormat", "tfrecord")
    except files.Damaged as error:
        raise UserError(f"{file} is damaged ({error.reason}): prepare the data set again.") from error


def _list_rows(name: str, root: Path, folder: Path, split: str) -> Items:
    if not (folder / "dataset_info.json").is_file():
        _prepare(name, root)
    try:
        rows, columns = _open_rows(folder, split)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"TFDS cannot read split {split!r} of {folder}: {_first_line(error)}.") from error
    return Items(len(rows), range(len(rows)), columns.class_names)


def _read_rows(folder: Path, split: str, indices: Sequence[int]) -> Iterator[Example]:
    rows, columns = _open_rows(folder, split)
    for index, row in zip(indices, rows.__getitems__(indices), strict=True):
        yield _example(row, columns, f"{split}[{index}]")


@functools.cache
def _open_rows(folder: Path, split: str) -> tuple[Any, "_Columns"]:
    builder = _import_tfds().builder_from_directory(str(folder))
    return builder.as_data_source(split=split, decoders=_skip_decoding(builder)), _columns(builder)


def _list_in_order(name: str, root: Path, folder: Path, split: str) -> Items:
    """Reads a set in one of the sequential formats, whose items are the examples themselves."""
    tfds = _import_tfds()
    try:
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # TensorFlow would claim all the memory that JAX is going to need.
        builder = tfds.builder_from_directory(str(folder))
        config = tfds.ReadConfig(interleave_cycle_length=1)  # Shard after shard: the order is always the same.
        records = builder.as_dataset(split=split, decoders=_skip_decoding(builder), read_config=config)
        count = len(records)
    except Exception as error:
        raise UserError(
            f"{folder} holds {_file_format(folder)} files, and reading them with TensorFlow failed "
            f"({_first_line(error)}). Move the folder away and prepare the set as array_record, which can be read "
            f"without TensorFlow: {_command(name, root)}"
        ) from error
    columns = _columns(builder)
    examples = (_example(row, columns, f"{split}[{i}]") for i, row in enumerate(tfds.as_numpy(records)))
    return Items(count, examples, columns.class_names)


class _Columns(NamedTuple):
    """Which features of a set become what; `numbers` are paths into the nested dictionary of features."""

    image: str
    key: str | None
    labelled: bool
    numbers: list[tuple[str, ...]]
    class_names: list[str] | None


def _columns(builder: Any) -> _Columns:
    features = builder.info.features
    images = _image_features(builder)
    if not images:
        raise UserError(f"TFDS set {builder.info.full_name} has no image feature; it has {', '.join(features)}.")
    numbers = list(_number_paths(features))
    label = features["label"] if ("label",) in numbers and features["label"].shape == () else None
    names = getattr(label, "names", None)
    return _Columns(
        image="image" if "image" in images else images[0],
        key=next((name for name in _KEY_FEATURES if name in features), None),
        labelled=label is not None,
        numbers=[path for path in numbers if label is None or path != ("label",)],
        class_names=list(names) if names else None,
    )


def _image_features(builder: Any) -> list[str]:
    tfds = _import_tfds()
    return [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]


def _skip_decoding(builder: Any) -> dict[str, Any]:
    tfds = _import_tfds()
    return {name: tfds.decode.SkipDecoding() for name in _image_features(builder)}


def _number_paths(features: Mapping[str, Any], parents: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Scalars and vectors of a fixed length; integers, floats and booleans."""
    for name, feature in features.items():
        if hasattr(feature, "items"):
            yield from _number_paths(feature, (*parents, name))
            continue
        shape = feature.shape
        fixed = isinstance(shape, tuple) and len(shape) <= 1 and None not in shape
        if fixed and np.dtype(feature.np_dtype).kind in "biuf":
            yield (*parents, name)


def _example(row: Mapping[str, Any], columns: _Columns, key: str) -> Example:
    name = row[columns.key] if columns.key else key
    return Example(
        image=row[columns.image],
        key=name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name),
        label=int(row["label"]) if columns.labelled else None,
        attributes={path[-1]: functools.reduce(lambda at, part: at[part], path, row) for path in columns.numbers},
    )


def _prepare(name: str, root: Path) -> None:
    print(f"Downloading tfds:{name} to {root}; TFDS repeats refused requests for some minutes.", file=sys.stderr)
    # In a process of its own, so that TensorFlow never enters this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            reason = pool.submit(_download_and_prepare, name, root).result()
        except Exception as error:
            reason = _first_line(error)
    if reason:
        raise UserError(
            f"TFDS could not download and prepare {name!r} ({reason}). It needs the network and the tensorflow "
            f"package. To do it by hand, also on another machine: {_command(name, root)}\nSome hosts refuse downloads "
            "by program (CelebA: the quota of Google Drive). Then fetch the images with a browser, unpack them, and "
            "use --config.data.source=folder:/path/to/the/images instead."
        )


def _download_and_prepare(name: str, root: Path) -> str:
    """Runs in its own process; returns the reason for a failure, or ''."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        _import_tfds().builder(name, data_dir=str(root), file_format="array_record").download_and_prepare()
    except Exception as error:
        return _first_line(error)
    return ""


def _command(name: str, root: Path) -> str:
    call = f"tfds.builder('{name}', data_dir='{root}', file_format='array_record').download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'


def _import_tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError("tfds: sources need TensorFlow Datasets: pip install tensorflow-datasets") from error
    return tfds


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".")
