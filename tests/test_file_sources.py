"""Archives, arrays, IDX and Parquet files and the hub: images, labels and names as they were written, lazily."""

import builtins
import gzip
import io
import json
import pickle
import re
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.datasets import opening, sources, zip_archive
from dcgan_jax.datasets.source import Source
from dcgan_jax.machine.errors import UserError
from tests.test_fuzz_data import settings_of
from tests.test_sources import data, open_source, png, read_all


def values(source: Source) -> list[tuple[str, Any, int | None]]:
    """Key, value of the first pixel and label of each example."""
    found = []
    for example in read_all(source):
        image = example.image
        assert not isinstance(image, Path) and not example.problem
        pixels = np.asarray(Image.open(io.BytesIO(image))) if isinstance(image, bytes) else image
        found.append((example.key, pixels.reshape(-1)[0], example.label))
    return found


def check_pack(
    source: str, folder: Path, expected: list[int], labels: list[int] | None, names: list[str] | None
) -> None:
    """The source makes a pack of grey images of these values, and of part of them."""
    settings = settings_of(source, folder)
    dataset = opening.open_or_build(settings, progress=False)
    assert dataset.images[:, 0, 0].tolist() == [[value] * 3 for value in expected]
    assert (None if dataset.labels is None else dataset.labels.tolist()) == labels
    assert dataset.class_names == names
    settings.num_examples = 2
    part = opening.open_or_build(settings, progress=False)
    half = (len(expected) + 1) // 2
    assert part.images[:, 0, 0, 0].tolist() == [expected[0], expected[half]]
    read = pickle.loads(pickle.dumps(sources.open_source(settings).read))  # for the processes that decode
    assert len(list(read(list(sources.open_source(settings).list_items().references)))) == len(expected)


# --- .zip ------------------------------------------------------------------------------------------------------------


