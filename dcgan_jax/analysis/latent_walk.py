"""Walks through the latent space [paper section 6.1, figure 4].

    python -m dcgan_jax.analysis.latent_walk --workdir=runs/lsun

draws a chain of images between random points of z and writes a sheet, read row by row, and walk.gif. If a generator
has memorised its training images, the walk jumps from one to the next; if it has learned their space, every step
changes the image a little. The paper judges this by eye. Here it is also measured: the mean absolute change of pixels
from frame to frame, over that between unrelated samples. An even walk has a largest change near the mean one.

A hundred frames are too coarse a grid to see a jump: any continuous generator has a largest change of about twice the
mean one there. --memorization walks the same path once more, in 1,000 steps a leg (from point to point), draws images
that are not rounded to levels, and measures them in the features of a network trained on the data's own labels or
attributes; of data without any, in averages of pixels (feature_spaces.py):

    path length    mean of squared distance over squared step, a leg being 1 long [the perceptual path length of Karras
                   et al. 2019, whose step is 1e-4 at random places; here the steps follow each other, so that no jump
                   lies between two of them], over the mean squared distance of unrelated samples
    speed ratio    99th percentile of the distance from step to step over the median: of an even walk 1, of one that
                   rests on images and glides from one to the next very large
    fast share     share of the way that is made in the fastest hundredth of the steps: of an even walk 0.01, of one
                   that jumps near 1, also where a jump is a single step and the median is 0
    nearest        distance of the frames to their nearest training images, beside that of independent samples and, with
                   --held_out_split, of images that were not trained on. Points between two random ones have a shorter z
                   than the prior, so that frames may be nearer to the data's mean, and to its images, than samples are

nearest.png shows frames above their nearest training images.

The paper speaks of 9 random points. The authors' published sheet is one chain of 100 frames in 10 rows, at even steps.

    python -m dcgan_jax.analysis.latent_walk --workdir=runs/faces --seeds=3,14,15 --loop --interpolation=smooth \
        --seconds=6 --fps=25 --format=mp4

is a film through three images of `dcgan_jax.sample`, without an end and without corners.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_spaces
from dcgan_jax.metrics.feature_spaces import FeatureSpace
from dcgan_jax.metrics.memorization import Memorization, embed_all, nearest_distances, nearest_sheet
from dcgan_jax.nets import pixels
from dcgan_jax.nets.models import Tree
from dcgan_jax.reports import film, image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.sampler import full_batches
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
_FINE = 1000  # steps a leg; see the module
_FAST = 0.01  # the fastest steps; their lower end, the 99th percentile, is set beside the median


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


def path_length(features: np.ndarray, unrelated: np.ndarray) -> dict[str, float]:
    """Length and evenness of a finely divided walk in a feature space; see the module.

    Args:
      features: of the walk in steps of 1 / _FINE of a leg, [..., frames, features], one or several.
      unrelated: of independent samples, [2 * pairs, features].

    Returns:
      path_length, in squared distances a squared leg; unrelated_distance, the mean squared distance of the pairs;
      relative_path_length, the first over the second; speed_ratio, the 99th percentile of the steps' lengths over their
      median; fast_share, of the walk's whole length that of its longest hundredth of steps, one at least. A ratio
      without a denominator is nan.
    """
    walk, pairs = features.astype(np.float64), unrelated.astype(np.float64)
    speeds = np.linalg.norm(np.diff(walk, axis=-2), axis=-1) * _FINE
    length, apart = float(np.square(speeds).mean()), float(np.square(pairs[::2] - pairs[1::2]).sum(1).mean())
    fast, median = (float(np.quantile(speeds, share)) for share in (1 - _FAST, 0.5))
    longest = np.sort(speeds.ravel())[-max(1, round(_FAST * speeds.size)) :]
    return {
        "path_length": length,
        "unrelated_distance": apart,
        "relative_path_length": length / apart if apart else math.nan,
        "speed_ratio": fast / median if median else math.nan,
        "fast_share": float(longest.sum() / speeds.sum()) if length else math.nan,
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
    memorization: bool = False,
    held_out_source: str = "",
    held_out_split: str = "",
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
      memorization: measure path lengths in features and nearest training images too, which takes the run's images.
      held_out_source, held_out_split: images that were not trained on, for `memorization`; both '': config.eval's, and
        none if there are none either.

    Returns:
      The figures of `smoothness`, and the walk as a sheet and as a film. With `memorization` those of `path_length`;
      walk_nearest, samples_nearest and held_out_nearest, mean distances to the nearest training image;
      walk_memorized and samples_memorized, the shares that memorization.py counts as memorised (with held-out images);
      the feature space; and a sheet of nearest training images.

    Raises:
      UserError: the class, the numbers, the film or the images cannot be had.
    """
    label = run.one_label(label)
    film.check(format, fps)
    if (held_out_source or held_out_split) and not memorization:
        raise UserError("--held_out_source and --held_out_split have no effect without --memorization.")
    numbers = list(seeds) or list(range(columns * points))
    if len(numbers) % columns or len(numbers) < 2 * columns:
        raise UserError(f"{len(numbers)} points make no {columns} walks of one length, through two points or more.")
    compared = _open_compared(run, held_out_source, held_out_split) if memorization else None
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
    if compared:
        chains = z.reshape(columns, points, -1)
        space, dataset, held_out = compared
        features = np.stack([_fine_features(run, space, through, interpolation, loop, label) for through in chains])
        mirrored = run.config.data.flip == "x"
        more, sheet = _memorization(space, dataset, held_out, features, drawn, unrelated, mirrored)
        figures += more
        pictures.append(sheet)
    return Report(TITLE, figures, pictures, PAPER_SOURCE)


