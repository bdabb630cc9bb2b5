"""Duplicates of an image folder: left out of packs, counted, shown."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import default
from dcgan_jax.datasets import dedup, opening, pack, semantic_hash
from dcgan_jax.machine.errors import UserError


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
    chunk = pack._Chunk(np.zeros((2, 1, 1, 1), np.uint8), ["b", "copy"], None, {}, [])
    assert pack._without(chunk, {"copy": "original"}, set()).keys == ["b"]
    assert pack._without(chunk, {"copy": "original"}, {"original"}).keys == ["b", "copy"]


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


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dcgan_jax.datasets.dedup", *flags], capture_output=True, text=True)


def test_command(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = run(f"--source=folder:{folder}", f"--out={out}", "--steps=20", "--plant=5")
    assert process.returncode == 0, process.stderr
    results = json.loads((out / "results.json").read_text())
    assert (results["images"], results["removed"]) == (23, 3)
    assert results["planted"].keys() == dedup.COPIES.keys()
    for figures in results["planted"].values():
        assert figures["count"] == 5 and 0 <= figures["recall"] <= 1
    listed = [line.split("\t") for line in (out / "duplicates.txt").read_text().splitlines()]
    assert [key.rpartition("/")[2] for key, _ in listed] == ["copy_11.png", "copy_17.png", "copy_3.png"]
    assert [key.rpartition("/")[2] for _, key in listed] == ["11.png", "17.png", "03.png"]
    with Image.open(out / "collisions.png") as sheet:
        assert sheet.size == (6 * 128 + 5 * 8, 64)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dropout=1",), "--dropout is 1.0; it must be at least 0 and below 1."),
        (("--source=folder:/nowhere",), "/nowhere does not exist"),
    ],
)
def test_bad_input(folder: Path, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    process = run(f"--source=folder:{folder}", f"--out={tmp_path / 'out'}", *flags)
    assert process.returncode == 2
    assert message in process.stderr and "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()
