"""Duplicates of an image folder: left out of packs, counted, shown."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from dcgan_jax.datasets import chunks, dedup, opening, semantic_hash
from dcgan_jax.machine.errors import UserError
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 smooth images; x/copy_*.png are three of them, one saved again."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 5, 5, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    (tmp_path / "photos" / "x").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i:02d}.png")
    for i in (3, 11, 17):
        Image.fromarray(images[i]).save(tmp_path / "photos" / "x" / f"copy_{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_hash, "Settings", partial(semantic_hash.Settings, steps=20))


def test_packs_without_duplicates(folder: Path, tmp_path: Path, few_steps: None) -> None:
    data = default.get_config().data
    data.update(source=f"folder:{folder}", cache_dir=str(tmp_path / "packs"), image_size=8)
    whole = opening.open_or_build(data, progress=False)
    data.dedup = True
    kept = opening.open_or_build(data, progress=False)
    assert kept.path != whole.path
    assert (len(whole.images), len(kept.images)) == (23, 20)
    assert kept.keys == [key for key in whole.keys if "copy" not in key]
    np.testing.assert_array_equal(kept.images, whole.images[:20])
    assert (whole.meta["duplicates_left_out"], kept.meta["duplicates_left_out"]) == (0, 3)
    assert opening.open_or_build(data, progress=False).path == kept.path


def test_a_radius_out_of_range(folder: Path, tmp_path: Path) -> None:
    data = default.get_config().data
    data.update(source=f"folder:{folder}", cache_dir=str(tmp_path / "packs"), dedup=True, dedup_radius=17)
    with pytest.raises(UserError, match=r"data\.dedup_radius is 17; it must be 0 to 16"):
        opening.open_or_build(data)


def test_a_copy_stays_where_its_original_cannot_be_used() -> None:
    """An original that is too small for the pack is skipped there; thumbnails are enlarged."""
    chunk = chunks.Chunk(np.zeros((2, 1, 1, 1), np.uint8), ["b", "copy"], None, {}, [1.0, 2.0], [], 0)
    assert chunks.without(chunk, {"copy": "original"}, set()).keys == ["b", "copy"]
    for duplicates, before in (({"copy": "original"}, {"original"}), ({"copy": "b"}, set[str]())):
        left = chunks.without(chunk, duplicates, before)
        assert (left.keys, left.aspects) == (["b"], [1.0])


def test_a_copy_stays_where_its_original_is_held_out(tmp_path: Path) -> None:
    """Images 0, 3, 6 and 9 of 13 are held out. Listed are a copy of 3, which is not here, and one of 1, which is."""
    source = tiny.image_folder(tmp_path / "images", count=13, size=8)
    data = data_of(source)
    data.update(cache_dir=str(tmp_path / "packs"), image_size=8)
    keys = opening.open_or_build(data, progress=False).keys
    (tmp_path / "list.txt").write_text(f"{keys[4]}\t{keys[3]}\n{keys[5]}\t{keys[1]}\n")
    data.update(held_out=4, duplicates=str(tmp_path / "list.txt"))
    assert opening.open_or_build(data, progress=False).keys == [keys[i] for i in (1, 2, 4, 7, 8, 10, 11, 12)]


def test_planted_copies_by_hand() -> None:
    """Four copies: of 0, equal; of 2, one bit off; of 3, nearer to 2; of 3, far from all."""
    hashes, planted = np.zeros((4, 16), np.uint8), np.zeros((4, 16), np.uint8)
    hashes[2:, 0] = (0b111, 0b11111000)
    planted[1:, 0] = (0b110, 0b1111, 0b1111_0000)
    planted[3, 5] = 255
    recall, precision = dedup.find_planted(hashes, planted, np.array([0, 2, 3, 3]), 1)
    assert (recall, precision) == pytest.approx((0.5, 2 / 3))


def test_copies() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    shifted = dedup.COPIES["shifted"](image)
    np.testing.assert_array_equal(shifted[:, :3], image[:, 1:])
    np.testing.assert_array_equal(shifted[:, 3], image[:, 3])
    assert dedup.COPIES["brightened"](np.array([[[100, 0, 250]]], np.uint8)).tolist() == [[[110, 0, 255]]]
    assert dedup.COPIES["saved again"](image).shape == image.shape


def data_of(source: str) -> ConfigDict:
    data = default.get_config().data
    data.source = source
    return data


def test_copies_are_compared_with_the_images_that_they_are_made_of(folder: Path, tmp_path: Path) -> None:
    """Four of 23 are every sixth, evenly from all; images that have no thumbnail are left out."""
    data = data_of(f"folder:{folder}")
    data.update(cache_dir=str(tmp_path), image_size=8)
    keys = opening.open_or_build(data, progress=False).keys
    data.num_examples = 4
    part = opening.open_or_build(data, progress=False)
    images, numbers = dedup._planted(part, keys)
    assert numbers.tolist() == [0, 6, 12, 18] and [keys[number] for number in numbers] == part.keys
    np.testing.assert_array_equal(images, part.images)
    images, numbers = dedup._planted(part, keys[1:])
    assert numbers.tolist() == [5, 11, 17]
    np.testing.assert_array_equal(images, part.images[1:])


def test_of_a_folder(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "duplicates.txt"
    settings = semantic_hash.Settings(steps=20)
    found = dedup.measure(data_of(f"folder:{folder}"), plant=5, settings=settings, listing=listing)
    assert (found["images"], found["removed"], found["settings"]["steps"]) == (23, 3, 20)
    assert found["planted"].keys() == dedup.COPIES.keys()
    for figures in found["planted"].values():
        assert figures["count"] == 5 and 0 <= figures["recall"] <= 1
    listed = [line.split("\t") for line in listing.read_text().splitlines()]
    assert [key.rpartition("/")[2] for key, _ in listed] == ["copy_11.png", "copy_17.png", "copy_3.png"]
    assert [key.rpartition("/")[2] for _, key in listed] == ["11.png", "17.png", "03.png"]
    assert [picture.file for picture in found.pictures] == ["collisions.png"]
    assert np.asarray(found.pictures[0].content).shape[:2] == (64, 6 * 128 + 5 * 8)


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dcgan_jax.datasets.dedup", *flags], capture_output=True, text=True)


def test_command(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = run(f"--source=folder:{folder}", f"--out={out}", "--steps=20", "--plant=0")
    assert process.returncode == 0, process.stderr
    results = json.loads((out / "results.json").read_text())
    assert (results["images"], results["removed"], results["planted"]) == (23, 3, {})
    assert results["paper"] == {"images": 3_000_000, "removed": 275_000, "false_positives": 0.01}
    assert sorted(path.name for path in out.iterdir()) == ["collisions.png", "duplicates.txt", "results.json"]


def test_nothing_is_written_after_bad_input(folder: Path, tmp_path: Path) -> None:
    process = run(f"--source=folder:{folder}", f"--out={tmp_path / 'out'}", "--dropout=1")
    assert process.returncode == 2
    assert "--dropout is 1.0; it must be at least 0 and below 1." in process.stderr
    assert "Traceback" not in process.stderr and not (tmp_path / "out").exists()


def test_a_source_that_is_not_there() -> None:
    with pytest.raises(UserError, match="/nowhere does not exist"):
        dedup.measure(data_of("folder:/nowhere"))
