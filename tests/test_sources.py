"""Sources: which examples each kind lists and reads, and what it says when it cannot."""

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, features

from configs import default
from dcgan_jax.datasets import decode, opening, tfds_source
from dcgan_jax.datasets.source import Example, Source
from dcgan_jax.datasets.sources import open_source
from dcgan_jax.machine.errors import UserError


def data(source: str, **changes: Any) -> ConfigDict:
    config = default.get_config().data
    config.update(source=source, image_size=8, **changes)
    return config


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())


def read_all(source: Source) -> list[Example]:
    items = source.list_items()
    references = list(items.references)
    assert len(references) == items.count
    return list(source.read(references))


def test_unknown_source_names_the_forms() -> None:
    for source in ("cifar10", "toy_cats", "folder:", "s3:bucket", ""):
        with pytest.raises(UserError) as error:
            open_source(data(source))
        forms = ("tfds:NAME", "folder:/path", "lsun:/path/to/X_train_lmdb", "toy_bedrooms", "toy_faces", "hf:NAME")
        for form in (*forms, "array:/path.npz", "idx:/path/X-images-idx3-ubyte.gz", "parquet:/path", "pack:/path"):
            assert form in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "lsun", "array", "idx", "parquet"])
def test_sources_without_splits_refuse_one(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="have no splits"):
        open_source(data(f"{kind}:{tmp_path}", split="test"))


def test_bucket_is_refused() -> None:
    with pytest.raises(UserError, match="gs://bucket/photos"):
        open_source(data("folder:gs://bucket/photos"))


# --- Folders ---------------------------------------------------------------------------------------------------------


def test_folder_lists_images_at_any_depth_in_order(tmp_path: Path) -> None:
    images = ["b.PNG", "a/deep/er/x.jpeg", "a.ppm", "c.Tiff", "a/y.webp", "Z.bmp", "d.gif", "e.tif", "f.pgm", "g.jpg"]
    images += ["h.jfif", "i.jpe", "j.pnm", "k.pbm", "png", "l.jpg?w=200&q=a.b"]
    touch(tmp_path, *images, "notes.txt", ".hidden.png", ".git/x.png", "__MACOSX/._a.png", "x.png.bak")
    examples = read_all(open_source(data(f"folder:{tmp_path}")))
    assert [example.key for example in examples] == sorted(images)
    assert [example.image for example in examples] == [tmp_path / name for name in sorted(images)]
    assert {example.label for example in examples} == {None}


def test_subfolders_are_classes_only_if_every_image_is_in_one(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.png", "cat/deep/2.png", "dog/0.png")
    source = open_source(data(f"folder:{tmp_path}"))
    assert source.list_items().class_names == ["cat", "dog"]
    assert [(example.key, example.label) for example in read_all(source)] == [
        ("cat/deep/2.png", 0),
        ("dog/0.png", 1),
        ("dog/1.png", 1),
    ]
    touch(tmp_path, "stray.png")
    source = open_source(data(f"folder:{tmp_path}"))
    assert source.list_items().class_names is None
    assert {example.label for example in read_all(source)} == {None}


def test_numbers_in_class_names_count_as_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/a.png" for number in range(12)))
    source = open_source(data(f"folder:{tmp_path}"))
    assert source.list_items().class_names == [str(number) for number in range(12)]
    # Images stay in the order of their paths.
    keys_and_labels = [(example.key, example.label) for example in read_all(source)]
    assert keys_and_labels[:4] == [("0/a.png", 0), ("1/a.png", 1), ("10/a.png", 10), ("11/a.png", 11)]


NESTED = [f"{split}/{name}/{i}.png" for split, n in (("test", 1), ("train", 3)) for name in "ab" for i in range(n)]


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (NESTED, "The folders test, train are splits and no classes: give folder:ROOT/train."),
        (["x/a/0.png", "x/b/0.png", "y/a/0.png"], "Every class folder holds only folders: .* give folder:ROOT/x."),
        (["dataset/0/a.png", "dataset/1/a.png"], "Every class folder holds only folders: .* give folder:ROOT/dataset."),
        (["img_align_celeba/a.png"], "All images are in the one folder img_align_celeba."),
        (["cat/a.png", "dog/b.png", "preview.png"], "as preview.png lies beside the class folders: move it into one"),
        (["cat/a.png", "dog/b.png", "a.png", "b.png", "c.png"], ""),
        (["a.png", "b.png"], ""),
        (["cat/a.png", "dog/deep/b.png"], ""),
        (["train/a.png", "bus/b.png"], ""),
    ],
)
def test_folders_that_may_not_be_classes_are_noted(names: list[str], note: str, tmp_path: Path) -> None:
    touch(tmp_path, *names)
    found = open_source(data(f"folder:{tmp_path}")).list_items().note.replace(str(tmp_path), "ROOT")
    assert re.search(note, found) if note else not found


