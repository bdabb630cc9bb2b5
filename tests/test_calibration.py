"""Damages by hand, and the command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dcgan_jax.evaluation import calibration
from tests import tiny


def test_damages() -> None:
    images = tiny.images(100)
    blur, noise, few = (calibration.DAMAGES[name][0] for name in ("blur", "noise", "few"))
    flat = np.full((2, 8, 8, 3), 7, np.uint8)
    np.testing.assert_array_equal(blur(flat, 4.0), flat)
    assert blur(images, 1.0).std() < blur(images, 0.5).std() < images.std()
    grey = np.full((50, 8, 8, 3), 128, np.uint8)
    assert abs(noise(grey, 16.0).std() - 16) < 0.5
    assert len(np.unique(few(images, 10), axis=0)) == 10 and len(few(images, 10)) == 100
    assert len(np.unique(few(images, 1), axis=0)) == 1


def test_rises() -> None:
    assert calibration.rises([1, 2, 3]) and not calibration.rises([1, 3, 2]) and not calibration.rises([1, 1])


def calibrate(folder: Path, held_out: str) -> subprocess.CompletedProcess[str]:
    source = tiny.image_folder(folder / "images")
    file = tiny.write_config(folder, {"data.source": source})
    command = [sys.executable, "-m", "dcgan_jax.evaluation.calibration", f"--config={file}", f"--out={folder / 'out'}"]
    return subprocess.run(
        [*command, f"--held_out_source={held_out}", "--held_out_split="], capture_output=True, text=True
    )


def test_command(tmp_path: Path) -> None:
    others = tmp_path / "others"
    tiny.image_folder(others)
    process = calibrate(tmp_path, f"folder:{others}")
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    found = results["pixels"]
    assert found["undamaged"]["pixels_frechet"] < 1e-4  # the same images
    assert [row["strength"] for row in found["blur"]] == [0.5, 1, 2, 4]
    assert found["few"][-1]["pixels_coverage"] < found["few"][0]["pixels_coverage"] < 1
    assert (tmp_path / "out" / "damages.png").exists()


def test_the_images_of_training(tmp_path: Path) -> None:
    process = calibrate(tmp_path, "")
    assert process.returncode == 2
    assert "the held-out images are those of training" in process.stderr