def _open_compared(run: Run, source: str, split: str) -> tuple[FeatureSpace, ImageDataset, ImageDataset | None]:
    """The feature space, the training images, and images that were not trained on, if there are any.

    Raises UserError if they cannot be had.
    """
    data, settings = run.config.data, run.config.eval
    dataset = opening.open_or_build(data)
    source, split = (source, split) if source or split else (settings.source, settings.split)
    held_out = opening.open_others(data, source=source, split=split) if source or split else None
    return feature_spaces.without_download(dataset), dataset, held_out


def _fine_features(
    run: Run, space: FeatureSpace, points: np.ndarray, interpolation: str, loop: bool, label: int | None
) -> np.ndarray:
    """Features [frames, features] of unrounded images along a chain through points [points, z_dim], in fine steps.

    They are drawn in float32 whatever the run's precision: in bfloat16 a step is smaller than the rounding.
    """
    generator = run.generator.copy(dtype=jnp.float32)

    @jax.jit
    def draw(variables: Tree, z: jax.Array, labels: jax.Array | None) -> jax.Array:
        with run.gan.multiplying():
            images, _ = generator.apply(variables, z, labels, train=False)
        return pixels.to_levels(images, generator.output)

    legs = len(points) if loop else len(points) - 1
    path = interpolate(points, legs * _FINE + (not loop), interpolation, loop)
    if loop:
        path = np.concatenate([path, path[:1]])
    parts = []
    for batch, count in full_batches(path.astype(np.float32), "fine walk"):
        labels = run.sampler.labels(0, len(batch), label)
        parts.append(space.embed(np.asarray(draw(run.variables, batch, labels))).features[:count])
    return np.concatenate(parts)


def _memorization(
    space: FeatureSpace,
    dataset: ImageDataset,
    held_out: ImageDataset | None,
    fine: np.ndarray,
    frames: np.ndarray,
    samples: np.ndarray,
    mirrored: bool,
) -> tuple[list[Figure], Picture]:
    """What the module's docstring says of --memorization.

    Args:
      space: of the features.
      dataset, held_out: the training images and others.
      fine: features of the finely divided walks, [walks, frames, features].
      frames: of all walks, uint8 [frames, height, width, channels].
      samples: independent ones, likewise.
      mirrored: whether the run mirrored its training images.
    """
    of_frames, of_samples = space.embed(frames).features, space.embed(samples).features
    length = path_length(fine, of_samples)
    known = Memorization(space, dataset, held_out, mirrored=mirrored) if held_out else None
    training = known.training_features if known else embed_all(space, dataset.images, mirrored=mirrored)
    distances = {
        "walk": nearest_distances(of_frames, training),
        "samples": nearest_distances(of_samples, training),
        **({"held_out": known.held_out_distances} if known else {}),
    }
    means = {name: float(values.mean()) for name, values in distances.items()}
    texts = {"walk": "the frames", "samples": "independent samples", "held_out": "held-out images"}
    figures = [
        Figure("feature_space", space.identity),
        Figure("path_length", length["path_length"]),
        Figure("unrelated_distance", length["unrelated_distance"]),
        Figure(
            "relative_path_length",
            length["relative_path_length"],
            f"path length in the features '{space.name}', over unrelated samples",
            f"{length['relative_path_length']:.2f}",
        ),
        Figure(
            "speed_ratio",
            length["speed_ratio"],
            f"99th percentile of the speed over its median, {_FINE:,} steps a leg",
            f"{length['speed_ratio']:.2f}",
        ),
        Figure(
            "fast_share",
            length["fast_share"],
            "share of the way made in the fastest hundredth of the steps",
            f"{100 * length['fast_share']:.1f} %",
        ),
        *(
            Figure(f"{name}_nearest", mean, f"distance to the nearest training image of {texts[name]}", f"{mean:.3g}")
            for name, mean in means.items()
        ),
    ]
    if known:
        for name, features in (("walk", of_frames), ("samples", of_samples)):
            share = known.share(features)
            text = f"{texts[name]} nearer than 95 % of the held-out images"
            figures.append(Figure(f"{name}_memorized", share, text, f"{100 * share:.1f} %"))
    else:
        text = "held-out images are not given: --held_out_split"
        figures.append(Figure("", text="distance to the nearest training image of held-out images", here=text))
    return figures, _nearest_sheet(frames, of_frames, dataset.images, training)


def _nearest_sheet(frames: np.ndarray, of_frames: np.ndarray, images: np.ndarray, training: np.ndarray) -> Picture:
    """COLUMNS of the frames, at even steps, above the training images whose features are nearest to theirs."""
    shown = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    sheet = nearest_sheet(frames[shown], of_frames[shown], images, training)
    return Picture("nearest.png", sheet, "Frames of the walk (top) above their nearest training images.")


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
        memorization=_MEMORIZATION.value,
        held_out_source=_HELD_OUT_SOURCE.value,
        held_out_split=_HELD_OUT_SPLIT.value,
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
    _MEMORIZATION = flags.DEFINE_bool(
        "memorization", False, "Measure path lengths in features and nearest training images too."
    )
    _HELD_OUT_SPLIT = flags.DEFINE_string("held_out_split", "", "Split of images that were not trained on.")
    _HELD_OUT_SOURCE = flags.DEFINE_string("held_out_source", "", "Their source, if it is not the config's.")
    flags.mark_flags_as_mutual_exclusive(["points", "seeds"])
    flags.mark_flags_as_mutual_exclusive(["frames", "seconds"])
    command_line.run(main)
