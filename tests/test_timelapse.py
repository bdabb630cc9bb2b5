"""Films of trainings: which picture stands where, and the command on kept checkpoints and on sheets."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from dcgan_jax import timelapse
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import checkpoint, run_folder, trained
from dcgan_jax.timelapse import Strip
from tests import tiny


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 5 and 10, whose projections differ, and one sheet."""
    workdir = tmp_path_factory.mktemp("timelapse") / "run"
    run_folder.record(workdir, tiny.config(), {})
    state = tiny.fresh_state(tiny.config())
    with checkpoint.Checkpoints(workdir, keep_latest=2) as checkpoints:
        for step, scale in ((5, 0.0), (10, 50.0)):
            projection = {"kernel": state.generator.params["projection"]["kernel"] * scale}
            params = {**state.generator.params, "projection": projection}
            generator = state.generator.replace(params=params)
            checkpoints.save(state.replace(step=jnp.int32(step), generator=generator))
    image_grid.save_png(run_folder.sample_sheet(workdir, 5), np.zeros((8, 8, 3), np.uint8))
    return workdir


def make(out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dcgan_jax.timelapse", f"--out={out}", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300)


def levels(values: list[int], size: int = 256, channels: int = 3) -> np.ndarray:
    return np.stack([np.full((size, size, channels), value, np.uint8) for value in values])


def test_a_frame_for_every_step_of_any_run() -> None:
    """The second run begins at step 3 and is still at 7 when the first one is at 9. One is grey, and enlarged."""
    strips = [Strip("a", [1, 3, 9], levels([10, 30, 90])), Strip("b", [3, 7], levels([33, 77], 64, 1))]
    frames = timelapse.frames(strips)
    assert len(frames) == 4 and frames.shape[2:] == (256 + 8 + 256, 3)
    texts = ["a  step 1", "a  step 3", "a  step 3", "a  step 9"]
    np.testing.assert_array_equal(frames[:, :, :256], image_grid.caption(levels([10, 30, 30, 90]), texts))
    texts = ["b  ", "b  step 3", "b  step 7", "b  step 7"]
    np.testing.assert_array_equal(frames[:, :, 264:], image_grid.caption(levels([255, 33, 77, 77]), texts))


def test_one_run_has_no_name_on_it() -> None:
    one, other = (timelapse.frames([Strip(name, [1000], levels([7]))]) for name in ("a", "b"))
    np.testing.assert_array_equal(one, other)
    expected = image_grid.caption(levels([7]), ["step 1,000"])
    np.testing.assert_array_equal(one, expected)


def test_checkpoints_are_drawn_from_the_same_noise(kept: Path) -> None:
    strip = timelapse.from_checkpoints(kept, [4, 0, 9], columns=2)
    assert (strip.name, strip.steps, strip.pictures.shape) == ("run", [5, 10], (2, 16, 16, 3))
    for step, picture in zip(strip.steps, strip.pictures, strict=True):
        images = trained.load(kept, step).sample(10)
        np.testing.assert_array_equal(picture, image_grid.make_grid(images[[4, 0, 9]], 2))
    assert not np.array_equal(*strip.pictures)
    with pytest.raises(UserError, match="has kept 1 sheets of samples; a film needs two at least"):
        timelapse.from_sheets(kept)


def test_the_command(kept: Path, tmp_path: Path) -> None:
    """Half a second at 8 frames per second are four frames, two of each step."""
    flags = (f"--workdir={kept}", "--seeds=3,1", "--seconds=0.5", "--fps=8")
    process = make(tmp_path / "film.gif", *flags)
    assert process.returncode == 0, process.stderr
    assert "2 steps in 0.5 s" in process.stdout
    expected = timelapse.frames([timelapse.from_checkpoints(kept, [3, 1], 2)])
    with Image.open(tmp_path / "film.gif") as film:
        found = [
            (frame.info["duration"], np.asarray(frame.convert("RGB"), int)) for frame in ImageSequence.Iterator(film)
        ]
    assert [milliseconds for milliseconds, _ in found] == [250, 250]  # Pillow joins frames that are the same
    for (_, shown), frame in zip(found, expected, strict=True):
        assert np.abs(shown - frame).mean() < 5
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]


def test_sheets_where_no_checkpoints_are_kept(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    run_folder.record(workdir, tiny.config(), {})
    for step, level in ((500, 20), (1000, 200)):
        image_grid.save_png(run_folder.sample_sheet(workdir, step), levels([level], 16)[0])
    (workdir / "samples" / "step_best.png").write_bytes(b"")
    process = make(tmp_path / "film.webp", f"--workdir={workdir}")
    assert process.returncode == 0, process.stderr
    assert "has kept 0 checkpoints: the film shows the 2 sheets of its samples/ folder" in process.stdout
    strip = timelapse.from_sheets(workdir)
    assert strip.steps == [500, 1000] and [int(picture.mean()) for picture in strip.pictures] == [20, 200]
    with Image.open(tmp_path / "film.webp") as film:
        shown = [np.asarray(frame.convert("RGB"))[-200:].mean() for frame in ImageSequence.Iterator(film)]
    assert shown == pytest.approx([20, 200], abs=2)
    image_grid.save_png(run_folder.sample_sheet(workdir, 1500), levels([0], 8)[0])
    with pytest.raises(UserError, match=r"step_00001500.png has another size than the sheets before it"):
        timelapse.from_sheets(workdir)


@pytest.mark.parametrize(
    ("out", "flags", "message"),
    [
        ("film.avi", [], "cannot have the format 'avi': choose from gif, webp, mp4"),
        ("film.gif", ["--grid=2x2", "--seeds=0-4"], "--grid=2x2 has no room for 5 images"),
        ("film.gif", ["--sheets", "--seeds=0-4"], "sheets are shown as they are"),
    ],
)
def test_the_command_refuses(out: str, flags: list[str], message: str, kept: Path, tmp_path: Path) -> None:
    process = make(tmp_path / out, f"--workdir={kept}", *flags)
    assert process.returncode == 2
    assert message in process.stderr and "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())
