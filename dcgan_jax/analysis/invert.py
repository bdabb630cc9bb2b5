"""The z of given images: which noise would a generator have drawn them from?

    python -m dcgan_jax.analysis.invert --workdir=runs/toy_faces --images=my_pictures
    python -m dcgan_jax.analysis.invert --workdir=runs/toy_faces --samples=64 --data=64

finds it by gradient descent, see latent_search.py. Images are decoded and cropped as training images are. For
--images it writes z.npy, each image beside its reconstruction, and a film of the search. Two tests of the method:

    --samples   samples, whose z is known: how far is the z that was found, relative to another sample's?
    --data      training images against held-out ones, with the mean image and the nearest training image for comparison

A generator that draws training images much more closely than held-out ones has memorised some of them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from dcgan_jax import command_line
from dcgan_jax.analysis import encoder, latent_search
from dcgan_jax.analysis.latent_search import Descended, Descent, Pool
from dcgan_jax.datasets import batches, decode, image_folder, opening, sources
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import film, image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import Run

NAME = "invert"
TITLE = "The z of given images"
# Chosen on rendered faces, see docs/inversion.md.
STEPS, STARTS, RATE, FEATURE_WEIGHT, POOL = 200, 2, 0.2, 0.0, 2000
_SHOWN = 8  # images of a sheet and of the film
_FRAMES = 40
_FPS = 10.0


class Group(NamedTuple):
    """Images to invert.

    Attributes:
      images: uint8 [count, height, width, channels].
      labels: int32 [count], for conditional networks; else None.
      own: numbers int [count] of these images in the training set; None: they are not in it.
    """

    images: np.ndarray
    labels: np.ndarray | None
    own: np.ndarray | None = None


class Inverter:
    """Finds z for images of one run; compiled once."""

    def __init__(
        self,
        run: Run,
        *,
        steps: int = STEPS,
        starts: int = STARTS,
        rate: float = RATE,
        feature_weight: float = FEATURE_WEIGHT,
        pool: int = POOL,
        encoder_steps: int = 0,
        seed: int = 0,
    ) -> None:
        """As `measure`. Raises UserError if a number is out of range."""
        check_search(run, steps, starts, rate, pool)
        if feature_weight < 0:
            raise UserError(f"--feature_weight={feature_weight:g} must not be negative.")
        self.note = ""
        if feature_weight and not run.has_discriminator:
            feature_weight, self.note = 0.0, "pixels alone: the run has no discriminator for a distance of features"
        self._steps, self._starts, self._rate = steps, starts, rate
        self.pool: Pool = latent_search.draw_pool(run, pool, seed + 1)  # not the samples that are inverted
        self._descent = Descent(run, latent_search.likeness(run, feature_weight))
        self._encode = encoder.train(run, encoder_steps) if encoder_steps else None

    def find(self, group: Group, watched: int = 0, progress: str = "") -> Descended:
        """The best z of each image, its loss, and the path of the first `watched` ones; see `latent_search.search`."""
        starts = self.pool.starts(group.images, group.labels, self._starts)
        if self._encode:
            starts[:, -1] = self._encode(group.images, group.labels)
        return latent_search.search(
            self._descent,
            starts,
            group.images,
            group.labels,
            steps=self._steps,
            rate=self._rate,
            watched=watched,
            progress=progress,
        )


def measure(
    run: Run,
    *,
    images: np.ndarray | None = None,
    samples: int = 0,
    data: int = 0,
    held_out_source: str = "",
    held_out_split: str = "",
    steps: int = STEPS,
    starts: int = STARTS,
    rate: float = RATE,
    feature_weight: float = FEATURE_WEIGHT,
    pool: int = POOL,
    encoder_steps: int = 0,
    seed: int = 0,
    label: int | str | None = None,
) -> Report:
    """Inverts images, samples, and images of the data; see the module.

    Args:
      run: a trained run.
      images: uint8 [count, height, width, channels] of the run's size; None: no images of one's own.
      samples: how many samples.
      data: how many training images, and as many held-out ones if there are any.
      held_out_source, held_out_split: see `held_out_of`.
      steps: of the descent.
      starts: of each image, the samples nearest to it by pixels.
      rate: length of the first steps in every coordinate of z.
      feature_weight: of the distance of the discriminator's activations beside that of pixels; 0: pixels alone.
      pool: samples that the starts are chosen from.
      encoder_steps: trains an encoder for so many steps, whose guess is the last of the starts; 0: none.
      seed: of the noise, and of the choice of images.
      label: class of `images` and of samples of a conditional network; None: class 0.

    Returns:
      For each group of images the root mean square difference of pixels in levels 0-255, and z.npy of `images`.

    Raises:
      UserError: nothing is to be inverted, images have another shape, or a number is out of range.
    """
    label = run.one_label(label)
    groups = {}
    if images is not None:
        check_images(run, images)
        groups["images"] = Group(images, _same(label, len(images)))
    if min(samples, data) < 0 or max(samples, data) == 1:
        raise UserError("--samples and --data must be 0, or 2 or more: a standard error needs as many.")
    if not groups and not samples and not data:
        raise UserError("nothing is to be inverted: give --images, --samples or --data.")
    note, training = "", None
    if data:
        training = open_training(run)
        groups |= data_groups(run, training, data, held_out_source, held_out_split, seed)
        note = "" if "held_out" in groups else NO_HELD_OUT
    inverter = Inverter(
        run,
        steps=steps,
        starts=starts,
        rate=rate,
        feature_weight=feature_weight,
        pool=pool,
        encoder_steps=encoder_steps,
        seed=seed,
    )
    z = run.noise(samples, seed)
    if samples:
        groups["samples"] = Group(run.generate(z, label), _same(label, samples))

    figures = [
        Figure("step", run.step),
        Figure("seed", seed),
        Figure("steps", steps, "steps of the descent"),
        Figure("starts", starts, "starts of each image"),
        Figure("rate", rate),
        Figure("feature_weight", feature_weight),
        Figure("pool", pool),
        Figure("encoder_steps", encoder_steps),
        Figure("distance", inverter.note or "as asked", *(["distance", inverter.note] if inverter.note else [])),
    ]
    pictures, arrays = [], {}
    for name, group in groups.items():
        title = name.replace("_", "-")
        watched = min(_SHOWN, len(group.images), max(1, latent_search.BATCH_SIZE // starts))
        found = inverter.find(group, watched if name == "images" else 0, title)
        drawn = draw(run, found.z, group.labels)
        figures += _errors(name, title, drawn, group, inverter.pool, training)
        pictures.append(_sheet(f"{name}.png", title, group.images, drawn))
        if name == "images":
            arrays["z.npy"] = found.z
            pictures.append(_film(run, group, found.path))
        if name == "samples":
            figures += _recovery(found.z, z)
    if note:
        figures.append(Figure("held_out", note, "held-out images", note))
    return Report(TITLE, figures, pictures, arrays=arrays)


def main() -> None:
    run = _RUN.load()
    found = measure(
        run,
        images=read_images(Path(_IMAGES.value), run.config.data) if _IMAGES.value else None,
        samples=_SAMPLES.value,
        data=_DATA.value,
        held_out_source=_HELD_OUT_SOURCE.value,
        held_out_split=_HELD_OUT_SPLIT.value,
        steps=_STEPS.value,
        starts=_STARTS.value,
        rate=_RATE.value,
        feature_weight=_FEATURE_WEIGHT.value,
        encoder_steps=encoder.STEPS if _ENCODER.value else 0,
        seed=_RUN.seed.value,
        label=_RUN.label.value,
    )
    report.publish(report.folder(run.workdir, "analysis", NAME), found)


# --- Images ----------------------------------------------------------------------------------------------------------


def read_images(path: Path, data: ConfigDict) -> np.ndarray:
    """An image file, or all of a folder in the order of their paths, decoded and fitted as `config.data` says.

    Returns:
      uint8 [count, height, width, channels].

    Raises:
      UserError: there is no such file or folder, no image in it, or one that cannot be read or is too small.
    """
    if not path.exists():
        raise UserError(f"--images={path}: there is no such file or folder.")
    files = [path]
    if path.is_dir():
        source = image_folder.open_folder(path)
        files = [path / example.key for example in source.read(list(source.list_items().references))]
    target = decode.target_of(data)
    images = []
    for file in files:
        try:
            images.append(decode.to_pixels(file, target))
        except decode.BadImage as error:
            raise UserError(f"{file} {error}.") from error
    return np.stack(images)


def check_images(run: Run, images: np.ndarray) -> None:
    """Raises UserError unless images are uint8 [count, height, width, channels] of the run's size, one at least."""
    shape = run.generator.image_shape
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise UserError(
            f"images are {images.dtype} {list(images.shape)}; they must be uint8 [count, {', '.join(map(str, shape))}]."
        )


