"""The pack: content, naming, reuse, repair, bad images, failures and concurrent builds."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from dcgan_jax import __version__
from dcgan_jax.datasets import chunks, classes, decode, opening, pack_writer, sources
from dcgan_jax.datasets.source import Example, Items, Source
from dcgan_jax.machine.errors import UserError

SIZE = 8


@pytest.fixture
def data(tmp_path: Path) -> ConfigDict:
    """config.data for 8-pixel images of the folder tmp_path/photos, packed into tmp_path/packs."""
    config = default.get_config().data
    config.update(source=f"folder:{tmp_path}/photos", cache_dir=f"{tmp_path}/packs", image_size=SIZE)
    return config


def grey_photos(tmp_path: Path, count: int, subfolder: str = "") -> None:
    """Files 000.png, 001.png, ... whose pixels all have the value of the file's number, modulo 256."""
    folder = tmp_path / "photos" / subfolder
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("L", (SIZE, SIZE), i % 256).save(folder / f"{i:03}.png")


def use_source(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Replaces the source of `data` by one with the given parts."""
    source = Source(**{"name": "folder:/stand/in", "version": "1", "fingerprint": {}, **fields})
    monkeypatch.setattr(sources, "open_source", lambda _: source)


def numbered(references: Sequence[int]) -> Iterator[Example]:
    for i in references:
        yield Example(np.full((SIZE, SIZE, 3), i % 251, np.uint8), f"image {i}", i % 10, {"square": np.int64(i * i)})


def numbered_but_bad(bad: set[int], references: Sequence[int]) -> Iterator[Example]:
    for example, i in zip(numbered(references), references, strict=True):
        yield Example(b"", example.key, example.label, example.attributes) if i in bad else example


def left_behind(data: ConfigDict) -> list[str]:
    return sorted(path.name for path in Path(data.cache_dir).glob("*") if path.suffix != ".lock")


# --- Content ---------------------------------------------------------------------------------------------------------


def test_pack_of_a_folder(tmp_path: Path, data: ConfigDict) -> None:
    for name, left, right in (("b/1.png", "red", "blue"), ("a/2.png", "white", "black")):
        image = Image.new("RGB", (2 * SIZE, SIZE), left)
        image.paste(right, (SIZE, 0, 2 * SIZE, SIZE))
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        image.save(tmp_path / "photos" / name)
    dataset = opening.open_or_build(data, progress=False)

    assert dataset.images.dtype == np.uint8
    assert dataset.images.shape == (2, SIZE, SIZE, 3)
    # The centred square is the right half of the left colour and the left half of the right one.
    np.testing.assert_array_equal(dataset.images[1, :, :4], np.broadcast_to([255, 0, 0], (SIZE, 4, 3)))
    np.testing.assert_array_equal(dataset.images[1, :, 4:], np.broadcast_to([0, 0, 255], (SIZE, 4, 3)))
    np.testing.assert_array_equal(dataset.images[0, 0, :, 0], [255] * 4 + [0] * 4)
    assert dataset.labels is not None
    assert dataset.labels.dtype == np.int32
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.class_names == ["a", "b"]
    assert dataset.keys == ["a/2.png", "b/1.png"]
    assert dataset.attributes == {}
    assert isinstance(dataset.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.images[0] = 0


def test_meta_says_what_the_pack_is(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 3)
    dataset = opening.open_or_build(data, progress=False)
    meta = json.loads((dataset.path / "meta.json").read_text())
    assert meta == dataset.meta
    created = time.strptime(meta.pop("created"), "%Y-%m-%dT%H:%M:%S+00:00")
    assert created.tm_year >= 2024
    content = (dataset.path / "images.npy").read_bytes()
    assert meta == {
        "source": f"folder:{tmp_path}/photos",
        "version": "",
        "split": "train",
        "held_out": 0,
        "dedup": False,
        "duplicates_left_out": 0,
        "image_size": 8,
        "channels": 3,
        "crop_size": 0,
        "allow_upsampling": False,
        "resampling": "lanczos",
        "count": 3,
        "skipped": {"count": 0, "first": []},
        "left_out": {},
        "class_names": None,
        "class_counts": None,
        "note": "",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "labels_sha256": None,
        "dcgan_jax": __version__,
    }
    assert sorted(path.name for path in dataset.path.iterdir()) == ["images.npy", "keys.json", "meta.json"]


def test_packs_that_are_not_square(tmp_path: Path, data: ConfigDict) -> None:
    """Photos of 8 x 8 pixels, whose middle rows 2 to 5 stay; the pack opens in place, too."""
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(numbered_rows(8, 8) + np.uint8(i)).save(tmp_path / "photos" / f"{i}.png")
    data.update(image_size=4, image_width=8)
    made = opening.open_or_build(data, progress=False)
    assert made.images.shape == (3, 4, 8, 3) and made.images[1, :, 0, 0].tolist() == [3, 4, 5, 6]
    assert "-4x8px-" in made.path.name
    assert (made.meta["image_size"], made.meta["image_width"]) == (4, 8) and "fit" not in made.meta
    data.source = f"pack:{made.path}"
    np.testing.assert_array_equal(opening.open_or_build(data).images, made.images)
    data.update(image_size=8, image_width=0)
    with pytest.raises(UserError, match=r"4 x 8 pixels .*--config.data.image_size=4 --config.data.image_width=8 "):
        opening.open_or_build(data)


def numbered_rows(height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.arange(height, dtype=np.uint8)[:, None, None], (height, width, 3))


@pytest.mark.parametrize(("fit", "aspect"), [("crop", None), ("squeeze", 2.0), ("pad", None)])
def test_packs_of_squeezed_images_keep_the_median_aspect(
    tmp_path: Path, data: ConfigDict, fit: str, aspect: float | None
) -> None:
    (tmp_path / "photos").mkdir()
    for i, width in enumerate((8, 16, 80)):
        Image.new("RGB", (width, 8), "white").save(tmp_path / "photos" / f"{i}.png")
    data.fit = fit
    meta = opening.open_or_build(data, progress=False).meta
    assert meta.get("aspect") == aspect
    assert meta.get("fit", "crop") == fit


def test_grey_packs_have_one_channel(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 3)
    data.channels = 1
    images = opening.open_or_build(data, progress=False).images
    assert images.shape == (3, SIZE, SIZE, 1)
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_num_examples_takes_evenly_from_a_folder(tmp_path: Path, data: ConfigDict) -> None:
    """10 of 25: numbers 2.5 i, rounded up."""
    for name in ("a", "b", "c"):
        grey_photos(tmp_path, 8, name)
    grey_photos(tmp_path, 1, "d")
    data.num_examples = 10
    dataset = opening.open_or_build(data, progress=False)
    assert dataset.labels is not None
    assert [8 * label + pixel for label, pixel in zip(dataset.labels, dataset.images[:, 0, 0, 0], strict=True)] == [
        0, 3, 5, 8, 10, 13, 15, 18, 20, 23,
    ]  # fmt: skip
    data.num_examples = 1000
    assert len(opening.open_or_build(data, progress=False).images) == 25


def test_num_examples_takes_the_first_of_a_shuffled_source(data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    use_source(monkeypatch, list_items=lambda: Items(40, range(40)), read=numbered)
    data.num_examples = 35
    assert opening.open_or_build(data, progress=False).images[:, 0, 0, 0].tolist() == list(range(35))


def test_classes_and_what_is_left_out_are_recorded(
    tmp_path: Path, data: ConfigDict, caplog: pytest.LogCaptureFixture
) -> None:
    grey_photos(tmp_path, 3, "dog")
    grey_photos(tmp_path, 2, "cat")
    frames = [Image.new("L", (SIZE, SIZE), value) for value in (5, 200)]
    frames[0].save(tmp_path / "photos/cat/moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "photos/cat/still.gif")
    (tmp_path / "photos/cat/x.jp2").write_bytes(b"x")
    (tmp_path / "photos/void").mkdir()
    (tmp_path / "photos/void/0.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        dataset = opening.open_or_build(data, progress=False)
    assert dataset.class_names == ["cat", "dog", "void"]
    assert dataset.meta["class_counts"] == classes.counts(dataset) == [4, 3, 0]
    assert dataset.images[2, 0, 0, 0] == 5  # the first frame
    assert dataset.meta["left_out"] == {".jp2": 1, "files with several frames, but for their first": 1}
    assert caplog.records[-1].getMessage() == (
        f"Left out of {data.source}: 1 .jp2, 1 files with several frames, but for their first"
    )


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF", "AVIF"])
def test_files_with_several_frames_are_known(format: str, tmp_path: Path) -> None:
    if format not in decode.FORMATS:
        pytest.skip("this Pillow was built without it")
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving", format, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still", format)
    moving, still = (decode.decode(tmp_path / name, decode.Target(SIZE)) for name in ("moving", "still"))
    assert (moving.several_frames, still.several_frames) == (True, False)
    np.testing.assert_array_equal(moving.pixels[0, 0, 0] > 200, True)
    np.testing.assert_allclose(moving.pixels.astype(int), still.pixels, atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_toy_factors_travel_with_the_images(data: ConfigDict, monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    toy = types.ModuleType("dcgan_jax.datasets.toy_faces")

    def render(seed: int, index: int, image_size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        pixels = np.zeros((image_size, image_size, 3), np.uint8)
        pixels[..., 0] = 10 * index
        return pixels, {"smiling": np.asarray(index % 2), "skin": np.full(3, index, np.float32)}

    toy.render, toy.VERSION = render, 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    data.update(source="toy_faces", num_examples=5, channels=channels)
    dataset = opening.open_or_build(data, progress=False)
    luma = [round(10 * i * (0.299 if channels == 1 else 1)) for i in range(5)]
    assert dataset.images[:, 0, 0, 0].tolist() == luma
    assert dataset.labels is None
    assert dataset.attributes["smiling"].tolist() == [0, 1, 0, 1, 0]
    assert dataset.attributes["skin"].dtype == np.float32
    np.testing.assert_array_equal(dataset.attributes["skin"], np.repeat(np.arange(5), 3).reshape(5, 3))


def test_parallel_build_keeps_order(data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_num_cores", lambda: 2)
    bad = {7, 300, 301, 998}
    use_source(monkeypatch, list_items=lambda: Items(999, range(999)), read=partial(numbered_but_bad, bad))
    dataset = opening.open_or_build(data, progress=False)
    good = np.asarray([i for i in range(999) if i not in bad])
    np.testing.assert_array_equal(dataset.images, np.broadcast_to((good % 251)[:, None, None, None], (995, 8, 8, 3)))
    np.testing.assert_array_equal(dataset.labels, good % 10)  # type: ignore[arg-type]
    np.testing.assert_array_equal(dataset.attributes["square"], good * good)
    assert dataset.keys == [f"image {i}" for i in good]
    assert dataset.meta["skipped"] == {"count": 4, "first": [[f"image {i}", "is empty"] for i in sorted(bad)]}


def die(references: Sequence[int]) -> Iterator[Example]:
    os._exit(1)


def test_death_of_a_worker_is_reported(data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_num_cores", lambda: 2)
    use_source(monkeypatch, list_items=lambda: Items(999, range(999)), read=die)
    with pytest.raises(UserError, match="memory ran out"):
        opening.open_or_build(data, progress=False)
    assert left_behind(data) == []


# --- Naming and settings ---------------------------------------------------------------------------------------------


def test_pack_path_says_where_without_building(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 1)
    path = opening.pack_path(data)
    assert not path.exists()
    assert path.parent == tmp_path / "packs"
    assert path.name.startswith("folder-photos-8px-")
    assert len(path.name) == len("folder-photos-8px-") + 12
    assert opening.open_or_build(data, progress=False).path == path


def test_default_folder(tmp_path: Path, data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    grey_photos(tmp_path, 1)
    data.cache_dir = ""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert opening.pack_path(data).parent == tmp_path / "xdg/dcgan_jax/packs"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opening.pack_path(data).parent == tmp_path / ".cache/dcgan_jax/packs"


def test_name_changes_with_everything_that_shapes_the_content(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 2)
    shutil.copytree(tmp_path / "photos", tmp_path / "copy")
    names = [opening.pack_path(data).name]
    for field, value in {
        "source": f"folder:{tmp_path}/copy",
        "split": "",
        "image_size": 9,
        "channels": 1,
        "crop_size": 8,
        "allow_upsampling": True,
        "num_examples": 1,
        "image_width": 9,
        "fit": "pad",
    }.items():
        changed = ConfigDict(data)
        changed[field] = value
        names.append(opening.pack_path(changed).name)
    os.utime(tmp_path / "photos/001.png", (1, 1))
    names.append(opening.pack_path(data).name)
    assert len(set(names)) == 11


def test_name_changes_with_the_toy_and_its_version(data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = types.ModuleType("dcgan_jax.datasets.toy_faces")
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    data.source = "toy_faces"
    names = []
    for version, split in ((1, "train"), (2, "train"), (1, "test")):
        toy.VERSION = version  # type: ignore[attr-defined]
        data.split = split
        names.append(opening.pack_path(data).name)
    assert len(set(names)) == 3


def test_name_does_not_change_with_anything_else(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 2)
    name = opening.pack_path(data).name
    data.update(cache_dir=f"{tmp_path}/elsewhere", placement="host", dir="/unused", image_width=SIZE)
    assert opening.pack_path(data).name == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 4}, "data.channels is 4"),
        ({"image_size": 0}, "data.image_size must be positive"),
        ({"crop_size": 4}, "data.crop_size 4 is smaller than data.image_size 8"),
        ({"num_examples": -1}, "must not be negative"),
        ({"image_width": -1}, "must not be negative"),
        ({"crop_size": 8, "image_width": 4}, "data.crop_size is 8, the side of a square, but the images are 8 x 4"),
        ({"crop_size": 8, "fit": "pad"}, "data.fit is 'pad': set --config.data.crop_size=0"),
    ],
)
def test_impossible_settings(tmp_path: Path, data: ConfigDict, changes: dict[str, Any], message: str) -> None:
    grey_photos(tmp_path, 1)
    data.update(changes)
    with pytest.raises(UserError, match=message):
        opening.open_or_build(data)


# --- Packs of version 0.1.0 ------------------------------------------------------------------------------------------


def name_in_0_1_0(data: ConfigDict, source_fingerprint: dict[str, Any]) -> str:
    """As that version formed it."""
    content = {
        "format": 1,
        "source": data.source,
        "source_fingerprint": source_fingerprint,
        "split": data.split,
        "num_examples": data.num_examples,
        "target": {"image_size": 8, "channels": 3, "crop_size": 0, "allow_upsampling": False},
    }
    slug = data.source.replace("folder:" + str(Path(data.source[7:]).parent) + "/", "folder-")
    return f"{slug}-8px-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"


def listing(root: Path) -> dict[str, str]:
    digest = hashlib.sha256()
    for path in sorted(str(path.relative_to(root)) for path in root.rglob("*.png")):
        status = (root / path).stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return {"files": digest.hexdigest()}


def test_packs_keep_their_names(tmp_path: Path, data: ConfigDict) -> None:
    for i in range(10):
        grey_photos(tmp_path, 2, f"class{i}")
    for count in (0, 20, 100):  # all of them
        data.num_examples = count
        assert opening.pack_path(data).name == name_in_0_1_0(data, listing(tmp_path / "photos"))
    data.small_images = "skip"
    assert opening.pack_path(data).name == name_in_0_1_0(data, listing(tmp_path / "photos"))


def test_a_pack_keeps_its_own_order_of_classes(tmp_path: Path, data: ConfigDict) -> None:
    for name in ("1", "2", "10"):
        grey_photos(tmp_path, 1, name)
    new = opening.open_or_build(data, progress=False)
    assert new.class_names == ["1", "2", "10"]
    old = new.path.with_name(name_in_0_1_0(data, listing(tmp_path / "photos")))
    assert new.path != old
    new.path.rename(old)
    meta = json.loads((old / "meta.json").read_text()) | {"class_names": ["1", "10", "2"]}
    for added in ("left_out", "class_counts", "note"):
        del meta[added]
    (old / "meta.json").write_text(json.dumps(meta))
    opened = opening.open_or_build(data, progress=False)
    assert (opened.path, opened.class_names) == (old, ["1", "10", "2"])
    assert opening.pack_path(data) == old


def test_a_part_that_was_the_first_class_is_not_used_again(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 4, "a")
    grey_photos(tmp_path, 4, "b")
    data.num_examples = 4
    (tmp_path / "packs").mkdir()
    old = tmp_path / "packs" / name_in_0_1_0(data, listing(tmp_path / "photos"))
    shutil.copytree(opening.open_or_build(data, progress=False).path, old)
    assert opening.pack_path(data) != old
    shutil.rmtree(tmp_path / "photos")
    grey_photos(tmp_path, 8)  # without classes, any four are as good
    old = tmp_path / "packs" / name_in_0_1_0(data, listing(tmp_path / "photos"))
    fresh = opening.open_or_build(data, progress=False)
    assert fresh.images[:, 0, 0, 0].tolist() == [0, 2, 4, 6]
    fresh.path.rename(old)
    assert opening.pack_path(data) == old


@pytest.mark.parametrize(("changed", "used"), [(-1, True), (1, False)])
def test_a_pack_that_is_newer_than_its_source_is_used(
    changed: int, used: bool, data: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {"list_items": lambda: Items(5, range(5)), "read": numbered}
    use_source(monkeypatch, fingerprint={"folder": "/x"}, **read)
    old = opening.open_or_build(data, progress=False).path
    written = (old / "meta.json").stat().st_mtime_ns
    now = {
        "fingerprint": {"folder": "/x", "files": "digest"},
        "earlier": {"folder": "/x"},
        "changed": written + changed,
    }
    use_source(monkeypatch, **now, **read)
    opened = opening.open_or_build(data, progress=False)
    assert (opened.path == old) == used
    assert opening.pack_path(data) == opened.path
    (old / "meta.json").unlink()  # damaged
    assert (opening.pack_path(data) == old) is False


# --- Reuse and repair ------------------------------------------------------------------------------------------------


def test_second_open_reads_the_pack_only(tmp_path: Path, data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    grey_photos(tmp_path, 3)
    first = opening.open_or_build(data, progress=False)
    monkeypatch.setattr(pack_writer, "write", None)
    monkeypatch.setattr(pack_writer, "lock", None)  # A pack in a folder that cannot be written needs no lock.
    second = opening.open_or_build(data, progress=False)
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.keys, first.meta, first.path) == (second.keys, second.meta, second.path)


def test_opening_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "squares/1.0.0").mkdir(parents=True)
    (tmp_path / "squares/1.0.0/dataset_info.json").write_text('{"fileFormat": "array_record"}')
    (tmp_path / "room_lmdb").mkdir()
    (tmp_path / "room_lmdb/data.mdb").write_bytes(b"")
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
from configs import default
from dcgan_jax.datasets import opening
for source in ("tfds:squares", "lsun:{tmp_path}/room_lmdb"):
    data = default.get_config().data
    data.update(source=source, dir={str(tmp_path)!r}, cache_dir={str(tmp_path)!r})
    opening.pack_path(data)
print(sorted({{"jax", "flax", "tensorflow", "tensorflow_datasets", "lmdb"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def cut_images(path: Path) -> None:
    with open(path / "images.npy", "r+b") as file:
        file.truncate(300)


def lengthen_images(path: Path) -> None:
    with open(path / "images.npy", "ab") as file:
        file.write(b"\0")


def other_size(path: Path) -> None:
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"image_size": 16}))


@pytest.mark.parametrize(
    "damage",
    [
        cut_images,
        lengthen_images,
        other_size,
        lambda path: (path / "images.npy").write_bytes(b""),
        lambda path: (path / "images.npy").unlink(),
        lambda path: (path / "meta.json").unlink(),
        lambda path: (path / "meta.json").write_text("{"),
        lambda path: (path / "attributes.npz").write_bytes(b"PK"),
        lambda path: (path / "labels.npy").write_bytes(b"\x93NUMPY"),
    ],
)
def test_damaged_pack_is_built_again(
    tmp_path: Path, data: ConfigDict, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    grey_photos(tmp_path, 3, "only")
    path = opening.open_or_build(data, progress=False).path
    damage(path)
    with caplog.at_level(logging.WARNING):
        dataset = opening.open_or_build(data, progress=False)
    assert dataset.path == path
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    caplog.clear()
    opening.open_or_build(data, progress=False)
    assert not caplog.records


# --- In place --------------------------------------------------------------------------------------------------------


@pytest.fixture
def carried(tmp_path: Path, data: ConfigDict) -> ConfigDict:
    """config.data with a pack of classes a and b, two images each, moved away from the cache."""
    grey_photos(tmp_path, 2, "a")
    grey_photos(tmp_path, 2, "b")
    pack_there = opening.open_or_build(data, progress=False).path
    (tmp_path / "elsewhere").mkdir()
    pack_there.rename(tmp_path / "elsewhere" / "set")
    shutil.rmtree(tmp_path / "photos")
    shutil.rmtree(tmp_path / "packs")
    data.source = f"pack:{tmp_path}/elsewhere/set/"
    return data


def test_carried_pack_holds_the_same(tmp_path: Path, carried: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/cache")
    path = tmp_path / "elsewhere" / "set"
    before = {file: file.read_bytes() for file in path.iterdir()}
    dataset = opening.open_or_build(carried)
    assert dataset.path == opening.pack_path(carried) == path
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 1, 0, 1]
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.class_names == ["a", "b"]
    assert dataset.keys == ["a/000.png", "a/001.png", "b/000.png", "b/001.png"]
    assert dataset.meta["source"] == f"folder:{tmp_path}/photos"

    assert dataset.companion("probe").is_relative_to(tmp_path / "cache")
    (path / "brought").write_bytes(b"along")
    assert dataset.companion("brought").read_bytes() == b"along"
    (path / "brought").unlink()
    assert {file: file.read_bytes() for file in path.iterdir()} == before
    assert not (tmp_path / "packs").exists() and sorted(os.listdir(path.parent)) == ["set"]


def test_carried_pack_keeps_attributes(tmp_path: Path, data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    use_source(monkeypatch, list_items=lambda: Items(4, range(4)), read=numbered)
    made = opening.open_or_build(data, progress=False)
    monkeypatch.undo()
    data.source = f"pack:{made.path}"
    assert opening.open_or_build(data).attributes["square"].tolist() == [0, 1, 4, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 16}, r"8 x 8 pixels and 3 channels, not 16 x 16 and 3: set --config.data.image_size=8"),
        ({"channels": 1}, "not 8 x 8 and 1"),
        ({"image_width": 4}, r"8 x 8 pixels and 3 channels, not 8 x 4 and 3: .*--config.data.image_width=8 "),
        ({"fit": "pad"}, "data.fit is 'pad', but the images of data.source pack:.* are fitted already, with 'crop'"),
        ({"split": "test"}, "data.split is 'test', but data.source pack:.* holds split 'train'"),
        ({"held_out": 2}, "data.held_out is 2, but data.source pack:.* was packed with 0, and all of it is used"),
        ({"crop_size": 9}, "data.crop_size is 9, but the images of data.source pack:.* are cropped already, with 0"),
        ({"num_examples": 3}, "data.num_examples is 3, but data.source pack:.* has 4 images"),
        ({"dedup": True}, "was packed with its near-duplicates.*--config.data.dedup=False"),
        ({"duplicates": "list.txt"}, "was packed with its near-duplicates"),
        ({"source": "pack:"}, "'pack:' is not one of"),
        ({"source": "pack:/no/such"}, "pack:/no/such: there is no such folder"),
        ({"source": f"pack:{__file__}"}, "is not a pack"),
    ],
)
def test_carried_pack_that_is_not_what_the_config_asks_for(
    changes: dict[str, Any], message: str, carried: ConfigDict
) -> None:
    carried.update(changes)
    with pytest.raises(UserError, match=message):
        opening.open_or_build(carried)


def test_a_carried_pack_in_which_no_duplicate_was_found(tmp_path: Path, carried: ConfigDict) -> None:
    """Packs of before say only how many were left out."""
    meta_file = tmp_path / "elsewhere" / "set" / "meta.json"
    meta = json.loads(meta_file.read_text())
    meta_file.write_text(json.dumps(meta | {"dedup": True}))
    carried.dedup = True
    assert len(opening.open_or_build(carried).images) == 4
    del meta["dedup"]
    for left_out, fits in ((0, False), (2, True)):
        meta_file.write_text(json.dumps(meta | {"duplicates_left_out": left_out}))
        with contextlib.nullcontext() if fits else pytest.raises(UserError, match="packed with its near-duplicates"):
            opening.open_or_build(carried)


def test_settings_that_made_a_carried_pack_may_stay(tmp_path: Path, carried: ConfigDict) -> None:
    meta_file = tmp_path / "elsewhere" / "set" / "meta.json"
    meta = json.loads(meta_file.read_text()) | {"split": "train[:4]", "crop_size": 9, "dedup": True}
    meta_file.write_text(json.dumps(meta))
    carried.update(split="train[:4]", crop_size=9, num_examples=6, dedup=True, small_images="skip")
    assert len(opening.open_or_build(carried).images) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_images, r"damaged \(.*copy it again"),
        (other_size, r"damaged \(.*not uint8 \(4, 16, 16, 3\)"),
        (lambda path: (path / "meta.json").write_text("{"), r"damaged \(meta\.json"),
        (lambda path: (path / "meta.json").write_text("[]"), r"damaged \(meta\.json"),
        (lambda path: (path / "images.npy").unlink(), r"damaged \(images\.npy: it is missing"),
        (lambda path: (path / "labels.npy").unlink(), "labels.npy is missing or left over"),
        (lambda path: (path / "keys.json").unlink(), "is not complete.*keys.json"),
        (lambda path: [file.unlink() for file in path.iterdir()], "is not a pack"),
    ],
)
def test_damaged_carried_pack_is_an_error(tmp_path: Path, carried: ConfigDict, damage: Any, message: str) -> None:
    path = tmp_path / "elsewhere" / "set"
    damage(path)
    left = sorted(os.listdir(path))
    with pytest.raises(UserError, match=message):
        opening.open_or_build(carried)
    assert sorted(os.listdir(path)) == left


def test_names_of_a_carried_pack_that_are_damaged(tmp_path: Path, carried: ConfigDict) -> None:
    (tmp_path / "elsewhere" / "set" / "keys.json").write_text("[]")
    with pytest.raises(UserError, match="copy the pack again"):
        _ = opening.open_or_build(carried).keys


def test_carried_packs_have_no_splits_and_are_not_read(carried: ConfigDict) -> None:
    with pytest.raises(UserError, match="this kind of source has no splits"):
        opening.open_others(carried, split="test")
    with pytest.raises(UserError, match="is a pack, and packs are used as they are"):
        sources.open_source(carried)


# --- Bad images ------------------------------------------------------------------------------------------------------


def test_one_per_cent_may_be_bad(tmp_path: Path, data: ConfigDict, caplog: pytest.LogCaptureFixture) -> None:
    grey_photos(tmp_path, 100)
    (tmp_path / "photos/042.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        dataset = opening.open_or_build(data, progress=False)
    assert dataset.images[:, 0, 0, 0].tolist() == [i for i in range(100) if i != 42]
    assert dataset.keys is not None
    assert (len(dataset.keys), dataset.keys[42]) == (99, "043.png")
    assert dataset.meta["count"] == 99
    assert dataset.meta["skipped"] == {"count": 1, "first": [["042.png", "is empty"]]}
    [record] = caplog.records
    assert "Skipped 1 of 100 images: 042.png is empty" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_more_than_one_per_cent_may_not(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 199)
    for i in (42, 43):
        (tmp_path / f"photos/{i:03}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of the 199 images, more than 1 %.*\n  042\.png is empty"):
        opening.open_or_build(data, progress=False)
    path = opening.pack_path(data)
    assert left_behind(data) == [f"{path.name}.bad.txt"]
    (tmp_path / "photos/200.png").write_bytes((tmp_path / "photos/000.png").read_bytes())
    opening.open_or_build(data, progress=False)
    assert f"{opening.pack_path(data).name}.bad.txt" not in left_behind(data)


@pytest.mark.parametrize("count", [2, 50, 99])
def test_one_image_may_always_be_bad(count: int, tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, count)
    (tmp_path / "photos/001.png").write_bytes(b"")
    dataset = opening.open_or_build(data, progress=False)
    assert dataset.images[:, 0, 0, 0].tolist() == [i for i in range(count) if i != 1]
    (tmp_path / "photos/000.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be used|can be used"):
        opening.open_or_build(data, progress=False)


def test_the_only_image_may_not(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 1)
    (tmp_path / "photos/000.png").write_bytes(b"")
    with pytest.raises(UserError, match="None of the images can be used"):
        opening.open_or_build(data, progress=False)


def test_all_bad_images_are_listed(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 200)
    bad = [*range(0, 190, 10), 199]
    for i in bad:
        (tmp_path / f"photos/{i:03}.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"20 of the 200 images, more than 1 %, cannot be used.* All are listed in"
    ) as error:
        opening.open_or_build(data, progress=False)
    file = Path(f"{opening.pack_path(data)}.bad.txt")
    assert str(file) in str(error.value)
    assert file.read_text() == "".join(f"{i:03}.png\tis empty\n" for i in bad)


def test_small_images_are_skipped_by_choice(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 40)
    for i in range(0, 40, 4):
        Image.new("L", (SIZE - 1, SIZE), i).save(tmp_path / f"photos/{i:03}.png")
    with pytest.raises(UserError, match=r"10 of the 40 images.*small_images=skip leaves small ones out"):
        opening.open_or_build(data, progress=False)
    data.small_images = "skip"
    dataset = opening.open_or_build(data, progress=False)
    assert dataset.images[:, 0, 0, 0].tolist() == [i for i in range(40) if i % 4]
    assert dataset.meta["skipped"]["count"] == 10
    for i in (1, 2):  # others still count
        (tmp_path / f"photos/{i:03}.png").write_bytes(b"")
    with pytest.raises(UserError, match="2 of the 40 images, more than 1 %") as error:
        opening.open_or_build(data, progress=False)
    assert "small_images=skip" not in str(error.value)


def test_meta_names_twenty_and_the_error_five(data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_num_cores", lambda: 1)
    read = partial(numbered_but_bad, set(range(25)))
    use_source(monkeypatch, list_items=lambda: Items(2500, range(2500)), read=read)
    skipped = opening.open_or_build(data, progress=False).meta["skipped"]
    assert skipped["count"] == 25
    assert [name for name, _ in skipped["first"]] == [f"image {i}" for i in range(20)]
    data.num_examples = 2499
    with pytest.raises(UserError) as error:
        opening.open_or_build(data, progress=False)
    assert [f"image {i} is empty" in str(error.value) for i in range(6)] == [True] * 5 + [False]


def test_hopeless_source_is_given_up_early(data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def read(references: Sequence[int]) -> Iterator[Example]:
        seen.extend(references)
        yield from numbered_but_bad(set(references), references)

    use_source(monkeypatch, list_items=lambda: Items(400, range(400)), read=read)
    with pytest.raises(UserError, match="None of the first 64 images can be used"):
        opening.open_or_build(data, progress=False)
    assert len(seen) < 100


def test_source_without_examples(data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    use_source(monkeypatch, list_items=lambda: Items(0, []), read=numbered)
    with pytest.raises(UserError, match="has no examples in split 'train'"):
        opening.open_or_build(data)


# --- Failures leave nothing ------------------------------------------------------------------------------------------


def test_disk_too_small_is_noticed_before(tmp_path: Path, data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    grey_photos(tmp_path, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1919))
    with pytest.raises(UserError, match=r"needs 1,920 bytes, but only 1,919 are free.*cache_dir"):
        opening.open_or_build(data, progress=False)
    assert left_behind(data) == []


def test_write_error_midway(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 200)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # The pack is 38,528 bytes: writing fails halfway.
    try:
        with pytest.raises(
            UserError, match=r"Cannot write the pack .*packs/folder-photos.* \(38,400 bytes\): File too"
        ):
            opening.open_or_build(data, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_behind(data) == []
    assert len(opening.open_or_build(data, progress=False).images) == 200


def test_cache_folder_that_cannot_be_made(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 1)
    (tmp_path / "file").touch()
    data.cache_dir = f"{tmp_path}/file/packs"
    with pytest.raises(UserError, match=r"Cannot write the pack .*file/packs.*: Not a directory.*cache_dir"):
        opening.open_or_build(data)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_cache_folder_without_permission(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 1)
    (tmp_path / "packs").mkdir(mode=0o500)
    with pytest.raises(UserError, match="Permission denied"):
        opening.open_or_build(data)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, UserError])
def test_interrupted_build_leaves_nothing(
    data: ConfigDict, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def read(references: Sequence[int]) -> Iterator[Example]:
        if 64 in references:
            raise error("stop")
        return numbered(references)

    use_source(monkeypatch, list_items=lambda: Items(100, range(100)), read=read)
    with pytest.raises(error):
        opening.open_or_build(data, progress=False)
    assert left_behind(data) == []


def test_error_of_the_source_is_not_blamed_on_the_pack(data: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(references: Sequence[int]) -> Iterator[Example]:
        raise OSError(5, "Input/output error", "/data/file")

    use_source(monkeypatch, list_items=lambda: Items(100, range(100)), read=read)
    with pytest.raises(UserError, match=r"The images cannot be read: .*Input/output error"):
        opening.open_or_build(data, progress=False)


# --- Several processes -----------------------------------------------------------------------------------------------


def test_only_one_of_two_builds(
    data: ConfigDict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builds = []
    started = threading.Event()

    def list_items() -> Items:
        builds.append(1)
        started.set()
        time.sleep(0.3)
        return Items(10, range(10))

    use_source(monkeypatch, list_items=list_items, read=numbered)
    results = []
    first = threading.Thread(target=lambda: results.append(opening.open_or_build(data, progress=False)))
    first.start()
    assert started.wait(10)
    results.append(opening.open_or_build(data, progress=False))
    first.join()
    assert len(builds) == 1
    assert "Waiting for another process to finish the pack" in capsys.readouterr().err
    np.testing.assert_array_equal(results[0].images, results[1].images)


def test_leftovers_of_dead_builds_are_removed_and_live_ones_kept(tmp_path: Path, data: ConfigDict) -> None:
    grey_photos(tmp_path, 3)
    own = opening.pack_path(data)
    for name in (own.name, "dead-64px-0123", "never.locked-64px-4567", "alive-64px-89ab"):
        (own.parent / f"{name}.building").mkdir(parents=True)
        (own.parent / f"{name}.building/images.npy").write_bytes(b"half")
    (own.parent / "dead-64px-0123.lock").touch()
    with open(own.parent / "alive-64px-89ab.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        dataset = opening.open_or_build(data, progress=False)
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert left_behind(data) == sorted([own.name, "alive-64px-89ab.building"])


# --- File systems without locks --------------------------------------------------------------------------------------


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_packs_are_built_without_locks(
    no_locks: None, tmp_path: Path, data: ConfigDict, caplog: pytest.LogCaptureFixture
) -> None:
    grey_photos(tmp_path, 3)
    alive = tmp_path / "packs/alive-64px-0123.building"
    alive.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        dataset = opening.open_or_build(data, progress=False)
        data.num_examples = 2
        opening.open_or_build(data, progress=False)
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    [record] = caplog.records  # one for all packs of a folder
    assert f"{tmp_path}/packs is on a file system without locks" in record.getMessage()
    assert alive.exists()


def test_two_builds_without_locks_do_not_meet(
    no_locks: None, data: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=10)

    def read(references: Sequence[int]) -> Iterator[Example]:
        both.wait()
        yield from numbered(references)

    use_source(monkeypatch, list_items=lambda: Items(10, range(10)), read=read)
    results = []
    other = threading.Thread(target=lambda: results.append(opening.open_or_build(data, progress=False)))
    other.start()
    results.append(opening.open_or_build(data, progress=False))
    other.join()
    assert len(results) == 2
    np.testing.assert_array_equal(results[0].images, results[1].images)
    assert left_behind(data) == [results[0].path.name]


# --- Progress --------------------------------------------------------------------------------------------------------


def test_progress_is_lines_where_there_is_no_terminal(
    tmp_path: Path, data: ConfigDict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grey_photos(tmp_path, 100)
    path = opening.open_or_build(data).path
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"Packing folder:{tmp_path}/photos: 100 images into {path}"
    assert last.startswith("Packed 100 of 100 images in ")
    opening.open_or_build(data)
    data.num_examples = 90
    opening.open_or_build(data, progress=False)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(pack_writer, "_LINE_SECONDS", 0)
    data.num_examples = 70
    opening.open_or_build(data)
    lines = capsys.readouterr().err.splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["32", "64", "70"]
