"""Walks through the latent space [paper section 6.1, figure 4].

    python -m dcgan_jax.analysis.latent_walk --workdir=runs/lsun

draws a chain of images between random points of z and writes a sheet, read row by row, and walk.gif. If a generator
has memorised its training images, the walk jumps from one to the next; if it has learned their space, every step
changes the image a little. The paper judges this by eye. Here it is also measured: the mean absolute change of pixels
from frame to frame, over that between unrelated samples. An even walk has a largest change near the mean one.

The paper speaks of 9 random points. The authors' published sheet is one chain of 100 frames in 10 rows, at even steps.

    python -m dcgan_jax.analysis.latent_walk --workdir=runs/faces --seeds=3,14,15 --loop --interpolation=smooth \
        --seconds=6 --fps=25 --format=mp4

is a film through three images of `dcgan_jax.sample`, without an end and without corners.
"""

import math
from collections.abc import Sequence

import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import film, image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import Run

NAME = "latent_walk"
TITLE = "Walking in the latent space (section 6.1, figure 4)"
INTERPOLATIONS = ("linear", "spherical", "smooth")
# Paper figure 4; frames of the authors' sheet images/lsun_bedrooms_five_epochs_interps.png (Newmu/dcgan_code).
POINTS, FRAMES, COLUMNS = 9, 100, 10
# Mean absolute change of neighbouring frames of that sheet, and the least and most of unrelated ones, in levels 0-255.
PAPER_MEAN_CHANGE, PAPER_UNRELATED_CHANGE = 13.3, [48, 105]
PAPER_SOURCE = "measured on the authors' published sheet, lsun_bedrooms_five_epochs_interps.png"
# Pairs of samples whose difference is that of unrelated images.
_UNRELATED_PAIRS = 256
FPS = 12.5  # of the film


def interpolate(points: np.ndarray, frames: int, interpolation: str, loop: bool = False) -> np.ndarray:
    """A chain through points, at even steps of the path's parameter.

    Args:
      points: [points, z_dim], two or more.
      frames: two or more; the first is points[0], the last is points[-1].
      interpolation: 'linear' (the paper's); 'spherical': great circles in direction, linear in length; or 'smooth':
        without corners, the cubic of Catmull and Rom ("A class of local interpolating splines", 1974), whose direction
        at a point is that from the point before to the one after; a path in [-1, 1] may swing out to 1.25.
      loop: the path returns to points[0]; the last frame is one step before it, so that the film has no double frame.

    Returns:
      [frames, z_dim].
    """
    legs = len(points) if loop else len(points) - 1
    position = np.linspace(0.0, legs, frames, endpoint=not loop)
    leg = np.minimum(position.astype(int), legs - 1)
    t = (position - leg)[:, None]
    begin, end = points[leg], points[(leg + 1) % len(points)]
    if interpolation == "linear":
        return (1.0 - t) * begin + t * end
    if interpolation == "smooth":
        first, last = (
            (points[-1:], points[:2]) if loop else (2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1])
        )
        around = np.concatenate([first, points, last])
        before, after = around[leg], around[leg + 3]
        return (
            begin
            + t / 2 * (end - before)
            + t**2 / 2 * (2 * before - 5 * begin + 4 * end - after)
            + t**3 / 2 * (3 * begin - before - 3 * end + after)
        )
    lengths = [np.linalg.norm(side, axis=1, keepdims=True) for side in (begin, end)]
    cosine = np.sum(begin * end, axis=1, keepdims=True) / (lengths[0] * lengths[1])
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    safe = np.maximum(np.sin(angle), 1e-6)  # parallel points: the weights below then tend to 1 - t and t
    near = np.sin(angle) < 1e-6
    weights = (np.where(near, 1.0 - t, np.sin((1.0 - t) * angle) / safe), np.where(near, t, np.sin(t * angle) / safe))
    direction = weights[0] * begin / lengths[0] + weights[1] * end / lengths[1]
    return direction * ((1.0 - t) * lengths[0] + t * lengths[1])


def smoothness(walk: np.ndarray, unrelated: np.ndarray) -> dict[str, float]:
    """How even a walk is.

    Args:
      walk: uint8 [frames, height, width, channels], or several of one length, [walks, frames, height, width, channels].
      unrelated: uint8 [2 * pairs, height, width, channels], independent samples.

    Returns:
      mean_change and largest_change between neighbouring frames and unrelated_change between independent samples, all
      mean absolute differences in levels 0-255; mean_ratio and largest_ratio, the first two over the third; and
      unevenness, the largest change over the mean one.
    """
    frames, samples = walk.astype(np.float64), unrelated.astype(np.float64)
    changes = np.abs(np.diff(frames, axis=-4)).mean((-3, -2, -1))
    apart = float(np.abs(samples[::2] - samples[1::2]).mean())
    mean, largest = float(changes.mean()), float(changes.max())
    return {
        "mean_change": mean,
        "largest_change": largest,
        "unrelated_change": apart,
        "mean_ratio": mean / apart if apart else math.nan,
        "largest_ratio": largest / apart if apart else math.nan,
        "unevenness": largest / mean if mean else math.nan,
    }