# --- metadata.csv and metadata.jsonl ---------------------------------------------------------------------------------


def labels_in(root: Path) -> tuple[list[str] | None, dict[str, int | None]]:
    source = open_source(data(f"folder:{root}"))
    return source.list_items().class_names, {example.key: example.label for example in read_all(source)}


def test_labels_of_a_metadata_file(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "train/b.png", "c.png")
    (tmp_path / "metadata.csv").write_text(
        "label,file_name\nclass10,c.png\nclass2,./train/a.png\nclass10,train/b.png\n"
    )
    assert labels_in(tmp_path) == (["class2", "class10"], {"c.png": 1, "train/a.png": 0, "train/b.png": 1})
    before = open_source(data(f"folder:{tmp_path}")).fingerprint
    (tmp_path / "metadata.csv").unlink()
    rows = [{"file_name": "c.png", "label": 7}, {"file_name": "train/a.png", "label": 7}]
    rows += [{"file_name": "train/b.png", "label": 3}, {"file_name": "gone.png", "label": 3}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert labels_in(tmp_path) == (["3", "7"], {"c.png": 1, "train/a.png": 1, "train/b.png": 0})
    source = open_source(data(f"folder:{tmp_path}"))
    assert source.list_items().left_out == {"rows of metadata.jsonl without image": 1}
    assert source.fingerprint != before and source.earlier is None


def test_labels_of_a_metadata_file_in_an_archive(tmp_path: Path) -> None:
    """In the folder that all images are in, as when it is unpacked; a table elsewhere says nothing."""
    inner = tmp_path / "unpacked" / "photos"
    touch(inner, "one/a.png", "two/b.png", "c.png")
    plain = Path(shutil.make_archive(str(tmp_path / "plain"), "zip", tmp_path / "unpacked"))
    assert open_source(data(f"folder:{plain}")).list_items().class_names is None
    (inner / "one" / "metadata.csv").write_text("file_name,label\na.png,wrong\n")
    (inner / "metadata.csv").write_text("file_name,label\none/a.png,dog\nc.png,cat\ntwo/b.png,dog\ngone.png,cat\n")
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "unpacked"))
    folder, zipped = (open_source(data(f"folder:{path}")) for path in (inner, archive))
    items, expected = zipped.list_items(), folder.list_items()
    assert (items.class_names, items.labels) == (expected.class_names, expected.labels) == (["cat", "dog"], [0, 1, 1])
    assert items.left_out == expected.left_out == {"rows of metadata.csv without image": 1}
    assert [example.label for example in zipped.read(list(items.references))] == [0, 1, 1]


