"""A direction of the latent space that turns heads [paper figure 8].

    python -m dcgan_jax.analysis.turn_vector --workdir=runs/toy_faces

The turn vector is the mean of four samples that look right minus that of four that look left; z + t * vector, t from -1
to 1, turns any new sample. The samples are chosen by number (--left, --right; sheet.png of vector_arithmetic shows the
numbers), or by a probe that reads a real attribute of the data (--attribute; the first is the yaw of rendered faces,
the bed's place in rendered bedrooms): from the tenth of the samples with its smallest and largest values. With the
probe the attribute is also measured along the axis, over several vectors and many samples, beside random directions of
the same length, and so is how many samples keep their other attributes. A second probe, of another seed, has chosen
nothing; it reads the same images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from dcgan_jax import command_line
from dcgan_jax.analysis import concepts
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import BOXES, AttributeProbe, Target
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import Run

NAME = "turn_vector"
TITLE = "Turning heads (figure 8)"
EXEMPLARS = 4  # a side [paper figure 8]
STEPS = 9  # images along the axis
PAPER_EXEMPLARS = 4
_POOL = 2000  # samples that the exemplars are chosen from
_VECTORS = 10  # measured
_SAMPLES = 128  # turned by each of them
_SHOWN = 6
_EXTREME = 0.1  # part of the pool at either end that counts as turned


def choose_extremes(values: np.ndarray, count: int, vectors: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """`count` samples of the lowest tenth of `values` and `count` of the highest, for each of several vectors."""
    order, size = np.argsort(values, kind="stable"), max(count, round(_EXTREME * len(values)))
    return [[rng.choice(end, count, replace=False) for end in (order[:size], order[-size:])] for _ in range(vectors)]


def random_directions(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Directions [vectors, z_dim], each drawn at random and as long as the vector in the same row."""
    noise = rng.standard_normal(vectors.shape)
    return noise * np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)


def measure(
    run: Run,
    *,
    left: Sequence[int] | None = None,
    right: Sequence[int] | None = None,
    attribute: str | None = None,
    reach: float = 1.0,
    seed: int = 0,
    label: int | str | None = None,
) -> Report:
    """Finds the vector, draws along it, and measures the turn; see the module.

    Args:
      run: a trained run.
      left, right: samples at either end, by number; None: a probe chooses them.
      attribute: real attribute that the probe chooses by; None: the first of the data's.
      reach: how far to go, in lengths of the vector.
      seed: of the noise.
      label: class of all images of a conditional network; None: class 0.

    Returns:
      The exemplars and a sheet; with the probe, the figures of `turn` along the axis and, under 'random_direction',
      along random directions; the same of another probe under 'second_judge'.

    Raises:
      UserError: only one of left and right is given, a number is out of range, or there is no such attribute.
    """
    label, rng = run.one_label(label), np.random.default_rng(seed)
    pool, fresh = run.noise(_POOL, seed), run.noise(_SAMPLES, seed, _POOL)
    steps = np.linspace(-reach, reach, STEPS)
    judges: tuple[AttributeProbe, ...] = ()
    if left is None and right is None:
        dataset = opening.open_or_build(run.config.data)
        attribute = _number_attribute(attribute, attribute_probe.targets_of(dataset))
        judges = attribute_probe.open_judges(dataset)
        values = judges[0].read(run.generate(pool, label, "samples to choose from"))[attribute]
        groups = choose_extremes(values, EXEMPLARS, _VECTORS, rng)
    else:
        groups = [[_exemplars("left", left), _exemplars("right", right)]]
    vectors = np.array([pool[ends[1]].mean(0) - pool[ends[0]].mean(0) for ends in groups])

    figures = [
        Figure("step", run.step),
        Figure("seed", seed),
        Figure("left", [int(number) for number in groups[0][0]]),
        Figure("right", [int(number) for number in groups[0][1]]),
        Figure("axis", steps.tolist()),
        Figure(
            "",
            text="exemplars a side",
            here=" and ".join(str(len(side)) for side in groups[0]),
            paper_here=str(PAPER_EXEMPLARS),
        ),
    ]
    if judges and attribute:

        def draw(vectors: np.ndarray, progress: str) -> np.ndarray:
            path = np.concatenate([_along(fresh, vector, steps) for vector in vectors])
            drawn = run.generate(path, label, progress)
            return drawn.reshape(len(vectors), len(fresh), STEPS, *drawn.shape[1:])

        along = draw(vectors, f"along {attribute}")
        random = draw(random_directions(vectors, rng), "along random directions")
        each = [
            turn(judge, attribute, along, steps)
            | {"random_direction": turn(judge, attribute, random, steps), "held_out": judge.targets[attribute].held_out}
            for judge in judges
        ]
        figures += _turn_figures([judge.targets[attribute] for judge in judges], steps, each)
    shown = run.generate(_along(fresh[:_SHOWN], vectors[0], steps), label, "sheet")
    ends = [
        run.generate(np.concatenate([pool[side], pool[side].mean(0, keepdims=True)]), label, "exemplars")
        for side in groups[0]
    ]
    pictures = [
        Picture(
            "turn.png",
            image_grid.make_grid(shown, STEPS),
            f"{-reach:g} to {reach:g} times the vector added to new samples, which are in the middle.",
        ),
        Picture(
            "exemplars.png",
            image_grid.column(*(image_grid.make_grid(images, len(images)) for images in ends)),
            "What the vector was made from: left (top) and right (bottom); each row ends with the image of the mean z.",
        ),
    ]
    return Report(TITLE, figures, pictures, paper={"exemplars": PAPER_EXEMPLARS})


