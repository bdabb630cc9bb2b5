"""Fills holes in images [Yeh et al., "Semantic Image Inpainting with Deep Generative Models", CVPR 2017].

    python -m dcgan_jax.analysis.complete --workdir=runs/toy_faces --mask=centre

finds the z whose image agrees with the visible pixels and looks real to the discriminator, and takes the hole from that
image. The loss of a z is

    mean absolute difference of the visible pixels + prior_weight x the generator's own loss

Images of the data are completed, held-out ones where there are any, and the error inside the hole is measured beside
that of the mean image and of the training image nearest by the visible pixels. The paper also blends the hole into its
surroundings (Poisson blending), which is left out here: edges stay visible.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from absl import flags
from PIL import Image

from dcgan_jax import command_line
from dcgan_jax.analysis import invert, latent_search
from dcgan_jax.analysis.invert import Group
from dcgan_jax.analysis.latent_search import Descent, Objective
from dcgan_jax.datasets import decode
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.models import Tree
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import Run

NAME = "complete"
TITLE = "Filling holes in images (Yeh et al. 2017)"
MASKS = ("centre", "left", "random")
COUNT = 64
# Chosen on rendered faces, see docs/inversion.md.
STEPS, STARTS, RATE, PRIOR_WEIGHT, WINDOW, POOL = 100, 2, 0.2, 0.003, 0, 2000
_RANDOM_HOLE = 0.8  # share of the pixels that 'random' hides [the paper's]
_GREY = 128  # of a hole in pictures
_SHOWN = 8


def make_hole(mask: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Which pixels are missing, bool [height, width].

    Args:
      mask: 'centre', the middle half of both sides; 'left', the left half; 'random', 80 % of the pixels (all three are
        the paper's); or the path of an image of the same size that is light where pixels are missing.
      height, width: of the images.
      seed: of 'random'.

    Raises:
      UserError: there is no such file, it has another size or cannot be read, or it hides nothing or everything.
    """
    hole = np.zeros((height, width), bool)
    if mask == "centre":
        hole[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    elif mask == "left":
        hole[:, : width // 2] = True
    elif mask == "random":
        hole = np.random.default_rng(seed).random((height, width)) < _RANDOM_HOLE
    else:
        hole = _read_hole(Path(mask), height, width)
    if hole.all() or not hole.any():
        raise UserError(f"--mask={mask} hides {'everything' if hole.all() else 'nothing'}: a part must stay visible.")
    return hole


def _read_hole(path: Path, height: int, width: int) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"--mask={path} is neither {', '.join(MASKS)} nor the path of a file.")
    try:
        with Image.open(path, formats=decode.FORMATS) as picture:
            shape = picture.size
        light = decode.to_pixels(path, decode.Target(height, 1, allow_upsampling=True, image_width=width))
    except (OSError, decode.BadImage) as error:
        raise UserError(f"--mask={path} cannot be read: {error}.") from error
    if shape != (width, height):
        raise UserError(f"--mask={path} has {shape[0]} x {shape[1]} pixels; the run's images have {width} x {height}.")
    return light[..., 0] >= _GREY


def context_weights(hole: np.ndarray, window: int) -> np.ndarray:
    """Weights of pixels, float [height, width], 0 in the hole.

    Args:
      hole: bool [height, width].
      window: odd; a visible pixel weighs as much as the share of missing pixels in a square of this side around it
        [equation 3 of the paper, whose window is 7]. 0: all visible pixels weigh 1.
    """
    if not window:
        return np.where(hole, 0.0, 1.0)
    missing = scipy.ndimage.uniform_filter(hole.astype(float), window, mode="constant")
    inside = scipy.ndimage.uniform_filter(np.ones(hole.shape), window, mode="constant")
    return np.where(hole, 0.0, np.maximum(missing, 0.0) / inside)


def completion(run: Run, weights: np.ndarray, prior_weight: float) -> Objective:
    """The loss of the module's docstring.

    Args:
      run: a trained run; without a discriminator prior_weight must be 0.
      weights: of pixels, float [height, width], see `context_weights`.
      prior_weight: of the generator's own loss, that which it was trained on.
    """
    weighing = jnp.asarray(weights / weights.sum(), jnp.float32)[None, ..., None]

    def losses(images: jax.Array, labels: jax.Array | None, goals: Tree) -> jax.Array:
        total = (weighing * jnp.abs(images - goals)).sum((1, 2)).mean(1)
        if prior_weight:
            network = run.discriminator.copy(conv_method="lax")
            logits, _ = network.apply(run.state.discriminator.variables, images, labels, train=False)
            total += prior_weight * jax.vmap(run.gan.loss.generator)(logits[:, None])
        return total

    return Objective(lambda goals, labels: goals, losses)


def measure(
    run: Run,
    *,
    mask: str = "centre",
    images: np.ndarray | None = None,
    data: int = COUNT,
    held_out_source: str = "",
    held_out_split: str = "",
    steps: int = STEPS,
    starts: int = STARTS,
    rate: float = RATE,
    prior_weight: float = PRIOR_WEIGHT,
    window: int = WINDOW,
    pool: int = POOL,
    seed: int = 0,
    label: int | str | None = None,
) -> Report:
    """Completes images; see the module.

    Args:
      run: a trained run.
      mask: see `make_hole`.
      images: uint8 [count, height, width, channels]; None: images of the data.
      data: how many of these, held-out ones if there are any.
      held_out_source, held_out_split: see `invert.held_out_of`.
      steps, starts, rate, pool: see `invert.measure`; starts are the samples nearest by the visible pixels.
      prior_weight: see `completion`.
      window: see `context_weights`.
      seed: of the noise, of the choice of images, and of the mask 'random'.
      label: class of `images`; images of the data have their own.

    Returns:
      Root mean square differences inside the hole in levels 0-255, with standard errors, beside those of the mean image
      and of the nearest training image; and a sheet: original, masked, completed.

    Raises:
      UserError: the mask cannot be used, images have another shape, or a number is out of range.
    """
    hole = make_hole(mask, *run.generator.image_shape[:2], seed)
    invert.check_search(run, steps, starts, rate, pool)
    if prior_weight < 0 or window < 0 or (window and window % 2 == 0):
        raise UserError(f"--prior_weight={prior_weight:g} must not be negative; --window={window} must be odd, or 0.")
    if data < 2:
        raise UserError(f"--data={data} must be 2 or more: a standard error needs as many.")
    note = ""
    if prior_weight and not run.has_discriminator:
        prior_weight, note = 0.0, "visible pixels alone: the run has no discriminator"
    training = None
    if images is None:
        training = invert.open_training(run)
        groups = invert.data_groups(run, training, data, held_out_source, held_out_split, seed)
        name = "held_out" if "held_out" in groups else "training"
        group = groups[name]
    else:
        invert.check_images(run, images)
        number = run.one_label(label)
        name = "images"
        group = Group(images, None if number is None else np.full(len(images), number, np.int32))

    weights = context_weights(hole, window)
    if not weights.any():
        weights = context_weights(hole, 0)
    objective = completion(run, weights, prior_weight)
    samples = latent_search.draw_pool(run, pool, seed + 1)
    visible = ~hole
    # What is hidden is hidden from the search too.
    given = Group(np.where(hole[..., None], np.uint8(_GREY), group.images), group.labels, group.own)
    found = latent_search.search(
        Descent(run, objective),
        samples.starts(given.images, given.labels, starts, visible.astype(float)),
        given.images,
        given.labels,
        steps=steps,
        rate=rate,
        progress="completing",
    )
    drawn = invert.draw(run, found.z, group.labels)
    completed = np.where(hole[..., None], drawn, group.images)

    errors = {"completed": invert.root_mean_square(completed, group.images, hole)}
    for other, compared in invert.compare(given, training, visible).items():
        errors[other] = invert.root_mean_square(compared, group.images, hole)
    figures = [
        Figure("step", run.step),
        Figure("seed", seed),
        Figure("mask", mask, "mask"),
        Figure("hidden", float(hole.mean()), "hidden pixels", f"{100 * hole.mean():.0f} %"),
        Figure("images", name, "images", f"{len(group.images)} {name.replace('_', '-')}"),
        Figure("steps", steps),
        Figure("starts", starts),
        Figure("rate", rate),
        Figure("prior_weight", prior_weight, "weight of the generator's loss", f"{prior_weight:g}"),
        Figure("window", window),
        Figure("pool", pool),
    ]
    if note:
        figures.append(Figure("loss", note, "loss", note))
    for method, values in errors.items():
        mean, error = invert.mean_and_error(values)
        content = {"each": values.tolist(), "mean": mean, "standard_error": error}
        text = f"difference inside the hole, {method.replace('_', ' ')} (levels)"
        figures.append(Figure(method, content, text, f"{mean:.2f} ± {error:.2f}"))
    if training is not None:
        better = float((errors["completed"] < errors["nearest_training_image"]).mean())
        figures.append(
            Figure("better", better, "better than the nearest training image", f"{100 * better:.0f} % of the images")
        )
    shown = [group.images[:_SHOWN], given.images[:_SHOWN], completed[:_SHOWN]]
    sheet = image_grid.make_grid(np.concatenate(shown), len(shown[0]))
    picture = Picture("completed.png", sheet, "Originals, what the search was given, and what it made of that.")
    return Report(TITLE, figures, [picture], arrays={"z.npy": found.z})


def main() -> None:
    run = _RUN.load()
    found = measure(
        run,
        mask=_MASK.value,
        images=invert.read_images(Path(_IMAGES.value), run.config.data) if _IMAGES.value else None,
        data=_DATA.value,
        held_out_source=_HELD_OUT_SOURCE.value,
        held_out_split=_HELD_OUT_SPLIT.value,
        steps=_STEPS.value,
        starts=_STARTS.value,
        rate=_RATE.value,
        prior_weight=_PRIOR_WEIGHT.value,
        window=_WINDOW.value,
        seed=_RUN.seed.value,
        label=_RUN.label.value,
    )
    report.publish(report.folder(run.workdir, "analysis", NAME), found)


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _MASK = command_line.define_path("mask", "centre", f"{', '.join(MASKS)}, or an image that is light in the hole.")
    _IMAGES = command_line.define_path("images", None, "An image, or a folder of images; default: those of the data.")
    _DATA = flags.DEFINE_integer("data", COUNT, "Images of the data.", lower_bound=2)
    _HELD_OUT_SOURCE = flags.DEFINE_string("held_out_source", "", "Images that were not trained on; default: a split.")
    _HELD_OUT_SPLIT = flags.DEFINE_string("held_out_split", "", "Their split; default: config.eval's, or test.")
    _STEPS = flags.DEFINE_integer("steps", STEPS, "Of the descent.", lower_bound=0)
    _STARTS = flags.DEFINE_integer("starts", STARTS, "Of each image: the samples nearest to it.", lower_bound=1)
    _RATE = flags.DEFINE_float("rate", RATE, "Length of the first steps in every coordinate of z.")
    _PRIOR_WEIGHT = flags.DEFINE_float("prior_weight", PRIOR_WEIGHT, "Of the generator's own loss.")
    _WINDOW = flags.DEFINE_integer("window", WINDOW, "Of the weights of visible pixels, odd; 0: all weigh the same.")
    command_line.run(main)