def test_metadata_without_labels_changes_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png")
    before = open_source(data(f"folder:{tmp_path}")).fingerprint
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/a.png,a cat\n")
    assert open_source(data(f"folder:{tmp_path}")).fingerprint == before
    assert labels_in(tmp_path) == (["cat", "dog"], {"cat/a.png": 0, "dog/b.png": 1})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,label\na.png,x\n", "no row for 1 of 2 images, such as b.png"),
        ("file_name,label\na.png,x\nb.png,\n", "row 2 has no file_name or no label"),
        ("file_name,label\na.png,x\nb.png,y\na.png,y\n", "gives 'a.png' two labels: 'x' and 'y'"),
        ("file_name,label\na.png,\xff\0\n" + "x" * 200_000, "cannot be read|no row"),
    ],
)
def test_metadata_that_does_not_fit(table: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        labels_in(tmp_path)


def test_folder_follows_links_and_survives_loops(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.png", "elsewhere/b.png", "more/c.png")
    (tmp_path / "photos/b.png").symlink_to(tmp_path / "elsewhere/b.png")
    (tmp_path / "photos/dangling.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "photos/more").symlink_to(tmp_path / "more")
    (tmp_path / "photos/loop").symlink_to(tmp_path / "photos")
    examples = read_all(open_source(data(f"folder:{tmp_path}/photos")))
    assert [example.key for example in examples] == ["a.png", "b.png", "more/c.png"]


def test_home_is_expanded_and_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "photos/a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'~nobody_here/photos': there is no such home folder"):
        open_source(data("folder:~nobody_here/photos"))
    names = {open_source(data(f"folder:{p}")).name for p in ("~/photos", "photos/", "./photos", tmp_path / "photos")}
    assert names == {f"folder:{tmp_path}/photos"}


def test_folder_fingerprint_follows_names_sizes_and_times(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return open_source(data(f"folder:{tmp_path}")).fingerprint["files"]

    touch(tmp_path, "a.png", "b.png")
    os.utime(tmp_path / "a.png", (1, 1))
    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    os.utime(tmp_path / "a.png", (2, 2))
    seen.append(fingerprint())
    (tmp_path / "a.png").write_bytes(b"longer" * 100)
    os.utime(tmp_path / "a.png", (2, 2))
    seen.append(fingerprint())
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    seen.append(fingerprint())
    touch(tmp_path, "d.png")
    seen.append(fingerprint())
    assert len(set(seen)) == 5


def test_folder_that_is_not_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_source(data(f"folder:{tmp_path}/nowhere"))
    touch(tmp_path, "faces.tar")
    with pytest.raises(UserError, match=r"faces\.tar is a file, not a folder\. .*unpack another one first"):
        open_source(data(f"folder:{tmp_path}/faces.tar"))


def test_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it holds no files at all"):
        open_source(data(f"folder:{tmp_path}"))
    for name in ("a.JP2", "b.jp2", "c.txt", "README"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(UserError) as error:
        open_source(data(f"folder:{tmp_path}"))
    for found in (".jp2 (2)", ".txt (1)", "without extension (1)"):
        assert found in str(error.value)
    for name, how in (("a.zip", "folder:/path/x.zip"), ("a.npz", "array:/path/x.npz"), ("a.parquet", "parquet:/path")):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=f"found: .* Give .* {how}"):
            open_source(data(f"folder:{tmp_path}"))
    (tmp_path / "links").mkdir()
    for i in range(3):
        (tmp_path / f"links/{i}.jpg").symlink_to("/nowhere")
    with pytest.raises(UserError, match=r"found: links that lead nowhere \(3\)\."):
        open_source(data(f"folder:{tmp_path}/links"))


def test_what_is_left_out_of_a_folder_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    touch(root, "cat/0.png", "cat/deep/1.png", "a.jp2", "b.JP2", "x.psd", "Thumbs.db", ".DS_Store", "n.txt", "m.json")
    (root / "README").write_text("not an image")
    (root / "P5").write_text("P5 is what a PGM begins with, and this text")
    (root / "gone.png").symlink_to("/nowhere/gone.png")
    (root / "empty/gone").parent.mkdir()
    (root / "empty/gone").symlink_to("/nowhere")
    (root / "kitten").symlink_to(root / "cat")
    items = open_source(data(f"folder:{root}")).list_items()
    assert items.count == 2
    assert items.left_out == {
        ".jp2": 2,
        ".psd": 1,
        "without extension": 2,
        "links that lead nowhere": 2,
        "folders linked twice": 1,
    }


def test_formats_of_other_packages_are_images_where_they_can_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.avif", "b.heic", "c.png")
    found = [example.key for example in read_all(open_source(data(f"folder:{tmp_path}")))]
    avif, heif = (name in decode.FORMATS for name in ("AVIF", "HEIF"))
    assert avif == features.check("avif") and heif == (importlib.util.find_spec("pillow_heif") is not None)
    assert found == ["a.avif"] * avif + ["b.heic"] * heif + ["c.png"]


# --- LSUN ------------------------------------------------------------------------------------------------------------


def write_lmdb(path: Path, entries: dict[bytes, bytes], subdir: bool = True) -> None:
    with lmdb.open(str(path), subdir=subdir, map_size=1 << 20) as environment, environment.begin(write=True) as writer:
        for key, value in entries.items():
            writer.put(key, value)


@pytest.mark.parametrize("subdir", [True, False])
def test_lsun_reads_values_in_the_order_of_keys(tmp_path: Path, subdir: bool) -> None:
    write_lmdb(tmp_path / "room_lmdb", {b"c0ffee": b"three", b"a1": b"one", b"b\xff": b"two"}, subdir)
    source = open_source(data(f"lsun:{tmp_path}/room_lmdb"))
    assert [(example.key, example.image, example.label) for example in read_all(source)] == [
        ("a1", b"one", None),
        ("b\\xff", b"two", None),
        ("c0ffee", b"three", None),
    ]
    # Twice, and from the middle, in one process: LMDB refuses to be opened twice at a time.
    assert [example.image for example in source.read([b"c0ffee", b"a1"])] == [b"three", b"one"]


def test_lsun_fingerprint_follows_the_file(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "room_lmdb", {b"a": b"1"})
    before = open_source(data(f"lsun:{tmp_path}/room_lmdb")).fingerprint
    assert open_source(data(f"lsun:{tmp_path}/room_lmdb")).fingerprint == before
    os.utime(tmp_path / "room_lmdb/data.mdb", (1, 1))
    assert open_source(data(f"lsun:{tmp_path}/room_lmdb")).fingerprint != before


def test_lsun_that_is_not_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_source(data(f"lsun:{tmp_path}/nowhere"))
    with pytest.raises(UserError, match=r"has no data\.mdb.*folder:"):
        open_source(data(f"lsun:{tmp_path}"))
    (tmp_path / "bedroom_train_lmdb.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="Unpack it"):
        open_source(data(f"lsun:{tmp_path}/bedroom_train_lmdb.zip"))
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(UserError, match="cannot be read"):
        open_source(data(f"lsun:{tmp_path}")).list_items()
    write_lmdb(tmp_path / "empty_lmdb", {})
    with pytest.raises(UserError, match="has no entries"):
        open_source(data(f"lsun:{tmp_path}/empty_lmdb")).list_items()


def test_lsun_needs_lmdb_only_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lmdb(tmp_path / "room_lmdb", {b"a": b"1"})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    source = open_source(data(f"lsun:{tmp_path}/room_lmdb"))
    with pytest.raises(UserError, match="pip install lmdb"):
        source.list_items()


# --- TFDS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS data_dir with the set 'squares': 10 images of grey value 10 i, prepared in either format."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp(request.param)
    rows = [
        (
            i,
            {
                "image": io.BytesIO(png(10 * i)),
                "label": i % 2,
                "id": f"square{i}",
                "attributes": {"large": i > 4},
                "box": np.full(4, i, np.float32),
                "tags": np.arange(i, dtype=np.int64),
            },
        )
        for i in range(10)
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        "squares",
        "1.2.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 3)),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
                "id": tfds.features.Text(),
                "attributes": {"large": np.bool_},
                "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
                "tags": tfds.features.Sequence(np.int64),
            }
        ),
        split_datasets={"train": rows[:7], "test": rows[7:]},
        data_dir=root,
        file_format=request.param,
        disable_shuffling=True,
    )
    return root


@pytest.mark.parametrize(
    ("split", "numbers"),
    [("train", range(7)), ("test", range(7, 10)), ("train[:2]+test", [0, 1, 7, 8, 9])],
)
def test_tfds_examples(prepared: Path, split: str, numbers: list[int]) -> None:
    source = open_source(data("tfds:squares", dir=str(prepared), split=split))
    assert source.version == "1.2.0"
    assert source.list_items().class_names == ["even", "odd"]
    examples = read_all(source)
    assert [example.key for example in examples] == [f"square{i}" for i in numbers]
    assert [example.label for example in examples] == [i % 2 for i in numbers]
    assert [example.image for example in examples] == [png(10 * i) for i in numbers]  # Still encoded.
    for i, example in zip(numbers, examples, strict=True):
        assert set(example.attributes) == {"large", "box"}  # 'tags' has no fixed length.
        assert example.attributes["large"] == (i > 4)
        np.testing.assert_array_equal(example.attributes["box"], [i] * 4)


def test_tfds_unknown_split(prepared: Path) -> None:
    with pytest.raises(UserError, match="trian"):
        open_source(data("tfds:squares", dir=str(prepared), split="trian")).list_items()


def test_tfds_needs_tensorflow_for_tfrecord_only(prepared: Path) -> None:
    script = f"""
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name == "tensorflow" else find(name, *rest))
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from test_sources import data, open_source, read_all
print(len(read_all(open_source(data("tfds:squares", dir={str(prepared)!r})))))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if prepared.name.startswith("array_record"):
        assert result.stdout == "7\n", result.stderr
    else:
        assert "prepare the set as array_record" in result.stderr
        assert f"tfds.builder('squares', data_dir='{prepared}', file_format='array_record')" in result.stderr


def info_file(folder: Path, file_format: str = "array_record") -> None:
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(f'{{"fileFormat": "{file_format}"}}')


def test_tfds_finds_prepared_folders_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for folder in ("plain/1.9.0", "plain/1.10.0", "plain/incomplete.X_2.0.0", "sized/8x8/0.1.0", "sized/16x16/0.1.0"):
        info_file(tmp_path / folder)

    def folder_of(name: str) -> str:
        fingerprint = open_source(data(f"tfds:{name}", dir=str(tmp_path))).fingerprint
        return os.path.relpath(fingerprint["folder"], tmp_path)

    assert folder_of("plain") == "plain/1.10.0"
    assert folder_of("plain:1.9.0") == "plain/1.9.0"
    assert folder_of("sized/8x8") == "sized/8x8/0.1.0"
    with pytest.raises(UserError, match=r"needs a config: .*sized holds 16x16, 8x8"):
        folder_of("sized")
    for name in ("a b", "../etc", "plain:new", "sized/"):
        with pytest.raises(UserError, match="must look like"):
            folder_of(name)


def test_tfds_fingerprint_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    folder = tmp_path / "plain/1.0.0"
    info_file(folder)
    (folder / "plain-train.array_record").write_bytes(b"some")
    for i, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, ns=(0, 1000 + i))
    seen = [open_source(data("tfds:plain", dir=str(tmp_path)))]
    assert seen[0].fingerprint == open_source(data("tfds:plain", dir=str(tmp_path))).fingerprint
    os.utime(folder / "plain-train.array_record", ns=(0, 5000))
    seen.append(open_source(data("tfds:plain", dir=str(tmp_path))))
    (folder / "plain-train.array_record").write_bytes(b"others")
    os.utime(folder / "plain-train.array_record", ns=(0, 5000))
    seen.append(open_source(data("tfds:plain", dir=str(tmp_path))))
    assert len({source.fingerprint["files"] for source in seen}) == 3
    # Version 0.1.0 looked at the folder's name only.
    assert [source.earlier for source in seen] == [{"folder": str(folder), "split": "train"}] * 3
    assert [source.changed for source in seen] == [1001, 5000, 5000]


def test_tfds_default_folder_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info_file(tmp_path / "a/plain/1.0.0")
    info_file(tmp_path / "tensorflow_datasets/plain/2.0.0")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "a"))
    assert open_source(data("tfds:plain")).version == "1.0.0"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert open_source(data("tfds:plain")).version == "2.0.0"


def test_tfds_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        open_source(data("tfds:cifar10", dir=str(tmp_path)))


class FailingPool:
    """Stands in for the process that downloads; every task fails as it would without a network."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "FailingPool":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, *_: Any) -> "FailingPool":
        return self

    def result(self) -> str:
        raise ConnectionError("Max retries exceeded\nTraceback ...")


def test_tfds_download_that_fails_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds_source, "ProcessPoolExecutor", FailingPool)
    source = open_source(data("tfds:celeb_a", dir=str(tmp_path)))
    assert Path(source.fingerprint["folder"]).parent == tmp_path / "celeb_a"  # Where it is going to be.
    with pytest.raises(UserError) as error:
        source.list_items()
    message = str(error.value)
    assert "(Max retries exceeded)" in message
    call = f"tfds.builder('celeb_a', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()"
    assert f'python -c "import tensorflow_datasets as tfds; {call}"' in message
    assert "Google Drive" in message
    assert "--config.data.source=folder:" in message
    assert list(tmp_path.iterdir()) == []


def test_tfds_unknown_set_or_missing_config(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match="knows no data set 'cifar11'"):
        open_source(data("tfds:cifar11", dir=str(tmp_path)))
    with pytest.raises(UserError, match="needs a config, one of 8x8, 16x16, 32x32, 64x64"):
        open_source(data("tfds:imagenet_resized", dir=str(tmp_path)))


def test_tfds_set_without_images(tmp_path: Path) -> None:
    builder = types.SimpleNamespace(info=types.SimpleNamespace(full_name="words/1.0.0", features={"text": None}))
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match=r"words/1\.0\.0 has no image feature; it has text"):
        tfds_source._columns(builder)