def main() -> None:
    run = _RUN.load()
    left, right = (
        None if flag.value is None else concepts.parse_numbers(name, flag.value, _POOL)
        for name, flag in (("left", _LEFT), ("right", _RIGHT))
    )
    found = measure(
        run,
        left=left,
        right=right,
        attribute=_ATTRIBUTE.value,
        reach=_REACH.value,
        seed=_RUN.seed.value,
        label=_RUN.label.value,
    )
    report.publish(report.folder(run.workdir, "analysis", NAME), found)


def _turn_figures(targets: Sequence[Target], steps: np.ndarray, each: Sequence[dict[str, Any]]) -> list[Figure]:
    """What `turn` found along the vectors and along random directions: the first judge's figures, the second's below.

    Args:
      targets: what both read.
      steps: along the vector.
      each: of both, what `turn` found, with 'random_direction' and 'held_out'.
    """
    name, (found, second) = targets[0].name, each

    def both(key: str, text: str, here: Callable[[dict[str, Any]], str]) -> list[Figure]:
        return [Figure(key, found.get(key), text, here(found)), Figure("", text="  second judge", here=here(second))]

    def curve(i: int) -> Callable[[dict[str, Any]], str]:
        return lambda one: (
            f"{one['mean'][i]:+.2f} ± {one['standard_error'][i]:.2f}; {one['random_direction']['mean'][i]:+.2f}"
        )

    points = [both("", f"{name} at {t:+.2f} of the vector; a random direction", curve(i)) for i, t in enumerate(steps)]
    return [
        Figure("attribute", name),
        Figure("probe_held_out", found["held_out"]),
        Figure("mean", found["mean"]),
        Figure("standard_error", found["standard_error"]),
        *(line for pair in points for line in pair),
        *both(
            "monotone_share",
            "vectors along which the mean is monotone",
            lambda one: f"{100 * one['monotone_share']:.0f} % of {_VECTORS}",
        ),
        *both("correlation", "correlation with the axis, per sample", lambda one: f"{one['correlation']:.2f}"),
        *both(
            "span",
            f"change of {name} from end to end; a random direction, either way",
            lambda one: f"{one['span']:.2f}; {one['random_direction']['span']:.2f}",
        ),
        *both(
            "kept",
            "other attributes kept at either end, mean share; a random direction",
            lambda one: f"{100 * one['kept']:.0f} %; {100 * one['random_direction']['kept']:.0f} %",
        ),
        Figure("", text=f"the probe on {name}, held out", here=targets[0].accuracy),
        Figure("", text=f"the second judge on {name}, held out", here=targets[1].accuracy),
        Figure("random_direction", found["random_direction"]),
        Figure("second_judge", second),
    ]