def check_search(run: Run, steps: int, starts: int, rate: float, pool: int) -> None:
    """Raises UserError if a search cannot have these numbers; see `measure`."""
    most = pool // max(1, run.generator.num_classes)
    if not 1 <= starts <= most:
        raise UserError(f"--starts={starts} must be 1 to {most}: they are chosen from {pool} random samples.")
    if steps < 0 or not 0 < rate < math.inf:
        raise UserError(f"--steps={steps} must not be negative, and --rate={rate:g} must be positive.")


NO_HELD_OUT = "none: the data has no other split (see --held_out_source)"


def open_training(run: Run) -> ImageDataset:
    """The run's training images, with labels if its networks need them. Raises UserError if there are none."""
    dataset = opening.open_or_build(run.config.data)
    batches.check_labels(run.config, run.config.data.source, dataset)
    return dataset


def held_out_of(run: Run, source: str, split: str) -> ImageDataset | None:
    """Images that a run was not trained on; None if it is unknown where there are any.

    Args:
      run: a trained run.
      source, split: of the images; both '': those of config.eval, or the data's split 'test' if it has splits.

    Raises:
      UserError: these images cannot be opened, or are those of training.
    """
    data, evaluation = run.config.data, run.config.eval
    if not source and not split:
        source, split = evaluation.source, evaluation.split
    if not source and not split:
        if not sources.has_splits(data.source):
            return None
        split = "test"
    dataset = opening.open_others(data, source=source, split=split)
    if dataset.has_images_of(opening.open_or_build(data)):
        raise UserError("the held-out images are those of training: give another --held_out_split or _source.")
    batches.check_labels(run.config, source or data.source, dataset)
    return dataset