def write_zip(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_an_archive_is_like_the_folder_that_it_unpacks_to(tmp_path: Path) -> None:
    entries = {
        "all/dog/b.png": png(3),
        "all/cat/a.PNG": png(1),
        "all/cat/deep/c.jfif": png(2),
        "all/cat/x.jp2": b"",
        "all/cat/LICENSE": b"",
        "all/notes.txt": b"",
        "all/.hidden.png": png(9),
        "__MACOSX/all/cat/._a.png": b"\0\5\x16\7",
        "all/class10/z.png": png(5),
        "all/class2/z.png": png(4),
    }
    write_zip(tmp_path / "x.zip", entries)
    source = open_source(data(f"folder:{tmp_path}/x.zip"))
    assert values(source) == [
        ("all/cat/a.PNG", 1, 0),
        ("all/cat/deep/c.jfif", 2, 0),
        ("all/class10/z.png", 5, 2),
        ("all/class2/z.png", 4, 1),
        ("all/dog/b.png", 3, 3),
    ]
    items = source.list_items()
    assert items.class_names == ["cat", "class2", "class10", "dog"]
    assert items.left_out == {".jp2": 1, "without extension": 1}
    check_pack(source.name, tmp_path, [1, 2, 5, 4, 3], [0, 0, 2, 1, 3], ["cat", "class2", "class10", "dog"])


def test_folders_that_hold_all_of_an_archive_are_no_classes(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", {"a/b/1.png": png(1), "a/b/2.png": png(2)})
    source = open_source(data(f"folder:{tmp_path}/x.zip"))
    assert values(source) == [("a/b/1.png", 1, None), ("a/b/2.png", 2, None)]


def test_entries_with_evil_names_stay_in_the_archive(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", {"../../evil.png": png(1), "/etc/evil.png": png(2), "a\\..\\b.png": png(3)})
    before = sorted(tmp_path.parent.rglob("*"))
    assert sorted(value for _, value, _ in values(open_source(data(f"folder:{tmp_path}/x.zip")))) == [
        2,
        3,
    ]  # ".." is hidden
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_entries_that_cannot_be_unpacked_are_bad_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "x.zip", {"a.png": png(1), "b.png": bytes(5000), "c.png": png(3)})
    content = bytearray((tmp_path / "x.zip").read_bytes())
    start = content.index(b"c.png") + 5  # the data of the first of two places with this name
    content[start : start + 4] = b"\xff" * 4
    flags = content.rindex(b"a.png") - 46 + 8  # in the central directory
    content[flags] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    monkeypatch.setattr(zip_archive, "LARGEST", 4000)
    examples = read_all(open_source(data(f"folder:{tmp_path}/x.zip")))
    a, b, c = (example.problem for example in examples)
    assert a == "is encrypted"
    assert b == "has 5,000 bytes, more than 4,000"
    assert c.startswith("cannot be unpacked (")
    assert {example.image for example in examples} == {b""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: BadZipFile: File is not a zip file"),
        (b"PK\3\4 no archive", "cannot be read: "),
        ({"a.txt": b"", "b": b""}, r"No image found in .*x\.zip; it holds .txt \(1\), without extension \(1\)"),
        ({}, "it holds no files"),
    ],
)
def test_archives_without_images(content: bytes | dict[str, bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content) if isinstance(content, bytes) else write_zip(path, content)
    with pytest.raises(UserError, match=message):
        read_all(open_source(data(f"folder:{path}")))
    with pytest.raises(UserError, match=r"The archive .*gone\.zip does not exist"):
        open_source(data(f"folder:{tmp_path}/gone.zip"))


# --- .npz, .npy ------------------------------------------------------------------------------------------------------


def grey_images(*shape: int) -> np.ndarray:
    """Images of values 10, 20, 30, ..., uint8 [5, *shape]."""
    return np.broadcast_to(np.arange(10, 60, 10, dtype=np.uint8).reshape(5, *[1] * len(shape)), (5, *shape)).copy()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (9, 8, 3)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays(save: Callable[..., None], shape: tuple[int, ...], tmp_path: Path) -> None:
    save(tmp_path / "x.npz", images=grey_images(*shape), labels=[[1], [0], [2], [0], [0]], class_names=["a", "b", "c"])
    check_pack(f"array:{tmp_path}/x.npz", tmp_path, [10, 20, 30, 40, 50], [1, 0, 2, 0, 0], ["a", "b", "c"])
    np.save(tmp_path / "x.npy", grey_images(*shape))
    check_pack(f"array:{tmp_path}/x.npy", tmp_path, [10, 20, 30, 40, 50], None, None)


def test_labels_in_words(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=grey_images(8, 8), labels=["c10", "c9", "c10", "c9", "a"])
    check_pack(f"array:{tmp_path}/x.npz", tmp_path, [10, 20, 30, 40, 50], [2, 1, 2, 1, 0], ["a", "c9", "c10"])


GOOD = grey_images(8, 8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": GOOD}, "has no array 'images'; it has x_train"),
        ({"images": GOOD.astype(np.float32)}, r"are float32 \[5, 8, 8\]; they must be uint8"),
        ({"images": GOOD.reshape(5, 64)}, r"are uint8 \[5, 64\]"),
        ({"images": np.zeros((5, 2, 8, 8), np.uint8)}, r"are uint8 \[5, 2, 8, 8\]"),
        ({"images": np.asfortranarray(GOOD)}, "np.ascontiguousarray"),
        ({"images": GOOD[:0]}, r"promises images \[0, 8, 8\]"),
        ({"images": GOOD, "labels": np.zeros(4, int)}, r"the labels in .* are int64 \[4\]; .* \[5\]"),
        ({"images": GOOD, "labels": np.zeros(5)}, "are float64"),
        ({"images": GOOD, "labels": [0, 0, 0, 0, -1]}, "hold -1; they must be 0 to 65535"),
        ({"images": GOOD, "labels": [0, 0, 0, 0, 2], "class_names": ["a", "b"]}, "hold 2; they must be 0 to 1"),
        ({"images": GOOD, "labels": [0] * 5, "class_names": [1, 2]}, "class_names in .* are int64"),
    ],
)
def test_arrays_that_do_not_fit(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        open_source(data(f"array:{tmp_path}/x.npz")).list_items()


def test_array_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    for path in (tmp_path / "gone.npz", tmp_path / "x.txt", tmp_path):
        with pytest.raises(UserError, match=r"needs a \.npy or \.npz file"):
            open_source(data(f"array:{path}"))


# --- IDX -------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("images", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte"])
@pytest.mark.parametrize("zipped_labels", [True, False])
def test_idx_files_with_their_labels(images: str, zipped_labels: bool, tmp_path: Path) -> None:
    content, labels = idx(grey_images(8, 8)), idx(np.array([7, 0, 9, 0, 0]))
    (tmp_path / images).write_bytes(gzip.compress(content, mtime=0) if images.endswith(".gz") else content)
    name = images.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    (tmp_path / f"{name}{'.gz' * zipped_labels}").write_bytes(
        gzip.compress(labels, mtime=0) if zipped_labels else labels
    )
    check_pack(f"idx:{tmp_path}/{images}", tmp_path, [10, 20, 30, 40, 50], [7, 0, 9, 0, 0], None)


def test_idx_files_without_labels(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_bytes(idx(grey_images(8, 8)))
    (tmp_path / "pictures.gz").write_bytes(gzip.compress(idx(np.zeros(5)), mtime=0))  # which have nothing to do with it
    check_pack(f"idx:{tmp_path}/pictures", tmp_path, [10, 20, 30, 40, 50], None, None)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(GOOD)[:-1], None, "cannot be read: "),
        (gzip.compress(idx(GOOD), mtime=0)[:-20], None, "cannot be read: "),
        (idx(GOOD.reshape(5, 64)), None, "no IDX file of uint8 values with 3 axes"),
        (b"\0\0", None, "cannot be read: "),
        (struct.pack(">HBB3I", 0, 8, 3, 5, 2**31, 2**31), None, "it promises values"),
        (idx(GOOD), idx(np.zeros(4)), "has 5 images, but .*labels-idx1 4 labels"),
        (idx(GOOD), idx(np.zeros(5))[:-1], "it is cut short"),
        (idx(GOOD), idx(GOOD), "with 1 axes"),
    ],
)
def test_idx_files_that_do_not_fit(images: bytes, labels: bytes | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "images-idx3").write_bytes(images)
    if labels:
        (tmp_path / "labels-idx1").write_bytes(labels)
    with pytest.raises(UserError, match=message):
        read_all(open_source(data(f"idx:{tmp_path}/images-idx3")))


