"""Walks through the latent space [paper section 6.1, figure 4].

    python -m dcgan_jax.analysis.latent_walk --workdir=runs/lsun

draws a chain of images between random points of z and writes a sheet, read row by row, and walk.gif. If a generator
has memorised its training images, the walk jumps from one to the next; if it has learned their space, every step
changes the image a little. The paper judges this by eye. Here it is also measured: the mean absolute change of pixels
from frame to frame, over that between unrelated samples. An even walk has a largest change near the mean one.

The paper speaks of 9 random points. The authors' published sheet is one chain of 100 frames in 10 rows, at even steps.
"""

import io
import math

import numpy as np
from absl import flags
from PIL import Image

from dcgan_jax import command_line
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import Run

NAME = "latent_walk"
TITLE = "Walking in the latent space (section 6.1, figure 4)"
INTERPOLATIONS = ("linear", "spherical")
# Paper figure 4; frames of the authors' sheet images/lsun_bedrooms_five_epochs_interps.png (Newmu/dcgan_code).
POINTS, FRAMES, COLUMNS = 9, 100, 10
# Mean absolute change of neighbouring frames of that sheet, and the least and most of unrelated ones, in levels 0-255.
PAPER_MEAN_CHANGE, PAPER_UNRELATED_CHANGE = 13.3, [48, 105]
PAPER_SOURCE = "measured on the authors' published sheet, lsun_bedrooms_five_epochs_interps.png"
# Pairs of samples whose difference is that of unrelated images.
_UNRELATED_PAIRS = 256
_MILLISECONDS = 80  # per frame of walk.gif


def interpolate(points: np.ndarray, frames: int, interpolation: str) -> np.ndarray:
    """A chain through points, at even steps of the path's parameter.

    Args:
      points: [points, z_dim], two or more.
      frames: two or more; the first is points[0], the last is points[-1].
      interpolation: 'linear' (the paper's), or 'spherical': great circles in direction, linear in length.

    Returns:
      [frames, z_dim].
    """
    position = np.linspace(0.0, len(points) - 1, frames)
    leg = np.minimum(position.astype(int), len(points) - 2)
    t = (position - leg)[:, None]
    begin, end = points[leg], points[leg + 1]
    if interpolation == "linear":
        return (1.0 - t) * begin + t * end
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
      walk: uint8 [frames, height, width, channels].
      unrelated: uint8 [2 * pairs, height, width, channels], independent samples.

    Returns:
      mean_change and largest_change between neighbouring frames and unrelated_change between independent samples, all
      mean absolute differences in levels 0-255; mean_ratio and largest_ratio, the first two over the third; and
      unevenness, the largest change over the mean one.
    """
    frames, samples = walk.astype(np.float64), unrelated.astype(np.float64)
    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
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
    seed: int = 0,
    label: int | str | None = None,
) -> Report:
    """Draws and measures a walk.

    Args:
      run: a trained run.
      points: random points that the walk goes through, two or more.
      frames: images of the whole walk, two or more.
      interpolation: 'linear' (the paper's) or 'spherical', see `interpolate`.
      seed: of the points.
      label: class of all images of a conditional network; None: class 0.

    Returns:
      The figures of `smoothness`, and the walk as a sheet and as a film.
    """
    label = run.one_label(label)
    path = interpolate(run.noise(points, seed), frames, interpolation)
    walk = run.generate(path, label, "walk")
    unrelated = run.generate(run.noise(2 * _UNRELATED_PAIRS, seed, points), label, "unrelated samples")
    found = smoothness(walk, unrelated)
    figures = [
        Figure("step", run.step),
        Figure("points", points),
        Figure("frames", frames),
        Figure("interpolation", interpolation),
        Figure("seed", seed),
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
    caption = f"{len(walk)} frames through {points} random points, row by row."
    pictures = [
        Picture("walk.png", image_grid.make_grid(walk, COLUMNS), caption),
        Picture("walk.gif", _gif(walk), "The same as a film."),
    ]
    return Report(TITLE, figures, pictures, PAPER_SOURCE)


def main() -> None:
    run = _RUN.load()
    found = measure(
        run,
        points=_POINTS.value,
        frames=_FRAMES.value,
        interpolation=_INTERPOLATION.value,
        seed=_RUN.seed.value,
        label=_RUN.label.value,
    )
    report.publish(report.folder(run.workdir, "analysis", NAME), found)


def _gif(images: np.ndarray) -> bytes:
    """An endless animation of uint8 images [frames, height, width, channels]."""
    frames = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)
    return buffer.getvalue()


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _POINTS = flags.DEFINE_integer("points", POINTS, "Random points that the walk goes through.", lower_bound=2)
    _FRAMES = flags.DEFINE_integer("frames", FRAMES, "Images of the walk.", lower_bound=2)
    _INTERPOLATION = flags.DEFINE_enum("interpolation", "linear", INTERPOLATIONS, "Path between two points.")
    command_line.run(main)