def _along(z: np.ndarray, vector: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """z + t * vector, sample by sample: [samples * steps, z_dim]."""
    return (z[:, None] + steps[:, None] * vector).reshape(-1, z.shape[1])


def turn(probe: AttributeProbe, attribute: str, images: np.ndarray, steps: np.ndarray) -> dict[str, Any]:
    """What a probe reads along vectors.

    Args:
      probe: the judge.
      attribute: a number that it reads.
      images: of samples moved along each vector, uint8 [vectors, samples, steps, height, width, channels].
      steps: along the vector, an odd number of them, [steps].

    Returns:
      mean and standard_error (over vectors) at each step; monotone_share of vectors along which the mean over samples
      rises from step to step; correlation of step and attribute over the images of one sample, mean; span, the size
      of the change from end to end, mean over vectors; kept, the share of samples that show the same classes at either
      end as in the middle, mean over the probe's classes.
    """
    shape = images.shape[:3]
    read = probe.read(images.reshape(-1, *images.shape[3:]))
    values = read[attribute].reshape(shape)
    means = values.mean(1)
    classes = [v.argmax(1).reshape(shape) for name, v in read.items() if probe.targets[name].classes]
    kept = [(found[..., [0, -1]] == found[..., [len(steps) // 2]]).mean() for found in classes]
    apart = values - values.mean(2, keepdims=True)
    lengths = np.linalg.norm(apart, axis=2) * np.linalg.norm(steps - steps.mean())
    correlations = np.divide(apart @ (steps - steps.mean()), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return {
        "mean": means.mean(0).tolist(),
        "standard_error": (means.std(0, ddof=1) / np.sqrt(shape[0])).tolist(),
        "monotone_share": float((np.diff(means, axis=1) > 0).all(1).mean()),
        "correlation": float(correlations.mean()),
        "span": float(np.abs(means[:, -1] - means[:, 0]).mean()),
        "kept": float(np.mean(kept)) if kept else math.nan,
    }


def _exemplars(name: str, numbers: Sequence[int] | None) -> np.ndarray:
    """The samples of one end. Raises UserError if there are none, or no such ones."""
    if not numbers:
        raise UserError(f"--{name} is missing: give --left and --right, or neither.")
    if beyond := [number for number in numbers if not 0 <= number < _POOL]:
        raise UserError(f"--{name}: there is no sample {beyond[0]}; they are numbered 0 to {_POOL - 1}.")
    return np.array(numbers)


def _number_attribute(name: str | None, targets: Mapping[str, Target]) -> str:
    """`name`, or the first attribute that is read as a number. Raises UserError if there is none."""
    known = [target.name for target in targets.values() if not target.classes and target.name != BOXES]
    if known and name in (None, *known):
        return name or known[0]
    raise UserError(
        f"the run's images have no real-valued attribute{f' {name!r}' if name else ''}"
        + (f" (--attribute can be {', '.join(known)})" if known else "")
        + "; or choose samples by number: --left=3,17,29,40 --right=..."
    )


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _LEFT = flags.DEFINE_string("left", None, "Samples at one end, by number, with commas.")
    _RIGHT = flags.DEFINE_string("right", None, "Samples at the other end.")
    _ATTRIBUTE = flags.DEFINE_string("attribute", None, "What a probe reads, if not by number; default: the first.")
    _REACH = flags.DEFINE_float("reach", 1.0, "How far to go, in lengths of the vector.", lower_bound=0.0)
    command_line.run(main)