# --- Parquet ---------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, columns: dict[str, list[Any]], names: list[str] | None = None, rows: int = 2) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = arrow.table(columns)
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    parquet.write_table(table, path, row_group_size=rows)


def rows_of(*numbers: int) -> list[dict[str, Any]]:
    return [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]


def test_parquet_shards(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for i, numbers in enumerate([(10, 20, 30), (40, 50)]):
        columns: dict[str, list[Any]] = {
            "image": rows_of(*numbers),
            "label": [number // 20 for number in numbers],
            "text": ["x"] * len(numbers),
        }
        write_parquet(folder / f"train-{i}.parquet", columns, ["a", "b", "c"])
    assert [key for key, _, _ in values(open_source(data(f"parquet:{folder}")))][:2] == ["0 10.png", "1 20.png"]
    check_pack(f"parquet:{folder}", tmp_path, [10, 20, 30, 40, 50], [0, 1, 1, 2, 2], ["a", "b", "c"])


def test_parquet_with_bare_bytes_and_labels_in_words(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, {"img": [png(10), png(20), png(30)], "label": ["c10", "c9", "c10"]})
    check_pack(f"parquet:{path}", tmp_path, [10, 20, 30], [1, 0, 1], ["c9", "c10"])
    write_parquet(path, {"img": [png(40), png(50)]})
    assert values(open_source(data(f"parquet:{path}"))) == [("0", 40, None), ("1", 50, None)]


def test_parquet_rows_without_bytes_are_bad_images(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(7))
    write_parquet(tmp_path / "x.parquet", {"image": [*rows_of(1), {"bytes": None, "path": str(secret)}]})
    first, second = read_all(open_source(data(f"parquet:{tmp_path}/x.parquet")))
    assert first.image == png(1)
    assert (second.image, second.problem) == (b"", "has no bytes")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b""], "label": [1]}, "has no column 'image' or 'img' or 'images'; it has picture, label"),
        ({"image": [b""], "label": [1.5]}, r"hold 1\.5; they must be numbers, or names"),
        ({"image": [b"", b""], "label": [1, None]}, "hold None"),
        ({"image": [b""], "label": [-1]}, "hold -1; they must be 0 to 65535"),
    ],
)
def test_parquet_that_does_not_fit(columns: dict[str, list[Any]], message: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(UserError, match=message):
        read_all(open_source(data(f"parquet:{tmp_path}/x.parquet")))


def test_parquet_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="needs a file, or a folder"):
        open_source(data(f"parquet:{tmp_path}"))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read"):
        open_source(data(f"parquet:{tmp_path}")).list_items()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        open_source(data(f"parquet:{tmp_path}")).list_items()