# --- Toys ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A renderer whose pixels are (seed, index, size)."""
    module = types.ModuleType("dcgan_jax.datasets.toy_bedrooms")

    def render(seed: int, index: int, image_size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        pixels = np.empty((image_size, image_size, 3), np.uint8)
        pixels[:] = seed, index % 256, image_size
        return pixels, {"lamp": np.asarray(index % 2)}

    module.render, module.VERSION = render, 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_toy_examples(toy: types.ModuleType) -> None:
    for split, seed in (("train", 0), ("test", 1)):
        source = open_source(data("toy_bedrooms", split=split, num_examples=3))
        examples = read_all(source)
        assert source.version == "7"
        assert [example.key for example in examples] == [f"{split}/{i}" for i in range(3)]
        assert [example.attributes["lamp"] for example in examples] == [0, 1, 0]
        for i, example in enumerate(examples):
            assert isinstance(example.image, np.ndarray)
            assert example.image[5, 5].tolist() == [seed, i, 8]
    assert open_source(data("toy_bedrooms")).list_items().count == 20_000


def test_toy_refusals(toy: types.ModuleType) -> None:
    with pytest.raises(UserError, match="'validation' is not a split of toy_bedrooms"):
        open_source(data("toy_bedrooms", split="validation"))
    with pytest.raises(UserError, match="crop_size 20 must stay 0"):
        open_source(data("toy_bedrooms", crop_size=20))
    with pytest.raises(UserError, match=r"toy_bedrooms is drawn as squares; data\.image_width 12 must stay 0"):
        open_source(data("toy_bedrooms", image_width=12))


@pytest.mark.parametrize("name", ["toy_bedrooms", "toy_faces"])
def test_real_toys(name: str) -> None:
    first, second = read_all(open_source(data(name, num_examples=2)))
    assert isinstance(first.image, np.ndarray)
    assert first.image.shape == (8, 8, 3)
    assert first.attributes.keys() == second.attributes.keys() != set()


def test_splits_of_sources_that_have_none(tmp_path: Path) -> None:
    """The message names the split that was asked for, and not that of the training images."""
    touch(tmp_path, "a.png")
    own = data(f"folder:{tmp_path}")
    with pytest.raises(UserError, match=r"split 'test' of folder:.* has no splits.*config\.eval\.source"):
        opening.open_others(own, split="test")
    with pytest.raises(UserError, match=r"split 'train\[50000:\]' of array:/x\.npz"):
        opening.open_others(own, source="array:/x.npz", split="train[50000:]")
