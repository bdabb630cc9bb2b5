"""Latent walks: the path, the figures by hand, and the command on a trained run."""

import contextlib
import io
import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from dcgan_jax.analysis import latent_walk
from dcgan_jax.analysis.latent_walk import interpolate, smoothness
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_spaces
from dcgan_jax.runs import trained
from dcgan_jax.runs.trained import Run
from tests import tiny
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


def test_smooth_path_by_hand() -> None:
    """Catmull-Rom at t = 1/2 is (-p0 + 9 p1 + 9 p2 - p3) / 16, at t = 1/4 (-9 p0 + 111 p1 + 29 p2 - 3 p3) / 128.

    Beyond the ends of 0, 4, 0, 8 lie -4 and 16.
    """
    path = interpolate(np.array([[0.0], [4.0], [0.0], [8.0]]), 13, "smooth")[:, 0]
    np.testing.assert_allclose(path[::4], [0, 4, 0, 8], atol=1e-12)
    middles = [(4 + 36 - 0) / 16, (-0 + 36 + 0 - 8) / 16, (-4 + 0 + 72 - 16) / 16]
    np.testing.assert_allclose(path[2::4], middles)
    quarters = [(36 + 0 + 116 - 0) / 128, (0 + 444 + 0 - 24) / 128, (-36 + 0 + 232 - 48) / 128]
    np.testing.assert_allclose(path[1::4], quarters)


def test_smooth_path_through_two_points_is_straight() -> None:
    path = interpolate(np.array([[0.0, 2.0], [4.0, 0.0]]), 5, "smooth")
    np.testing.assert_allclose(path, np.array([[0, 2], [1, 1.5], [2, 1], [3, 0.5], [4, 0]]))


def test_smooth_loop_by_hand() -> None:
    """0, 4, 8 and 0 again: before 0 comes 8, after 8 come 0 and 4."""
    path = interpolate(np.array([[0.0], [4.0], [8.0]]), 6, "smooth", loop=True)[:, 0]
    middles = [(-8 + 0 + 36 - 8) / 16, (-0 + 36 + 72 - 0) / 16, (-4 + 72 + 0 - 4) / 16]
    np.testing.assert_allclose(path[::2], [0, 4, 8])
    np.testing.assert_allclose(path[1::2], middles)


def test_linear_loop_by_hand() -> None:
    """The next step would be the first frame again."""
    points = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 4.0]])
    path = interpolate(points, 6, "linear", loop=True)
    np.testing.assert_allclose(path, [[0, 0], [1, 0], [2, 0], [2, 2], [2, 4], [1, 2]])


@pytest.mark.parametrize("interpolation", latent_walk.INTERPOLATIONS)
def test_a_loop_has_no_seam(interpolation: str) -> None:
    """Begun at another point, it is the same loop; no frame comes twice."""
    points = np.random.default_rng(0).normal(size=(4, 3))
    path = interpolate(points, 20, interpolation, loop=True)
    np.testing.assert_allclose(path[::5], points)
    shifted = interpolate(np.roll(points, -1, 0), 20, interpolation, loop=True)
    np.testing.assert_allclose(shifted, np.roll(path, -5, 0), atol=1e-12)
    assert np.linalg.norm(path - np.roll(path, -1, 0), axis=1).min() > 0.01


def test_smoothness_by_hand() -> None:
    walk = np.array([0, 10, 40, 50], np.uint8).reshape(4, 1, 1, 1)
    unrelated = np.array([0, 100, 200, 100], np.uint8).reshape(4, 1, 1, 1)
    figures = smoothness(walk, unrelated)
    assert figures["mean_change"] == pytest.approx((10 + 30 + 10) / 3)
    assert (figures["largest_change"], figures["unrelated_change"]) == (30.0, 100.0)
    assert figures["mean_ratio"] == pytest.approx(50 / 300)
    assert figures["largest_ratio"] == pytest.approx(0.3)
    assert figures["unevenness"] == pytest.approx(1.8)


def test_path_length_by_hand() -> None:
    """Steps of 1 and 2 in a thousandth of a leg; pairs of samples at squared distances of 100 and 0."""
    walk, unrelated = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [10.0], [5.0], [5.0]])
    found = latent_walk.path_length(walk, unrelated)
    assert found["path_length"] == pytest.approx((1e6 + 4e6) / 2) and found["unrelated_distance"] == 50
    assert found["relative_path_length"] == pytest.approx(5e4)
    assert found["fast_share"] == pytest.approx(2 / 3)  # one step of two
    assert found["speed_ratio"] == pytest.approx(1990 / 1500)  # the 99th percentile of 1000 and 2000 is 1990
    apart = latent_walk.path_length(np.array([[[0.0], [1.0]], [[10.0], [12.0]]]), unrelated)
    assert apart["path_length"] == pytest.approx((1e6 + 4e6) / 2)  # from 1 to 10 is no step of the two walks
    still = latent_walk.path_length(np.zeros((3, 1)), np.zeros((2, 1)))
    assert math.isnan(still["speed_ratio"]) and math.isnan(still["relative_path_length"])