def measure(
    run: Run,
    *,
    points: int = POINTS,
    frames: int = FRAMES,
    interpolation: str = "linear",
    loop: bool = False,
    seed: int = 0,
    seeds: Sequence[int] = (),
    label: int | str | None = None,
    columns: int = 1,
    format: str = "gif",
    fps: float = FPS,
) -> Report:
    """Draws and measures a walk, or several side by side.

    Args:
      run: a trained run.
      points: random points that a walk goes through, two or more.
      frames: images of a whole walk, two or more.
      interpolation: 'linear' (the paper's), 'spherical' or 'smooth', see `interpolate`.
      loop: the walk returns to its first point.
      seed: of the points.
      seeds: numbers of the images of `Run.sample` that the walks go through, in place of `points`: with two columns,
        the first half is the first walk.
      label: class of all images of a conditional network; None: class 0.
      columns: walks side by side.
      format: of the film, see film.py.
      fps: frames of the film per second.

    Returns:
      The figures of `smoothness`, and the walk as a sheet and as a film.

    Raises:
      UserError: the class, the numbers or the film cannot be had.
    """
    label = run.one_label(label)
    film.check(format, fps)
    numbers = list(seeds) or list(range(columns * points))
    if len(numbers) % columns or len(numbers) < 2 * columns:
        raise UserError(f"{len(numbers)} points make no {columns} walks of one length, through two points or more.")
    z = run.noise(numbers, seed)
    points = len(numbers) // columns
    paths = [interpolate(through, frames, interpolation, loop) for through in z.reshape(columns, points, -1)]
    drawn = run.generate(np.concatenate(paths), label, "walk")
    walks = drawn.reshape(columns, frames, *drawn.shape[1:])
    unrelated = run.generate(run.noise(2 * _UNRELATED_PAIRS, seed, max(numbers) + 1), label, "unrelated samples")
    found = smoothness(np.concatenate([walks, walks[:, :1]], 1) if loop else walks, unrelated)
    figures = [
        Figure("step", run.step),
        Figure("points", points),
        Figure("frames", frames),
        Figure("interpolation", interpolation),
        Figure("loop", loop),
        Figure("seed", seed),
        Figure("seeds", numbers),
        Figure(
            "mean_change",
            found["mean_change"],
            "mean change from frame to frame (levels)",
            f"{found['mean_change']:.1f}",
            PAPER_MEAN_CHANGE,
        ),
        Figure(
            "largest_change",
            found["largest_change"],
            "largest change from frame to frame",
            f"{found['largest_change']:.1f}",
        ),
        Figure(
            "unrelated_change",
            found["unrelated_change"],
            "change between unrelated samples",
            f"{found['unrelated_change']:.1f}",
            PAPER_UNRELATED_CHANGE,
            " to ".join(map(str, PAPER_UNRELATED_CHANGE)),
        ),
        Figure("mean_ratio", found["mean_ratio"]),
        Figure("largest_ratio", found["largest_ratio"]),
        Figure("unevenness", found["unevenness"], "largest change over the mean one", f"{found['unevenness']:.2f}"),
    ]
    caption = f"{frames} frames through {points} {'chosen' if seeds else 'random'} points, row by row."
    sheets = [image_grid.make_grid(walk, COLUMNS) for walk in walks]
    pictures = [
        Picture("walk.png", image_grid.row(*sheets), caption),
        Picture(f"walk.{format}", film.encode(np.concatenate(walks, 2), format, fps), "The same as a film."),
    ]
    return Report(TITLE, figures, pictures, PAPER_SOURCE)


def main() -> None:
    frames = _FRAMES.value or FRAMES
    if _SECONDS.value is not None:
        frames = film.count_frames(_SECONDS.value, _FPS.value)
    run = _RUN.load()
    found = measure(
        run,
        points=_POINTS.value or POINTS,
        frames=frames,
        interpolation=_INTERPOLATION.value,
        loop=_LOOP.value,
        seed=_RUN.seed.value,
        seeds=_SEEDS.value or (),
        label=_RUN.label.value,
        columns=_COLUMNS.value,
        format=_FORMAT.value,
        fps=_FPS.value,
    )
    report.publish(report.folder(run.workdir, "analysis", NAME), found)


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _POINTS = flags.DEFINE_integer(
        "points", None, f"Random points that the walk goes through; default: {POINTS}.", lower_bound=2
    )
    _SEEDS = run_flags.define_seeds_flag("--points random ones")
    _FRAMES = flags.DEFINE_integer("frames", None, f"Images of the walk; default: {FRAMES}.", lower_bound=2)
    _SECONDS = flags.DEFINE_float("seconds", None, "Length of the film, in place of --frames.", lower_bound=0.0)
    _FPS = flags.DEFINE_float("fps", FPS, "Frames of the film per second.")
    _FORMAT = flags.DEFINE_enum("format", "gif", film.FORMATS, "Of the film; mp4 needs the extra 'film'.")
    _INTERPOLATION = flags.DEFINE_enum("interpolation", "linear", INTERPOLATIONS, "Path between two points.")
    _LOOP = flags.DEFINE_bool("loop", False, "The walk returns to its first point: the film has no end.")
    _COLUMNS = flags.DEFINE_integer("columns", 1, "Walks side by side.", lower_bound=1, upper_bound=16)
    flags.mark_flags_as_mutual_exclusive(["points", "seeds"])
    flags.mark_flags_as_mutual_exclusive(["frames", "seconds"])
    command_line.run(main)
