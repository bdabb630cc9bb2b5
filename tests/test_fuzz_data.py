"""Image sets and packs with anything in them: packed, or refused with a message; nothing else is touched or run."""

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import EpsImagePlugin, Image

from configs import default
from dcgan_jax.datasets import classes, opening, pack_writer
from dcgan_jax.datasets.decode import BadImage, Target, to_pixels
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.files import Damaged
from dcgan_jax.metrics import attribute_probe
from tests import fuzz, tiny

SIZE = 8
# A million pixels are enough here; the real limit takes gigabytes to reach.
few_pixels = mock.patch.object(Image, "MAX_IMAGE_PIXELS", 500_000)


def settings_of(source: str, folder: Path, **changes: Any) -> ConfigDict:
    """config.data of a source whose pack goes to folder/packs."""
    data = default.get_config().data.unlock()
    data.update(source=source, cache_dir=f"{folder}/packs", image_size=SIZE, **changes)
    return data


def encoded(mode: str, format: str, size: tuple[int, int] = (12, 9), **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(noise)
    if mode in ("I", "I;16", "F"):
        picture = picture.convert("L")
    file = io.BytesIO()
    picture.convert(mode).save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


IMAGES = [
    *(encoded(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(encoded(mode, "JPEG") for mode in ("L", "RGB", "CMYK", "YCbCr")),
    *(encoded(mode, "TIFF") for mode in ("I", "F", "LAB", "RGB")),
    *(encoded("RGB", "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
    *(encoded("RGB", format) for format in ("BMP", "GIF", "PPM", "WEBP")),
    encoded("RGB", "PNG", (1, 40)),
]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
BOMB = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
)

HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000000000000000000,)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (12,)}",
    "{'descr': [], 'fortran_order': False, 'shape': ()}",
    "(" * 200,
    "{'descr': ",
    "__import__('os').mkdir('ran')",
    "[" * 60_000,
    "'''",
]

# --- One image -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:::PIL")
@fuzz.examples(400)
@given(st.sampled_from(IMAGES).flatmap(fuzz.damaged), st.sampled_from([1, 3]), st.sampled_from([0, 4]))
def test_a_damaged_image_is_read_or_bad(content: bytes, channels: int, crop: int) -> None:
    with fuzz.folder(), few_pixels:
        try:
            pixels = to_pixels(content, Target(SIZE, channels, crop, allow_upsampling=True))
        except BadImage as error:
            assert str(error)
        else:
            assert pixels.shape == (SIZE, SIZE, channels) and pixels.dtype == np.uint8


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file's name, Pillow would hand it to Ghostscript."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "photo.png").write_bytes(EPS)
    with pytest.raises(BadImage, match="not in an image format that is read here"):
        to_pixels(tmp_path / "photo.png", Target(SIZE))
    assert not (tmp_path / "ran").exists()
    # Pillow left to itself would have: the test can fail.
    with contextlib.suppress(OSError):
        Image.open(tmp_path / "photo.png").load()
    assert (tmp_path / "ran").exists()


# --- Folders ---------------------------------------------------------------------------------------------------------

NAMES = st.builds(lambda name, suffix: name + suffix, fuzz.file_names, st.sampled_from([".png", ".JPG", ".txt", ""]))
MAKERS: dict[str, Callable[[Path], object]] = {
    "image": lambda path: path.write_bytes(IMAGES[4]),
    "other image": lambda path: path.write_bytes(IMAGES[len(path.name) % len(IMAGES)]),
    "half": lambda path: path.write_bytes(IMAGES[4][: len(IMAGES[4]) // 2]),
    "text": lambda path: path.write_text("<html>404 Not Found</html>"),
    "empty": lambda path: path.touch(),
    "bomb": lambda path: path.write_bytes(BOMB),
    "postscript": lambda path: path.write_bytes(EPS),
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "parent": lambda path: path.symlink_to(".."),
    "device": lambda path: path.symlink_to("/dev/null"),
    "folder": Path.mkdir,
    "unreadable": lambda path: path.touch(mode=0),
    "unreadable folder": lambda path: path.mkdir(mode=0),
}
TREES = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(sorted(MAKERS))), max_size=6)


def plant(root: Path, tree: list[tuple[list[str], str]]) -> None:
    """Makes what can be made: names may be taken by something else, or refused by the file system."""
    root.mkdir()
    for names, kind in tree:
        with contextlib.suppress(OSError):
            path = root.joinpath(*names)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(path):
                MAKERS[kind](path)


@fuzz.examples(150)
@given(TREES, st.booleans())
def test_any_folder_is_packed_or_refused(tree: list[tuple[list[str], str]], forgiving: bool) -> None:
    with fuzz.folder() as folder, mock.patch.object(pack_writer, "_MAX_BAD", 0.9 if forgiving else 0.01):
        plant(folder / "photos", tree)
        before = fuzz.snapshot(folder / "photos")
        data = settings_of(f"folder:{folder}/photos", folder, allow_upsampling=True)
        try:
            dataset = opening.open_or_build(data, progress=False)
        except UserError:
            assert not list(folder.glob("packs/*.building"))
        else:
            count = len(dataset.images)
            assert dataset.images.shape == (count, SIZE, SIZE, 3)
            assert all(os.path.isfile(folder / "photos" / key) for key in dataset.keys)
            assert len(dataset.keys) == count
            if dataset.labels is not None and dataset.class_names is not None:
                named = [dataset.class_names[label] for label in dataset.labels]
                assert named == [key.split("/")[0] for key in dataset.keys]
            assert opening.open_or_build(data, progress=False).path == dataset.path
        assert fuzz.snapshot(folder / "photos") == before
        assert {path.name for path in folder.iterdir()} <= {"photos", "packs"}


@pytest.mark.parametrize("kind", ["folder", "lsun", "array", "idx", "parquet"])
@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "x\0y", "caf\udce9", "~nobody/x", "a\nb", "*"])
def test_paths_that_cannot_be(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        opening.open_or_build(settings_of(f"{kind}:{tmp_path}/{name}", tmp_path))
    source = tiny.image_folder(tmp_path / "photos")
    data = settings_of(source, tmp_path)
    data.cache_dir = f"{tmp_path}/photos/000.png/{name}"  # below a file
    with pytest.raises(UserError):
        opening.open_or_build(data, progress=False)


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.image_folder(tmp_path / "photos")

    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UserError, match=r"cannot be opened: .*Permission denied"):
        opening.pack_path(settings_of(source, tmp_path))