class SteepGenerator:
    """Stands for a generator: grey images of 8 x 8 pixels, tanh(steep * (z @ matrix)); a large `steep` gives jumps."""

    output, z_dim = "tanh", 3

    def __init__(self, steep: float) -> None:
        self.steep = steep
        self.dtypes: list[Any] = []

    def copy(self, dtype: Any) -> "SteepGenerator":
        self.dtypes.append(dtype)
        return self

    def apply(self, variables: Any, z: jax.Array, labels: Any, *, train: bool) -> tuple[jax.Array, dict]:
        assert not train and labels is None
        return jnp.tanh(self.steep * (z @ variables)).reshape(-1, 8, 8, 1) / min(self.steep, 1), {}


def fine_features(steep: float, points: np.ndarray, loop: bool = False, one_pixel: bool = False) -> np.ndarray:
    """`one_pixel`: all pixels are equal."""
    columns = np.random.default_rng(0).uniform(-0.3, 0.3, (3, 64))
    matrix = jnp.asarray(columns[:, [0]].repeat(64, 1) if one_pixel else columns, jnp.float32)
    run = SimpleNamespace(
        generator=SteepGenerator(steep),
        variables=matrix,
        gan=SimpleNamespace(multiplying=contextlib.nullcontext),
        sampler=SimpleNamespace(labels=lambda first, count, label: None),
    )
    space = feature_spaces.of_pixels()
    found = latent_walk._fine_features(cast(Run, run), space, points, "linear", loop, None)
    assert run.generator.dtypes == [jnp.float32]  # whatever the run's precision
    return found


@pytest.mark.parametrize("loop", [False, True])
def test_the_path_length_of_an_even_walk(loop: bool) -> None:
    """Where images are linear in z, a leg is as long as its ends are apart, and its speed is the same all along."""
    points = np.random.default_rng(1).uniform(-1, 1, (2, 3)).astype(np.float32)
    features = fine_features(1e-3, points, loop)
    legs = 2 if loop else 1
    assert features.shape == (1000 * legs + 1, 64)
    whole = np.square(features[1000].astype(float) - features[0]).sum()
    found = latent_walk.path_length(features, features[[0, 1000]])
    assert found["path_length"] == pytest.approx(whole, rel=1e-3)
    assert found["relative_path_length"] == pytest.approx(1, rel=1e-3)
    assert found["speed_ratio"] == pytest.approx(1, abs=0.05) and found["fast_share"] == pytest.approx(0.01, abs=1e-3)
    np.testing.assert_allclose(features[-1], features[0 if loop else 1000])


def test_a_walk_that_jumps_has_a_large_speed_ratio() -> None:
    """A generator that knows two images glides from one to the other, or jumps where it is steeper still."""
    points = np.random.default_rng(1).uniform(-1, 1, (2, 3)).astype(np.float32)
    points[1] = -points[0]  # the jump is in the middle
    even, glide = (latent_walk.path_length(fine_features(s, points, one_pixel=True), np.eye(2)) for s in (1e-3, 100.0))
    assert glide["speed_ratio"] > 10 and glide["path_length"] > 100 * even["path_length"]
    jump = latent_walk.path_length(fine_features(1e6, points, one_pixel=True), np.eye(2))
    assert math.isnan(jump["speed_ratio"]) and jump["fast_share"] == pytest.approx(1)
    assert jump["path_length"] > 100 * glide["path_length"]


def write_images(folder: Path, images: np.ndarray) -> str:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return f"folder:{folder}"


def test_nearest_training_images(trained_run: Path, tmp_path: Path) -> None:
    """All distances, shares and pictures are found again by comparing every pair; the data has no labels."""
    run = trained.load(trained_run)
    others = tiny.images(20, seed=5)
    report = latent_walk.measure(
        run, points=3, frames=20, memorization=True, held_out_source=write_images(tmp_path / "others", others)
    )
    plain = latent_walk.measure(run, points=3, frames=20)
    assert report["feature_space"]["features"] == "pixels" and plain["mean_change"] == report["mean_change"]
    assert "speed_ratio" not in plain.values() and len(plain.pictures) == 2

    training = np.asarray(opening.open_or_build(run.config.data).images)
    frames = run.generate(interpolate(run.noise(3), 20, "linear"))
    samples = run.generate(run.noise(512, 0, 3))

    def apart(images: np.ndarray) -> np.ndarray:
        """Of each image to each training image, in pixels from 0 to 1: 8 x 8 means of one pixel each."""
        rows = [images.reshape(len(images), 1, -1) / 255, training.reshape(1, len(training), -1) / 255]
        return np.sqrt(np.square(rows[0] - rows[1]).sum(-1))

    nearest = {"walk": apart(frames).min(1), "samples": apart(samples).min(1), "held_out": apart(others).min(1)}
    for name, distances in nearest.items():
        assert report[f"{name}_nearest"] == pytest.approx(distances.mean(), rel=1e-4)
    limit = np.quantile(nearest["held_out"], 0.05)
    assert report["walk_memorized"] == (nearest["walk"] <= limit).mean()
    assert report["samples_memorized"] == (nearest["samples"] <= limit).mean()
    pairs = samples.reshape(256, 2, -1) / 255
    assert report["unrelated_distance"] == pytest.approx(np.square(pairs[:, 0] - pairs[:, 1]).sum(1).mean(), rel=1e-4)
    ratio = report["path_length"] / report["unrelated_distance"]
    assert report["relative_path_length"] == pytest.approx(ratio) and report["speed_ratio"] >= 1

    picture = report.pictures[-1]
    shown = np.linspace(0, 19, 10).round().astype(int)
    assert picture.file == "nearest.png" and np.asarray(picture.content).shape == (16, 80, 3)
    for column, i in enumerate(shown):
        cells = np.asarray(picture.content)[:, 8 * column : 8 * column + 8]
        np.testing.assert_array_equal(cells[:8], frames[i])
        np.testing.assert_array_equal(cells[8:], training[apart(frames[i : i + 1])[0].argmin()])


