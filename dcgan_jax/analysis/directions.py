"""Directions of the latent space in closed form.

Source: Shen and Zhou, "Closed-Form Factorization of Latent Semantics in GANs", CVPR 2021.

    python -m dcgan_jax.analysis.directions --workdir=runs/toy_faces

A step in z changes what the first dense layer puts out by W^T step, so the directions that change it most are the
eigenvectors of W W^T with the largest eigenvalues. Nothing is trained and no sample is drawn. Batch normalisation
behind the layer multiplies each unit by a constant, which belongs to W here; docs/inversion.md measures both ways.

The images along each direction are drawn with z's coordinate in this direction set to -3 ... 3 standard deviations of
the prior, all other coordinates as they were. What is measured: how much pixels change from a step in the direction,
relative to random directions; and where the data has attributes, how a probe's readings go with the coordinate.
directions.npy holds all directions, [z_dim, z_dim], the strongest first.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.analysis import concepts
from dcgan_jax.analysis.latent_search import into_prior, prior_deviation
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import BOXES, AttributeProbe
from dcgan_jax.nets import layers
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import Run

NAME = "directions"
TITLE = "Directions of the latent space in closed form (Shen and Zhou 2021)"
DIRECTIONS, SAMPLES = 8, 64
_REACH = 3.0  # standard deviations of the prior, either way [the range of the authors' interface]
_STEPS = 7  # images along a direction
_SHOWN = 2  # samples moved along each direction
_RANDOM = 8  # random directions


class Columns(NamedTuple):
    """What a probe reads, a column per number and per class; of two classes the second alone.

    Attributes:
      names: of the columns.
      values: float [images, columns].
    """

    names: list[str]
    values: np.ndarray


def closed_form(run: Run, *, folded: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors of W W^T in z, by falling eigenvalue.

    Args:
      run: a trained run.
      folded: take the scale of the batch normalisation behind the layer into W.

    Returns:
      Directions float32 [z_dim, z_dim], one a row, of length 1, the largest coordinate of each positive; eigenvalues
      float32 [z_dim].
    """
    weights = _first_weights(run, folded).astype(np.float64)
    eigenvalues, vectors = np.linalg.eigh(weights @ weights.T)
    directions = vectors.T[::-1]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    return (directions * np.sign(largest)).astype(np.float32), eigenvalues[::-1].astype(np.float32)


def _first_weights(run: Run, folded: bool) -> np.ndarray:
    """The part of the first dense layer that z meets, [z_dim, units]; labels come behind it."""
    if folded:
        kernel = layers.generator_layers(run.generator, run.variables)[0].kernel
    else:
        name = "hidden1" if run.generator.hidden else "projection"
        kernel = np.asarray(run.variables["params"][name]["kernel"])
    return kernel[: run.generator.z_dim]


def measure(
    run: Run,
    *,
    directions: int = DIRECTIONS,
    samples: int = SAMPLES,
    folded: bool = True,
    seed: int = 0,
    label: int | str | None = None,
) -> Report:
    """Draws along the strongest directions and measures what they change; see the module.

    Args:
      run: a trained run.
      directions: how many.
      samples: moved along each of them.
      folded: see `closed_form`.
      seed: of the noise.
      label: class of all images of a conditional network; None: class 0.

    Returns:
      Change of pixels relative to random directions and correlations with attributes, a strip of images for each
      direction, and directions.npy.

    Raises:
      UserError: z has fewer coordinates than directions are asked for, or there are fewer than two samples.
    """
    label, z_dim = run.one_label(label), run.generator.z_dim
    if not 0 < directions <= z_dim:
        raise UserError(f"--directions={directions} must be 1 to {z_dim}, as z has {z_dim} coordinates.")
    if samples < 2:
        raise UserError(f"--samples={samples} must be 2 or more: a standard error needs as many.")
    found, eigenvalues = closed_form(run, folded=folded)
    rng = np.random.default_rng(seed)
    random = rng.standard_normal((_RANDOM, z_dim))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    vectors = np.concatenate([found[:directions], random]).astype(np.float32)

    z, sigma = run.noise(samples, seed), prior_deviation(run.generator.z_distribution)
    path = np.stack([along(z, vector, sigma, run.generator.z_distribution) for vector in vectors])
    images = run.generate(path.reshape(-1, z_dim), label, "along the directions")
    images = images.reshape(len(vectors), samples, _STEPS, *images.shape[1:])
    changes = np.stack([np.abs(np.diff(moved.astype(np.float32), axis=1)).mean((1, 2, 3, 4)) for moved in images])
    ratios = changes[:directions] / np.maximum(changes[directions:].mean(0), 1e-6)
    means, errors = ratios.mean(1), ratios.std(1, ddof=1) / math.sqrt(samples)

    probe, reason = _probe(run)
    figures = [
        Figure("step", run.step),
        Figure("seed", seed),
        Figure("samples", samples),
        Figure("folded", folded),
        Figure("axis", np.linspace(-_REACH, _REACH, _STEPS).tolist(), "standard deviations of the prior", "-3 to 3"),
        Figure("eigenvalues", eigenvalues.tolist()),
        Figure("change", means.tolist()),
        Figure("change_standard_error", errors.tolist()),
        Figure(
            "random_change",
            float(changes[directions:].mean()),
            "change of pixels from image to image along random directions (levels)",
            f"{changes[directions:].mean():.2f}",
        ),
    ]
    names, correlations = _correlations(probe, images, run.class_names)
    figures += [Figure("attributes", names), Figure("correlations", correlations.tolist())]
    for i in range(directions):
        text = f"direction {i + 1}: change of pixels" + (f"; {_strongest(names, correlations[i])}" if names else "")
        figures.append(Figure("", text=text, here=f"{means[i]:.2f} ± {errors[i]:.2f} x random"))
    if names:
        by_chance = np.abs(correlations[directions:]).max(1).mean()
        figures.append(Figure("", text="a random direction's strongest correlation, mean", here=f"{by_chance:.2f}"))
    held_out = {name: target.held_out for name, target in probe.targets.items()} if probe else {}
    figures += [Figure("probe_held_out", held_out), Figure("no_probe", reason, *(["no probe"] if reason else []))]
    shown = images[:directions, :_SHOWN].reshape(-1, *images.shape[3:])
    pictures = [
        Picture(
            "directions.png",
            image_grid.make_grid(shown, _STEPS),
            f"{_SHOWN} samples a direction, the strongest at the top; z's coordinate from -3 to 3 standard deviations.",
        )
    ]
    return Report(TITLE, figures, pictures, arrays={"directions.npy": found})