def test_folders_with_long_names_have_packs(tmp_path: Path) -> None:
    source = tiny.image_folder(tmp_path / ("photos" * 40))
    assert opening.open_or_build(settings_of(source, tmp_path), progress=False).images.shape == (32, SIZE, SIZE, 3)


# --- Class names -----------------------------------------------------------------------------------------------------

CLASS_NAMES = st.one_of(
    fuzz.file_names, st.sampled_from(["2", "10", "010", "²", "train", "test", "9" * 200, "%s", "{0}"])
)


@fuzz.examples(150)
@given(st.lists(CLASS_NAMES, min_size=1, max_size=6, unique=True), CLASS_NAMES)
def test_any_class_names_are_ordered_found_and_mapped(names: list[str], text: str) -> None:
    ordered = classes.in_order(names)
    assert sorted(ordered) == sorted(names)
    assert classes.in_order(reversed(ordered)) == ordered
    assert [classes.find_label(name, ordered) for name in ordered] == list(range(len(ordered)))
    try:
        label = classes.find_label(text, ordered)
    except UserError:
        assert text not in ordered
    else:
        assert ordered[label] == text or (text not in ordered and int(text) == label)
    labels = np.arange(len(names), dtype=np.int32)
    dataset = ImageDataset(tiny.images(len(names)), labels, {}, names, {}, Path("memory"))
    assert [ordered[label] for label in classes.map_labels(dataset, ordered, "x").labels] == names
    assert str(classes.describe(labels, names, classes.counts(dataset)))


TABLES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.tuples(fuzz.file_names, fuzz.any_json), max_size=4).map(
        lambda rows: "".join(json.dumps({"file_name": name, "label": label}) + "\n" for name, label in rows).encode()
    ),
    st.lists(st.sampled_from(["0.png", "1.png", "a", '"', ",", "\n", "\0"]), max_size=12).map(
        lambda parts: ("file_name,label\n" + "".join(parts)).encode()
    ),
)


@fuzz.examples(150)
@given(TABLES, st.sampled_from(["metadata.csv", "metadata.jsonl"]))
def test_any_table_of_labels_is_read_or_refused(table: bytes, name: str) -> None:
    with fuzz.folder() as folder:
        source = tiny.image_folder(folder / "photos", count=2)
        (folder / "photos" / name).write_bytes(table)
        try:
            dataset = opening.open_or_build(settings_of(source, folder), progress=False)
        except UserError as error:
            assert name in str(error)
        else:
            assert len(dataset.images) == 2