def data_groups(
    run: Run, training: ImageDataset, count: int, held_out_source: str, held_out_split: str, seed: int
) -> dict[str, Group]:
    """'training' images, and 'held_out' ones if there are any; `count` of each at random, or all there are."""
    held_out = held_out_of(run, held_out_source, held_out_split)
    rng, conditional = np.random.default_rng(seed), bool(run.generator.num_classes)
    groups = {}
    for name, dataset in (("training", training), ("held_out", held_out)):
        if dataset is not None:
            numbers = np.sort(rng.permutation(len(dataset.images))[:count])
            labels = dataset.labels[numbers] if conditional and dataset.labels is not None else None
            own = numbers if name == "training" else None
            groups[name] = Group(np.asarray(dataset.images[numbers]), labels, own)
    return groups


def _same(label: int | None, count: int) -> np.ndarray | None:
    return None if label is None else np.full(count, label, np.int32)


def draw(run: Run, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Images uint8 [count, height, width, channels] of noise, each with its own label."""
    return run.generate(z, None if labels is None else labels.tolist())


# --- Figures ---------------------------------------------------------------------------------------------------------


def root_mean_square(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Differences of images uint8 [count, height, width, channels] in levels, float64 [count].

    `where`: bool [height, width], the pixels that count; None: all.
    """
    squares = np.square(a.astype(np.float64) - b).mean(3)
    return np.sqrt(squares.mean((1, 2)) if where is None else squares[:, where].mean(1))


def mean_image(dataset: ImageDataset) -> np.ndarray:
    """The mean of all images, float32 [height, width, channels]."""
    return dataset.images.mean(0, dtype=np.float32)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean, and its standard error (nan of a single value)."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def nearest_images(group: Group, training: ImageDataset, weights: np.ndarray | None = None) -> np.ndarray:
    """The training image nearest to each image by pixels, but for itself; `weights`: see `squared_distances`."""
    distances = latent_search.squared_distances(group.images, training.images, weights)
    if group.own is not None:
        distances[np.arange(len(distances)), group.own] = np.inf
    return np.asarray(training.images[distances.argmin(1)])


def compare(group: Group, training: ImageDataset | None, where: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Images to compare with, by name: the mean image and the nearest training image.

    `where`: bool [height, width], the pixels by which the nearest is chosen.
    """
    if training is None:
        return {}
    weights = None if where is None else where.astype(np.float64)
    mean = np.broadcast_to(mean_image(training), group.images.shape)
    return {"mean_image": mean, "nearest_training_image": nearest_images(group, training, weights)}


def _errors(
    name: str, title: str, drawn: np.ndarray, group: Group, pool: Pool, training: ImageDataset | None
) -> list[Figure]:
    """Differences of a group's reconstructions, and of what they are compared with."""
    nearest = latent_search.squared_distances(group.images, pool.images).argmin(1)
    others = {"nearest_sample": pool.images[nearest], **compare(group, training)}
    errors = root_mean_square(drawn, group.images)
    mean, error = mean_and_error(errors)
    text = f"{len(errors)} {title}: difference of the reconstruction (levels)"
    found: dict[str, object] = {"each": errors.tolist(), "mean": mean, "standard_error": error}
    lines = [Figure("", text=text, here=_with_error(mean, error))]
    for other, compared in others.items():
        mean, error = mean_and_error(root_mean_square(compared, group.images))
        found[other] = {"mean": mean, "standard_error": error}
        lines.append(Figure("", text=f"  the {other.replace('_', ' ')}", here=_with_error(mean, error)))
    return [Figure(name, found), *lines]


def _recovery(found: np.ndarray, truth: np.ndarray) -> list[Figure]:
    """How near the z that was found is to the true one, relative to the distance of unrelated z."""
    apart = np.linalg.norm(truth - np.roll(truth, 1, 0), axis=1).mean()
    relative = np.linalg.norm(found - truth, axis=1) / apart
    mean, error = mean_and_error(relative)
    values: Mapping[str, object] = {"each": relative.tolist(), "mean": mean, "standard_error": error}
    text = "  distance of z, relative to unrelated z"
    return [Figure("z_distance", values, text, f"{mean:.3f} ± {error:.3f}")]


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.2f}" if math.isnan(error) else f"{mean:.2f} ± {error:.2f}"


# --- Pictures --------------------------------------------------------------------------------------------------------


def _sheet(file: str, title: str, images: np.ndarray, drawn: np.ndarray) -> Picture:
    shown, count = images[:_SHOWN].astype(np.int16), min(_SHOWN, len(images))
    residual = np.clip(128 + (drawn[:_SHOWN] - shown) // 2, 0, 255).astype(np.uint8)
    sheet = image_grid.make_grid(np.concatenate([images[:_SHOWN], drawn[:_SHOWN], residual]), count)
    return Picture(file, sheet, f"{title}: original, reconstruction, and half their difference on grey.")


def _film(run: Run, group: Group, path: np.ndarray) -> Picture:
    """The first images of a group above what their z drew during the descent, [steps + 1, watched, z_dim]."""
    watched, originals = path.shape[1], group.images[: path.shape[1]]
    moments = np.unique(np.linspace(0, len(path) - 1, _FRAMES).astype(int))
    labels = None if group.labels is None else np.tile(group.labels[:watched], len(moments))
    drawn = draw(run, path[moments].reshape(-1, path.shape[2]), labels).reshape(len(moments), *originals.shape)
    frames = np.stack([image_grid.make_grid(np.concatenate([originals, images]), watched) for images in drawn])
    content = film.encode(frames, "gif", _FPS)
    return Picture("film.gif", content, "The search: originals at the top, what their z draws below.")


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _IMAGES = command_line.define_path("images", None, "An image, or a folder of images.")
    _SAMPLES = flags.DEFINE_integer("samples", 0, "Samples to invert, whose z is known.", lower_bound=0)
    _DATA = flags.DEFINE_integer("data", 0, "Training images to invert, and as many held-out ones.", lower_bound=0)
    _HELD_OUT_SOURCE = flags.DEFINE_string("held_out_source", "", "Images that were not trained on; default: a split.")
    _HELD_OUT_SPLIT = flags.DEFINE_string("held_out_split", "", "Their split; default: config.eval's, or test.")
    _STEPS = flags.DEFINE_integer("steps", STEPS, "Of the descent.", lower_bound=0)
    _STARTS = flags.DEFINE_integer("starts", STARTS, "Of each image: the samples nearest to it.", lower_bound=1)
    _RATE = flags.DEFINE_float("rate", RATE, "Length of the first steps in every coordinate of z.")
    _FEATURE_WEIGHT = flags.DEFINE_float(
        "feature_weight", FEATURE_WEIGHT, "Of the distance of the discriminator's activations beside that of pixels."
    )
    _ENCODER = flags.DEFINE_bool("encoder", False, "Train an encoder on samples; its guess replaces the last start.")
    command_line.run(main)