def test_nearest_training_images_without_held_out_ones(trained_run: Path) -> None:
    report = latent_walk.measure(trained.load(trained_run), points=2, frames=4, memorization=True)
    assert "held_out_nearest" not in report.values() and "walk_memorized" not in report.values()
    assert report["walk_nearest"] > 0 and "--held_out_split" in report.table()


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


def test_smoothness_of_several_walks() -> None:
    """From 10 to 40 is no step of the walks 0, 10 and 40, 50."""
    walks = np.array([[0, 10], [40, 50]], np.uint8).reshape(2, 2, 1, 1, 1)
    figures = smoothness(walks, np.array([0, 100], np.uint8).reshape(2, 1, 1, 1))
    assert (figures["mean_change"], figures["largest_change"]) == (10.0, 10.0)


def test_walks_through_chosen_images(trained_run: Path) -> None:
    """Two loops side by side; frame 0 shows the first point of each, frame 2 of 4 the second."""
    run = trained.load(trained_run)
    report = latent_walk.measure(run, seeds=[3, 14, 15, 9], frames=4, loop=True, columns=2, format="webp", fps=10)
    assert (report["points"], report["frames"], report["loop"], report["seeds"]) == (2, 4, True, [3, 14, 15, 9])
    sheet, film = report.pictures
    images = run.sample([3, 14, 15, 9])
    assert isinstance(sheet.content, np.ndarray) and isinstance(film.content, bytes)
    assert sheet.content.shape == (8, 168, 3)  # two rows of ten, eight pixels between them
    np.testing.assert_array_equal(sheet.content[:, :8], images[0])
    np.testing.assert_array_equal(sheet.content[:, 16:24], images[1])
    np.testing.assert_array_equal(sheet.content[:, 88:96], images[2])
    np.testing.assert_array_equal(sheet.content[:, 104:112], images[3])
    unrelated = run.sample(range(16, 16 + 512))  # none of the points
    assert report["unrelated_change"] == smoothness(unrelated, unrelated)["unrelated_change"]
    assert film.file == "walk.webp"
    with Image.open(io.BytesIO(film.content)) as opened:
        assert opened.size == (16, 8)
    closed = latent_walk.measure(run, seeds=[3, 14, 3], frames=5)
    looped = latent_walk.measure(run, seeds=[3, 14], frames=4, loop=True)
    assert closed["mean_change"] == looped["mean_change"]  # the way back to the first frame counts


def test_a_film_of_seconds(trained_run: Path, tmp_path: Path) -> None:
    """12 frames of an eighth; Pillow joins frames that are the same."""
    shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("analysis"))
    flags = ("--seeds=1,5-6", "--loop", "--interpolation=smooth", "--seconds=1.5", "--fps=8")
    process = analyse("latent_walk", tmp_path / "run", *flags)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "run" / "analysis" / "latent_walk" / "results.json").read_text())
    assert (results["frames"], results["points"], results["seeds"]) == (12, 3, [1, 5, 6])
    with Image.open(tmp_path / "run" / "analysis" / "latent_walk" / "walk.gif") as film:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)) == 1500


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": [1]}, "1 points make no 1 walks of one length"),
        ({"seeds": [1, 2, 3], "columns": 2}, "3 points make no 2 walks"),
        ({"held_out_split": "test"}, "have no effect without --memorization"),
        ({"memorization": True, "held_out_source": "folder:/nowhere"}, "/nowhere"),
        ({"format": "avi"}, "cannot have the format 'avi'"),
        ({"fps": 70.0}, "a gif film cannot have 70 frames per second: choose 0.1 to 50"),
    ],
)
def test_walks_that_cannot_be_had(settings: dict[str, Any], message: str, trained_run: Path) -> None:
    with pytest.raises(UserError, match=message):
        latent_walk.measure(trained.load(trained_run), **settings)


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