# --- Archives and arrays ---------------------------------------------------------------------------------------------


def zip_of(entries: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def npz_of(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def idx_of(images: np.ndarray) -> bytes:
    return struct.pack(f">HBB{images.ndim}I", 0, 8, images.ndim, *images.shape) + images.tobytes()


def parquet_of(**columns: list[Any]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


GREY = tiny.images(3, channels=1)[..., 0]
PIXELS = tiny.images(3)
PICTURES = [{"bytes": image, "path": "x"} for image in IMAGES[:3]]
# A file of each kind that is sound, by the source that reads it.
SOUND = {
    "folder:x.zip": [zip_of([("a/0.png", IMAGES[4]), ("b/1.png", IMAGES[5]), ("b/2", b"text")])],
    "array:x.npz": [npz_of(images=GREY, labels=[0, 1, 0]), npz_of(images=PIXELS, labels=["a", "b", "a"])],
    "idx:x-images-idx3": [idx_of(GREY), gzip.compress(idx_of(GREY))],
    "parquet:x.parquet": [parquet_of(image=PICTURES, label=[0, 1, 0]), parquet_of(image=IMAGES[:3], label=list("aba"))],
}


@pytest.mark.filterwarnings("ignore:::PIL")
@fuzz.examples(500)
@given(st.data())
def test_damaged_files_of_images_are_packed_or_refused(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(sorted(SOUND)))
    content = data.draw(st.sampled_from(SOUND[source]).flatmap(fuzz.damaged))
    kind, _, name = source.partition(":")
    with fuzz.folder() as folder, few_pixels, mock.patch.object(pack_writer, "_MAX_BAD", 0.9):
        (folder / name).write_bytes(content)
        try:
            settings = settings_of(f"{kind}:{folder}/{name}", folder, allow_upsampling=True)
            dataset = opening.open_or_build(settings, progress=False)
        except UserError as error:
            assert str(error)
            assert not list(folder.glob("packs/*.building"))
        else:
            assert len(dataset.keys) == len(dataset.images) <= 4
        assert (folder / name).read_bytes() == content
        assert {path.name for path in folder.iterdir()} <= {name, "packs"}


ENTRY_NAMES = st.one_of(
    st.text("ab./\\\0é", min_size=1, max_size=8),
    st.sampled_from(["../x.png", "/x.png", "a/" * 300 + "x.png", "C:\\x.png"]),
)


@fuzz.examples(150)
@given(st.lists(st.tuples(ENTRY_NAMES, st.sampled_from([*IMAGES[:6], b"", b"text", EPS, BOMB])), max_size=5))
def test_archives_with_any_names_are_packed_or_refused(entries: list[tuple[str, bytes]]) -> None:
    entries = [(name + suffix, content) for name, content in entries for suffix in ("", ".png")]
    with fuzz.folder() as folder, mock.patch.object(pack_writer, "_MAX_BAD", 0.9):
        (folder / "x.zip").write_bytes(zip_of(entries))
        with contextlib.suppress(UserError):
            dataset = opening.open_or_build(
                settings_of(f"folder:{folder}/x.zip", folder, allow_upsampling=True), progress=False
            )
            assert len(set(dataset.keys)) == len(dataset.images) <= len(entries)
        assert {path.name for path in folder.iterdir()} <= {"x.zip", "packs"}


def test_arrays_of_others_are_never_unpickled(tmp_path: Path) -> None:
    objects = np.array([fuzz.Bomb(tmp_path / "ran")] * 3, object)
    for name, arrays in (
        ("images", {}),
        ("labels", {"images": GREY}),
        ("class_names", {"images": GREY, "labels": [0] * 3}),
    ):
        (tmp_path / "x.npz").write_bytes(npz_of(**arrays, **{name: objects}))
        with pytest.raises(UserError, match=r"are object|cannot be read"):
            opening.open_or_build(settings_of(f"array:{tmp_path}/x.npz", tmp_path), progress=False)
    np.save(tmp_path / "x.npy", objects)
    (tmp_path / "y.npy").write_bytes(fuzz.bomb(tmp_path / "ran"))
    for name in ("x.npy", "y.npy"):
        with pytest.raises(UserError, match=r"are object|cannot be read"):
            opening.open_or_build(settings_of(f"array:{tmp_path}/{name}", tmp_path), progress=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[:40])
def test_array_headers_that_promise_anything(header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header.encode() + bytes(100)
    (tmp_path / "x.npy").write_bytes(content)
    labels = zip_of([("images.npy", io_of(GREY)), ("labels.npy", content)])
    (tmp_path / "x.npz").write_bytes(labels)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(UserError):
            opening.open_or_build(settings_of(f"array:{tmp_path}/{name}", tmp_path), progress=False)
    assert not (tmp_path / "ran").exists()


def io_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# --- LMDB ------------------------------------------------------------------------------------------------------------


def database(folder: Path, entries: dict[bytes, bytes]) -> Path:
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    return folder


KEYS = st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from([b"../../x", b"/x", b"\0", b"\xff", b"a\nb"]))


@fuzz.examples(60)
@given(st.dictionaries(KEYS, st.sampled_from([*IMAGES, b"", b"text", EPS, BOMB]), max_size=4))
def test_any_values_are_packed_or_refused(entries: dict[bytes, bytes]) -> None:
    with fuzz.folder() as folder, mock.patch.object(pack_writer, "_MAX_BAD", 0.9):
        path = database(folder / "x_lmdb", entries)
        before = fuzz.snapshot(path)
        try:
            dataset = opening.open_or_build(settings_of(f"lsun:{path}", folder, allow_upsampling=True), progress=False)
        except UserError as error:
            assert entries or "has no entries" in str(error)
        else:
            assert len(dataset.keys) == len(dataset.images) <= len(entries)
        assert fuzz.snapshot(path) == before
        assert {file.name for file in folder.iterdir()} <= {"x_lmdb", "packs"}


READ_ALL = """
import sys
from pathlib import Path
from dcgan_jax.datasets import lsun_lmdb
from dcgan_jax.machine.errors import UserError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        source = lsun_lmdb.open_lsun(path)
        count = sum(1 for _ in source.read(source.list_items().references))
        print(path.name, f"{count} read", flush=True)
    except UserError as error:
        print(path.name, "refused:", error, flush=True)
"""


def test_databases_that_are_cut_short_or_none(tmp_path: Path) -> None:
    """In a process of their own: reading beyond the end of a mapped file would kill this one."""
    noise = random.Random(0)
    whole = database(tmp_path / "x_lmdb", {b"%04d" % i: noise.randbytes(3000) for i in range(100)}) / "data.mdb"
    content, folder = whole.read_bytes(), tmp_path / "damaged"
    folder.mkdir()
    cuts = [0, 1, 10, 4095, 4096, 4097, 8191, 8192, 8193, *noise.sample(range(len(content)), 30), len(content) - 4096]
    for size in cuts:
        (folder / f"cut {size:07d}").write_bytes(content[:size])
    for i in range(20):
        (folder / f"noise {i}").write_bytes(noise.randbytes(noise.choice([1, 100, 4096, 8192, 20_000])))
    shutil.copy(whole, folder / "whole")
    process = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(folder)], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout[-300:] + process.stderr[-300:]
    *damaged, last = process.stdout.splitlines()
    assert len(damaged) == len(set(cuts)) + 20 and last == "whole 100 read"
    assert all("refused:" in line for line in damaged)
    assert [line for line in damaged if "is cut short: it has 8,193 bytes, of" in line]


# --- Packs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ConfigDict]:
    """config.data of two packs: one with labels, one with attributes."""
    folder = tmp_path_factory.mktemp("sound")
    source = tiny.image_folder(folder / "photos", count=12, classes=3)
    found = {"labels": settings_of(source, folder), "attributes": settings_of("toy_bedrooms", folder, num_examples=6)}
    for data in found.values():
        opening.open_or_build(data, progress=False)
    return found


def copy_of(data: ConfigDict, folder: Path) -> tuple[ConfigDict, Path]:
    """The same pack in folder/packs."""
    copied = data.copy_and_resolve_references()
    copied.cache_dir = f"{folder}/packs"
    path = opening.pack_path(copied)
    shutil.copytree(opening.pack_path(data), path)
    return copied, path


def check(data: ConfigDict, like: ConfigDict, folder: Path) -> None:
    """The pack opens, and is what it should be but for pixels and names that were changed."""
    dataset, sound = opening.open_or_build(data, progress=False), opening.open_or_build(like, progress=False)
    assert dataset.images.shape == sound.images.shape and dataset.images.dtype == np.uint8
    assert (dataset.labels is None) == (sound.labels is None)
    if dataset.labels is not None and sound.labels is not None:
        assert dataset.labels.shape == sound.labels.shape and dataset.labels.dtype == np.int32
    assert all(len(values) == len(dataset.images) for values in dataset.attributes.values())
    assert dataset.class_names is None or all(isinstance(name, str) for name in dataset.class_names)
    try:
        assert len(dataset.keys) == len(dataset.images)
    except UserError as error:
        assert "is damaged" in str(error)
    assert {path.name for path in folder.iterdir()} <= {"packs"}


PARTS = ["images.npy", "labels.npy", "attributes.npz", "meta.json", "keys.json"]


@fuzz.examples(250)
@given(st.data())
def test_a_damaged_pack_is_sound_again(sound: dict[str, ConfigDict], data: st.DataObject) -> None:
    like = sound[data.draw(st.sampled_from(sorted(sound)))]
    with fuzz.folder() as folder:
        copied, path = copy_of(like, folder)
        file = path / data.draw(st.sampled_from([name for name in PARTS if (path / name).exists()]))
        kind = data.draw(st.sampled_from(["damaged", "another's", "field", "gone", "folder"]))
        if kind == "damaged":
            file.write_bytes(data.draw(fuzz.damaged(file.read_bytes())))
        elif kind == "another's":
            other = path / data.draw(st.sampled_from([name for name in PARTS if (path / name).exists()]))
            file.write_bytes(other.read_bytes())
        elif kind == "field":
            meta = json.loads((path / "meta.json").read_text())
            meta[data.draw(st.sampled_from(sorted(meta)))] = data.draw(fuzz.any_json)
            (path / "meta.json").write_text(json.dumps(meta))
        else:
            file.unlink()
            if kind == "folder":
                file.mkdir()
        check(copied, like, folder)


ARRAYS = [
    np.zeros((12, SIZE, SIZE, 3), np.float32),
    np.zeros((12, SIZE, SIZE, 3), ">i4"),
    np.zeros((SIZE, SIZE, 3), np.uint8),
    np.zeros(12, np.int64),
    np.zeros((12, 2), np.int32),
    np.array(3),
    np.array(["text"] * 12),
    np.zeros(12, [("a", np.uint8)]),
    np.zeros(0, np.int32),
]


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.kind}{array.ndim}")
def test_arrays_of_another_kind(name: str, array: np.ndarray, sound: dict[str, ConfigDict], tmp_path: Path) -> None:
    copied, path = copy_of(sound["labels"], tmp_path)
    np.save(path / name, array)
    if name == "images.npy":
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps(meta | {"bytes": (path / name).stat().st_size}))
    check(copied, sound["labels"], tmp_path)
    assert opening.open_or_build(copied).images.any()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[:40])