def main() -> None:
    run = _RUN.load()
    found = measure(
        run,
        directions=_DIRECTIONS.value,
        samples=_SAMPLES.value,
        folded=_FOLDED.value,
        seed=_RUN.seed.value,
        label=_RUN.label.value,
    )
    report.publish(report.folder(run.workdir, "analysis", NAME), found)


def along(z: np.ndarray, direction: np.ndarray, sigma: float, distribution: str) -> np.ndarray:
    """Noise [samples, steps, z_dim] whose coordinate in a direction [z_dim] of length 1 goes from -3 to 3 sigma.

    Whatever leaves the prior on the way is put back, see `latent_search.into_prior`.
    """
    steps = np.linspace(-_REACH, _REACH, _STEPS, dtype=np.float32) * sigma
    moved = z[:, None] + (steps - (z @ direction)[:, None])[..., None] * direction
    return np.asarray(into_prior(jnp.asarray(moved.reshape(-1, z.shape[1])), distribution)).reshape(moved.shape)


def _probe(run: Run) -> tuple[AttributeProbe | None, str]:
    """The probe of the run's images; or None and the reason why there is none."""
    try:
        return attribute_probe.open_or_train(opening.open_or_build(run.config.data)), ""
    except UserError as error:
        return None, str(error)


def _columns(probe: AttributeProbe, images: np.ndarray, class_names: list[str] | None) -> Columns:
    """What the probe reads off images [count, height, width, channels]."""
    names: list[str] = []
    values: list[np.ndarray] = []
    for name, read in probe.read(images).items():
        classes = probe.targets[name].classes
        if name == BOXES:
            continue
        if not classes:
            names.append(name)
            values.append(read)
        for value in range(1 if classes == 2 else 0, classes):
            names.append(concepts.describe({name: value}, class_names))
            values.append(read[:, value])
    return Columns(names, np.stack(values, 1) if values else np.empty((len(images), 0)))


def _correlations(
    probe: AttributeProbe | None, images: np.ndarray, class_names: list[str] | None
) -> tuple[list[str], np.ndarray]:
    """Names of what the probe reads, and its correlation with the position, [vectors, names].

    Args:
      probe: None reads nothing.
      images: uint8 [vectors, samples, steps, height, width, channels].
      class_names: of the label.
    """
    vectors, samples, steps = images.shape[:3]
    if probe is None:
        return [], np.empty((vectors, 0))
    columns = _columns(probe, images.reshape(-1, *images.shape[3:]), class_names)
    values = columns.values.reshape(vectors, samples, steps, -1)
    return columns.names, correlation(values)


def correlation(values: np.ndarray) -> np.ndarray:
    """Correlation of readings [vectors, samples, steps, columns] with the step over all samples, [vectors, columns].

    Samples differ for reasons of their own, so it is below 1 even where every sample follows the step. A reading that
    never changes has 0.
    """
    vectors, samples, steps, columns = values.shape
    position = np.tile(np.arange(steps) - (steps - 1) / 2, samples)
    apart = values.reshape(vectors, samples * steps, columns).astype(np.float64)
    apart = apart - apart.mean(1, keepdims=True)
    lengths = np.linalg.norm(apart, axis=1) * np.linalg.norm(position)
    products = np.einsum("vpc,p->vc", apart, position)
    return np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 1e-9)


def _strongest(names: list[str], correlations: np.ndarray) -> str:
    """The two readings that go with a direction most."""
    order = np.argsort(-np.abs(correlations), kind="stable")[:2]
    return ", ".join(f"{names[i]} {correlations[i]:+.2f}" for i in order)


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _DIRECTIONS = flags.DEFINE_integer("directions", DIRECTIONS, "How many, the strongest first.", lower_bound=1)
    _SAMPLES = flags.DEFINE_integer("samples", SAMPLES, "Moved along each direction.", lower_bound=2)
    _FOLDED = flags.DEFINE_bool("folded", True, "Take batch normalisation's scale into the first layer's weights.")
    command_line.run(main)
