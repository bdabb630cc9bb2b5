"""Damages by hand, on the data of a config and as a command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.evaluation import calibration
from dcgan_jax.machine.errors import UserError
from tests import tiny


def test_damages() -> None:
    images = tiny.images(100)
    blur, noise, few = (calibration.DAMAGES[name][0] for name in ("blur", "noise", "few"))
    flat = np.full((2, 8, 8, 3), 7, np.uint8)
    np.testing.assert_array_equal(blur(flat, 4.0), flat)
    assert abs(blur(images, 1.0).mean() - images.mean()) < 0.2  # rounded, not cut off
    assert blur(images, 1.0).std() < blur(images, 0.5).std() < images.std()
    grey = np.full((50, 8, 8, 3), 128, np.uint8)
    assert abs(noise(grey, 16.0).std() - 16) < 0.5
    assert len(np.unique(few(images, 10), axis=0)) == 10 and len(few(images, 10)) == 100
    assert len(np.unique(few(images, 1), axis=0)) == 1


def test_rises() -> None:
    assert calibration.rises([1, 2, 3]) and not calibration.rises([1, 3, 2]) and not calibration.rises([1, 1])


def test_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out images that are those of training, in another order, have no distance to them."""
    monkeypatch.setattr(ImageDataset, "has_images_of", lambda *_: False)  # they are refused otherwise
    config = tiny.config({"data.source": tiny.image_folder(tmp_path / "images")})
    others = tiny.image_folder(tmp_path / "others", classes=2)
    found = calibration.measure(config, held_out_source=others, held_out_split="")
    assert found["images"] == 32
    of_pixels = found["pixels"]
    assert of_pixels["undamaged"]["pixels_frechet"] < 1e-4
    assert [row["strength"] for row in of_pixels["blur"]] == [0.5, 1, 2, 4]
    assert of_pixels["few"][-1]["pixels_coverage"] < of_pixels["few"][0]["pixels_coverage"] < 1
    assert [row["what"] for row in found.rows()] == [
        "pixels_frechet, undamaged, blur 0.5, 1, 2, 4",
        "pixels_frechet, undamaged, noise 8, 16, 32, 64",
        "pixels_frechet, undamaged, few 10, 1",
    ]


def test_counts_scatter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of images counts only where half of them are left."""
    monkeypatch.setattr(calibration, "_COUNTS", (12, 20))
    config = tiny.config({"data.source": tiny.image_folder(tmp_path / "images")})
    others = tiny.image_folder(tmp_path / "others", seed=1)
    found = calibration.measure(config, held_out_source=others, held_out_split="")
    (scatter,) = found["pixels"]["counts"]
    mean, std = scatter["pixels_frechet"]
    assert scatter["count"] == 12 and mean > std > 0
    assert found.rows()[-1]["what"] == "pixels_frechet, 12 undamaged images"


def test_the_images_of_training(tmp_path: Path) -> None:
    config = tiny.config({"data.source": tiny.image_folder(tmp_path / "images")})
    with pytest.raises(UserError, match="the held-out images are those of training"):
        calibration.measure(config, held_out_split="")
    copy = tiny.image_folder(tmp_path / "copy")
    with pytest.raises(UserError, match="the held-out images are those of training"):
        calibration.measure(config, held_out_source=copy, held_out_split="")
    config.data.num_examples = 10  # of the 32, which are all opened to test on: fewer than half of them
    with pytest.raises(UserError, match="the held-out images are those of training"):
        calibration.measure(config, held_out_source=config.data.source, held_out_split="")


def test_command(tmp_path: Path) -> None:
    file = tiny.write_config(tmp_path, {"data.source": tiny.image_folder(tmp_path / "images")})
    others = tiny.image_folder(tmp_path / "others", seed=1)
    command = [sys.executable, "-m", "dcgan_jax.evaluation.calibration", f"--config={file}"]
    command += [f"--out={tmp_path / 'out'}", f"--held_out_source={others}", "--held_out_split="]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["images"] == 32
    assert (tmp_path / "out" / "damages.png").exists()