def test_headers_that_promise_anything(
    name: str, header: str, sound: dict[str, ConfigDict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copied, path = copy_of(sound["labels"], tmp_path)
    (path / name).write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header.encode() + bytes(100))
    check(copied, sound["labels"], tmp_path)


def pickled_array(file: Path, marker: Path) -> None:
    np.save(file, np.array([fuzz.Bomb(marker)] * 12, object))


def pickled_member(file: Path, marker: Path) -> None:
    with file.open("wb") as opened:
        np.savez(opened, a=np.array([fuzz.Bomb(marker)] * 12, object))


def bare_pickle(file: Path, marker: Path) -> None:
    file.write_bytes(fuzz.bomb(marker))


@pytest.mark.parametrize("write", [pickled_array, pickled_member, bare_pickle])
@pytest.mark.parametrize("name", [*PARTS, "attribute_probe.msgpack"])
def test_packs_are_never_unpickled(
    name: str, write: Callable[[Path, Path], None], sound: dict[str, ConfigDict], tmp_path: Path
) -> None:

    like = sound["attributes" if name == "attributes.npz" else "labels"]
    copied, path = copy_of(like, tmp_path)
    write(path / name, tmp_path / "ran")
    check(copied, like, tmp_path)
    write(path / name, tmp_path / "ran")
    with pytest.raises(Damaged):
        attribute_probe._load(path / name, opening.open_or_build(like))
    assert not (tmp_path / "ran").exists()


def test_the_bomb_is_live(tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    pickled_array(tmp_path / "bomb.npy", tmp_path / "ran")
    np.load(tmp_path / "bomb.npy", allow_pickle=True)
    assert (tmp_path / "ran").exists()