# --- The Hugging Face hub --------------------------------------------------------------------------------------------


class StandIn:
    """A data set as far as it is used."""

    def __init__(self, features: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.features, self._rows = features, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    def __getitem__(self, name: str) -> list[Any]:
        return [row[name] for row in self._rows]

    def cast_column(self, name: str, feature: Any) -> "StandIn":
        assert not feature.decode
        return StandIn(self.features | {name: feature}, self._rows)

    def select_columns(self, names: list[str]) -> "StandIn":
        return StandIn(self.features, [{name: row[name] for name in names} for row in self._rows])


class ImageFeature:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """A stand-in for `datasets` with the set user/squares; the calls of load_dataset."""
    (tmp_path / "local.png").write_bytes(png(30))
    images = [*rows_of(10, 20), {"bytes": None, "path": str(tmp_path / "local.png")}]
    rows = [{"picture": image, "label": i % 2, "text": "x"} for i, image in enumerate(images)]
    label = types.SimpleNamespace(names=["even", "odd"])
    calls: list[tuple[str, dict[str, Any]]] = []

    def load_dataset(name: str, **options: Any) -> StandIn:
        calls.append((name, options))
        if name == "words":
            return StandIn({"text": None}, rows)
        if name != "user/squares":
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nor cannot be accessed.")
        return StandIn({"picture": ImageFeature(), "label": label, "text": None}, rows)

    module = types.ModuleType("datasets")
    module.load_dataset, module.Image = load_dataset, ImageFeature  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_sets_of_the_hub(
    hub: list[tuple[str, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = settings_of("hf:user/squares", tmp_path, dir="~/hub", split="train[:3]")
    dataset = opening.open_or_build(settings, progress=False)
    assert dataset.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1, 0]
    assert dataset.class_names == ["even", "odd"]
    # No code of the data set is trusted.
    assert hub == [("user/squares", {"split": "train[:3]", "cache_dir": f"{tmp_path}/hub"})]
    opening.open_or_build(settings, progress=False)
    assert len(hub) == 1
    settings.split = "test"
    assert opening.pack_path(settings) != dataset.path


def test_sets_that_the_hub_does_not_have(hub: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"hf:gone, split 'train', cannot be opened: Dataset 'gone' doesn't exist on the Hub$"
    ):
        open_source(data("hf:gone")).list_items()
    with pytest.raises(UserError, match="hf:words has no image feature; it has text"):
        open_source(data("hf:words")).list_items()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        open_source(data("hf:user/squares")).list_items()


# --- All of them -----------------------------------------------------------------------------------------------------


def test_another_file_is_another_pack(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", {"a.png": png()})
    np.save(tmp_path / "x.npy", GOOD)
    (tmp_path / "images-idx3").write_bytes(idx(GOOD))
    write_parquet(tmp_path / "x.parquet", {"image": rows_of(1)})
    for source in ("folder:x.zip", "array:x.npy", "idx:images-idx3", "parquet:x.parquet"):
        kind, _, name = source.partition(":")
        settings = data(f"{kind}:{tmp_path}/{name}")
        before = open_source(settings).fingerprint
        assert open_source(settings).fingerprint == before
        with (tmp_path / name).open("ab") as file:
            file.write(b"\0")
        assert open_source(settings).fingerprint != before


def test_opening_reads_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start of a run opens its source."""
    for name in ("x.zip", "x.npz", "images-idx3", "x.parquet"):
        (tmp_path / name).write_bytes(b"nothing that could be read")

    def refuse(file: Any, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{file} is opened")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for source in ("folder:x.zip", "array:x.npz", "idx:images-idx3", "parquet:x.parquet", "hf:x"):
        assert re.match(r"\w+:", open_source(data(source.replace(":", f":{tmp_path}/"))).name)
