"""A direction of the latent space that turns heads [paper figure 8].

    python -m dcgan_jax.analysis.turn_vector --workdir=runs/toy_faces

The turn vector is the mean of four samples that look right minus that of four that look left; z + t * vector, t from -1
to 1, turns any new sample. The samples are chosen by number (--left, --right; sheet.png of vector_arithmetic shows the
numbers), or by a probe that reads a real attribute of the data (--attribute; the first is the yaw of rendered faces,
the bed's place in rendered bedrooms): from the tenth of the samples with its smallest and largest values. With the
probe the attribute is also measured along the axis, over several vectors and many samples, beside a random direction of
the same length, and so is how many samples keep their other attributes.
"""

import math
from collections.abc import Mapping
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
from dcgan_jax.reports.report import Picture, Report, Row
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.trained import TrainedRun

NAME = "turn_vector"
EXEMPLARS = 4  # a side [paper figure 8]
STEPS = 9  # images along the axis
PAPER: dict[str, Any] = {"exemplars": 4}
_POOL = 2000  # samples that the exemplars are chosen from
_VECTORS = 10  # measured
_SAMPLES = 128  # turned by each of them
_SHOWN = 6
_EXTREME = 0.1  # part of the pool at either end that counts as turned


def choose_extremes(values: np.ndarray, count: int, vectors: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """`count` samples of the lowest tenth of `values` and `count` of the highest, for each of several vectors."""
    order, size = np.argsort(values, kind="stable"), max(count, round(_EXTREME * len(values)))
    return [[rng.choice(end, count, replace=False) for end in (order[:size], order[-size:])] for _ in range(vectors)]


def main() -> None:
    """Finds the vector, draws along it, and measures the turn; see the module."""
    run = _RUN.load()
    rng = np.random.default_rng(run.seed)
    pool, fresh = run.noise(0, _POOL), run.noise(_POOL, _SAMPLES)
    steps = np.linspace(-_REACH.value, _REACH.value, STEPS)
    probe, attribute = None, ""
    if _LEFT.value is None and _RIGHT.value is None:
        dataset = opening.open_or_build(run.config.data)
        attribute = _number_attribute(_ATTRIBUTE.value, attribute_probe.targets_of(dataset))
        probe = attribute_probe.open_or_train(dataset)
        values = probe.read(run.draw(pool, "samples to choose from"))[attribute]
        groups = choose_extremes(values, EXEMPLARS, _VECTORS, rng)
    else:
        groups = [[_numbers("left", _LEFT.value), _numbers("right", _RIGHT.value)]]
    vectors = np.array([pool[right].mean(0) - pool[left].mean(0) for left, right in groups])

    figures: dict[str, Any] = {
        "step": run.step,
        "seed": run.seed,
        "left": [int(number) for number in groups[0][0]],
        "right": [int(number) for number in groups[0][1]],
        "axis": steps.tolist(),
    }
    rows = [Row("exemplars a side", " and ".join(str(len(side)) for side in groups[0]), str(PAPER["exemplars"]))]
    if probe:
        noise = rng.standard_normal(vectors.shape)
        noise *= np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
        measured = measure(run, probe, attribute, fresh, vectors, steps, f"along {attribute}")
        chance = measure(run, probe, attribute, fresh, noise, steps, "along random directions")
        quality = probe.targets[attribute]
        figures |= {"attribute": attribute, "probe_held_out": quality.held_out, **measured, "random_direction": chance}
        each = zip(steps, measured["mean"], measured["standard_error"], chance["mean"], strict=True)
        rows += [
            Row(
                f"{attribute} at {t:+.2f} of the vector; a random direction", f"{mean:+.2f} ± {error:.2f}; {other:+.2f}"
            )
            for t, mean, error, other in each
        ]
        rows += [
            Row("vectors along which the mean is monotone", f"{100 * measured['monotone_share']:.0f} % of {_VECTORS}"),
            Row("correlation with the axis, per sample", f"{measured['correlation']:.2f}"),
            Row(f"change of {attribute} from end to end", f"{measured['span']:.2f}"),
            Row("  a random direction, either way", f"{chance['span']:.2f}"),
            Row("other attributes kept at either end, mean share", f"{100 * measured['kept']:.0f} %"),
            Row("  a random direction", f"{100 * chance['kept']:.0f} %"),
            Row(f"the probe on {attribute}, held out", quality.accuracy),
        ]
    shown = run.draw(_along(fresh[:_SHOWN], vectors[0], steps), "sheet")
    ends = [
        run.draw(np.concatenate([pool[side], pool[side].mean(0, keepdims=True)]), "exemplars") for side in groups[0]
    ]
    pictures = [
        Picture(
            "turn.png",
            image_grid.make_grid(shown, STEPS),
            f"{-_REACH.value:g} to {_REACH.value:g} times the vector added to new samples, which are in the middle.",
        ),
        Picture(
            "exemplars.png",
            image_grid.column(*(image_grid.make_grid(images, len(images)) for images in ends)),
            "What the vector was made from: left (top) and right (bottom); each row ends with the image of the mean z.",
        ),
    ]
    title = "Turning heads (figure 8)"
    report.publish(report.folder(run.workdir, "analysis", NAME), Report(title, figures, rows, pictures, PAPER))


def _along(z: np.ndarray, vector: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """z + t * vector, sample by sample: [samples * steps, z_dim]."""
    return (z[:, None] + steps[:, None] * vector).reshape(-1, z.shape[1])


def measure(
    run: TrainedRun,
    probe: AttributeProbe,
    attribute: str,
    z: np.ndarray,
    vectors: np.ndarray,
    steps: np.ndarray,
    what: str,
) -> dict[str, Any]:
    """The attribute along vectors [vectors, z_dim], on samples z [samples, z_dim].

    Returns:
      mean and standard_error (over vectors) at each step; monotone_share of vectors along which the mean over samples
      rises from step to step; correlation of step and attribute over the images of one sample, mean; span, the size
      of the change from end to end, mean over vectors; kept, the share
      of samples that show the same classes at either end as in the middle, mean over the probe's classes.
    """
    path = np.concatenate([_along(z, vector, steps) for vector in vectors])
    read = probe.read(run.draw(path, what))
    shape = (len(vectors), len(z), len(steps))
    values = read[attribute].reshape(shape)
    means = values.mean(1)
    classes = [v.argmax(1).reshape(shape) for name, v in read.items() if probe.targets[name].classes]
    kept = [(found[..., [0, -1]] == found[..., [len(steps) // 2]]).mean() for found in classes]
    apart = values - values.mean(2, keepdims=True)
    lengths = np.linalg.norm(apart, axis=2) * np.linalg.norm(steps - steps.mean())
    correlations = np.divide(apart @ (steps - steps.mean()), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return {
        "mean": means.mean(0).tolist(),
        "standard_error": (means.std(0, ddof=1) / np.sqrt(len(vectors))).tolist(),
        "monotone_share": float((np.diff(means, axis=1) > 0).all(1).mean()),
        "correlation": float(correlations.mean()),
        "span": float(np.abs(means[:, -1] - means[:, 0]).mean()),
        "kept": float(np.mean(kept)) if kept else math.nan,
    }


def _numbers(flag: str, text: str | None) -> np.ndarray:
    """The samples that a flag names. Raises UserError if it names none."""
    if text is None:
        raise UserError(f"--{flag} is missing: give --left and --right, or neither.")
    return np.array(concepts.parse_numbers(flag, text, _POOL))


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
