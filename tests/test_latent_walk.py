"""Latent walks: the path, the figures by hand, and the command on a trained run."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import latent_walk
from dcgan_jax.analysis.latent_walk import interpolate, smoothness
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import trained
from tests.trained import analyse


def test_linear_path_by_hand() -> None:
    points = np.array([[0.0, 0.0], [2.0, 4.0], [2.0, 0.0]])
    path = interpolate(points, 5, "linear")
    np.testing.assert_allclose(path, [[0, 0], [1, 2], [2, 4], [2, 2], [2, 0]])


def test_spherical_path_by_hand() -> None:
    """A quarter of a circle in thirds: 0, 30, 60, 90 degrees; lengths grow evenly from 1 to 4."""
    path = interpolate(np.array([[1.0, 0.0], [0.0, 4.0]]), 4, "spherical")
    angles = [math.degrees(math.atan2(y, x)) for x, y in path]
    np.testing.assert_allclose(angles, [0, 30, 60, 90], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), [1, 2, 3, 4])


def test_spherical_path_between_parallel_points_is_straight() -> None:
    path = interpolate(np.array([[1.0, 1.0], [3.0, 3.0]]), 3, "spherical")
    np.testing.assert_allclose(path, [[1, 1], [2, 2], [3, 3]])


def test_smoothness_by_hand() -> None:
    walk = np.array([0, 10, 40, 50], np.uint8).reshape(4, 1, 1, 1)
    unrelated = np.array([0, 100, 200, 100], np.uint8).reshape(4, 1, 1, 1)
    figures = smoothness(walk, unrelated)
    assert figures["mean_change"] == pytest.approx((10 + 30 + 10) / 3)
    assert (figures["largest_change"], figures["unrelated_change"]) == (30.0, 100.0)
    assert figures["mean_ratio"] == pytest.approx(50 / 300)
    assert figures["largest_ratio"] == pytest.approx(0.3)
    assert figures["unevenness"] == pytest.approx(1.8)


def test_the_command_and_the_function_give_the_same(trained_run: Path, tmp_path: Path) -> None:
    flags = ("--points=3", "--frames=20")
    process = analyse("latent_walk", trained_run, *flags)
    assert process.returncode == 0, process.stderr
    out = trained_run / "analysis" / "latent_walk"
    results = json.loads((out / "results.json").read_text())
    assert (results["step"], results["points"], results["frames"]) == (1, 3, 20)
    assert results["largest_change"] >= results["mean_change"] > 0
    assert results["paper"]["mean_change"] == 13.3
    assert results["command"] == f"python -m dcgan_jax.analysis.latent_walk --workdir={trained_run} {' '.join(flags)}"
    assert "mean change from frame to frame" in process.stdout
    with Image.open(out / "walk.png") as sheet, Image.open(out / "walk.gif") as film:
        assert sheet.size == (80, 16)
        assert film.size == (8, 8)
    again = latent_walk.measure(trained.load(trained_run), points=3, frames=20)
    again.save(tmp_path / "walk")
    assert {name: results[name] for name in again.values()} == again.values()
    assert again["mean_change"] == results["mean_change"]
    for name in ("walk.png", "walk.gif"):
        assert (tmp_path / "walk" / name).read_bytes() == (out / name).read_bytes()


def test_bad_input(trained_run: Path) -> None:
    with pytest.raises(UserError, match=r"--label=1 is not one of the run's classes \(none"):
        latent_walk.measure(trained.load(trained_run), label=1)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    process = analyse("latent_walk", tmp_path)
    assert process.returncode == 2
    assert "is not a run's folder" in process.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("name", ["_METADATA", "largest"])
def test_a_truncated_checkpoint(trained_run: Path, tmp_path: Path, name: str, checksums: bool) -> None:
    """Checksums tell; where there are none, as in checkpoints of other programs, reading it does."""
    shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("analysis"))
    files = [file for file in (tmp_path / "run" / "checkpoints").rglob("*") if file.is_file()]
    file = max(files, key=lambda file: file.stat().st_size)
    if name == "_METADATA":
        file = next(file for file in files if file.name == name)
    os.truncate(file, file.stat().st_size // 2)
    message = r"all checkpoints in .* are damaged"
    if not checksums:
        next(file for file in files if file.name == "SHA256SUMS").unlink()
        message = r"checkpoints/1 cannot be read, it may be damaged .* Move that folder away"
    with pytest.raises(UserError, match=message):
        trained.load(tmp_path / "run")
