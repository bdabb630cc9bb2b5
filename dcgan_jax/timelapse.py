"""A training as a film: the same images at every checkpoint that the run has kept.

    python -m dcgan_jax.timelapse --workdir=runs/faces --out=faces.mp4
    python -m dcgan_jax.timelapse --workdir=runs/narrow,runs/wide --out=both.webp --seeds=0-8 --grid=3x3 --seconds=10

Every frame is a step, whose number is written on it; nothing is faded. Several runs stand side by side: at each step
that one of them has kept, the others show their newest checkpoint until then, and nothing before their first. A run
keeps its newest three checkpoints unless --config.keep_every says that others stay too. The sheets in its samples/
folder are from the same noise throughout as well: --sheets makes a film of them, and so does a run with fewer than two
checkpoints.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from dcgan_jax import command_line
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.reports import film, image_grid
from dcgan_jax.runs import run_flags, run_folder, trained

NUMBERS = range(16)
_SMALLEST = 256  # height and width of a run's picture, at least: a step can be read beside it


class Strip(NamedTuple):
    """A run over its training.

    Attributes:
      name: of its folder.
      steps: ascending.
      pictures: uint8 [steps, height, width, 1 or 3].
    """

    name: str
    steps: list[int]
    pictures: np.ndarray


def from_checkpoints(workdir: str | Path, numbers: Sequence[int] = NUMBERS, columns: int = 4, seed: int = 0) -> Strip:
    """The images with these numbers, see `Run.sample`, in a grid, at every checkpoint of a run.

    Raises:
      UserError: there is no run, it has no checkpoints, or one of them is damaged.
    """
    workdir = Path(workdir).expanduser()
    steps, pictures = run_folder.steps(workdir), []
    run = trained.load(workdir)
    for step in tqdm(steps, desc=workdir.name, unit="checkpoint", disable=None):
        pictures.append(image_grid.make_grid(run.at(step).sample(numbers, seed), columns))
    return Strip(workdir.absolute().name, steps, np.stack(pictures))


def from_sheets(workdir: str | Path) -> Strip:
    """The sheets of samples that a run has written while it trained.

    Raises:
      UserError: there are fewer than two, or one cannot be read or has another size than the first.
    """
    workdir = Path(workdir).expanduser()
    sheets = run_folder.sample_sheets(workdir)
    if len(sheets) < 2:
        raise UserError(f"{workdir} has kept {len(sheets)} sheets of samples; a film needs two at least.")
    pictures: list[np.ndarray] = []
    for path in sheets.values():
        with files.reading(path), Image.open(path) as opened:
            picture = np.asarray(opened)
        picture = picture.reshape(*picture.shape[:2], -1)
        if pictures and picture.shape != pictures[0].shape:
            raise UserError(f"{path} has another size than the sheets before it: move it away.")
        pictures.append(picture)
    return Strip(workdir.absolute().name, list(sheets), np.stack(pictures))


def frames(strips: Sequence[Strip]) -> np.ndarray:
    """The frames of a film, one for each step of any strip, uint8 [frames, height, width, 3].

    A strip shows its newest picture until that step, and white before its first, under the picture's own step and,
    where there are several strips, its name.
    """
    steps = sorted({step for strip in strips for step in strip.steps})
    columns = []
    for strip in strips:
        newest = np.searchsorted(strip.steps, steps, side="right") - 1
        scale = max(1, -(-_SMALLEST // min(strip.pictures.shape[1:3])))
        pictures = strip.pictures.repeat(scale, 1).repeat(scale, 2).repeat(3 // strip.pictures.shape[3], 3)
        shown = np.where((newest < 0)[:, None, None, None], np.uint8(255), pictures[newest])
        name = f"{strip.name}  " if len(strips) > 1 else ""
        texts = [f"{name}step {strip.steps[i]:,}" if i >= 0 else name for i in newest]
        columns.append(image_grid.caption(shown, texts))
    return np.stack([image_grid.row(*blocks) for blocks in zip(*columns, strict=True)])


def _open(workdir: Path, numbers: Sequence[int], columns: int) -> Strip:
    """From the checkpoints; from the sheets where these were asked for or are all there is."""
    run_folder.load_config(workdir)  # raises UserError if it is no run
    kept, sheets = len(run_folder.steps(workdir)), len(run_folder.sample_sheets(workdir))
    if kept < 2 and not _SHEETS.value:
        print(f"{workdir} has kept {kept} checkpoints: the film shows the {sheets} sheets of its samples/ folder.")
    elif kept < sheets and not _SHEETS.value:
        print(f"{workdir} has kept {kept} checkpoints and {sheets} sheets: --sheets makes a film of those.")
    if kept >= 2 and not _SHEETS.value:
        return from_checkpoints(workdir, numbers, columns, _SEED.value)
    if _SEEDS.value or _GRID.value:
        raise UserError(
            "--seeds and --grid choose images at checkpoints; sheets are shown as they are. Leave them out."
        )
    return from_sheets(workdir)


def main() -> None:
    out, fps = Path(_OUT.value), _FPS.value
    format = out.suffix[1:].lower()
    film.check(format, fps)
    count = None if _SECONDS.value is None else film.count_frames(_SECONDS.value, fps)
    columns, rows = _GRID.value or (0, 0)
    numbers = _SEEDS.value or (range(columns * rows) if columns else NUMBERS)
    if columns and len(numbers) > columns * rows:
        raise UserError(f"--grid={columns}x{rows} has no room for {len(numbers)} images: give a larger one.")
    files.make_writable(out.absolute().parent, "--out")
    columns = columns or math.isqrt(len(numbers) - 1) + 1
    strips = [_open(Path(workdir).expanduser(), numbers, columns) for workdir in _WORKDIRS.value.split(",")]
    shown = frames(strips)
    steps = len(shown)
    if count:
        shown = shown[np.arange(count) * steps // count]
    content = film.encode(shown, format, fps)
    files.write_atomically(out, content)
    print(f"{steps} steps in {len(shown) / fps:.1f} s, {len(content) / 1000:,.0f} kB: {out}")


if __name__ == "__main__":
    _WORKDIRS = command_line.define_path(
        "workdir", None, "Folder of a run; several, with commas, stand side by side.", required=True
    )
    _OUT = command_line.define_path("out", None, "The film: .gif, .webp, or .mp4 (extra 'film').", required=True)
    _SEEDS = run_flags.define_seeds_flag("0-15, or as many as --grid has")
    _SEED = flags.DEFINE_integer("seed", 0, "Image i is a function of (seed, i).", lower_bound=0, upper_bound=2**32 - 1)
    _GRID = command_line.define_grid("grid", "Columns and rows of a run's images, such as 4x4; default: a square.")
    _SHEETS = flags.DEFINE_bool("sheets", False, "Show the sheets that training wrote, not the checkpoints.")
    _FPS = flags.DEFINE_float("fps", 4.0, "Frames per second; without --seconds that is steps per second.")
    _SECONDS = flags.DEFINE_float("seconds", None, "Length of the film, whose steps last equally long.")
    command_line.run(main)
