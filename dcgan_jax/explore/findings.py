"""What is known of a run's latent space and maps: directions to move along, and maps that draw something known."""

from typing import Any, NamedTuple

import numpy as np

from dcgan_jax.analysis import directions as directions_of_layer
from dcgan_jax.analysis import turn_vector, window_dropout
from dcgan_jax.datasets import opening
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import BOXES, AttributeProbe
from dcgan_jax.reports import report
from dcgan_jax.runs.trained import Run

MEASURED = "Measured: along these, an attribute of the images changes"
CLOSED_FORM = "Strongest: the first layer passes these on with the largest gain"
_POOL = 2000  # samples that a direction is estimated from, as in section 6's experiments
_CORRELATION = 0.2  # of an attribute with the place along its direction, on the other half of the samples, at least
_MOST_CLASSES = 12  # of an attribute that gets a direction for each
_STRONGEST = 8


class Direction(NamedTuple):
    """A direction of the latent space.

    Attributes:
      group: MEASURED or CLOSED_FORM.
      name: of what changes along it.
      vector: float32 [z_dim] of length 1.
    """

    group: str
    name: str
    vector: np.ndarray


def directions(run: Run) -> list[Direction]:
    """Those of the experiments and of the attribute probe, where the run has them, and those of the first layer.

    Nothing is trained, and no pack is built for it.
    """
    probe = _probe(run)
    measured = [*_turn(run), *(_of_attributes(run, probe) if probe else [])]
    return [*measured, *_strongest(run)]


def window_maps(run: Run) -> dict[str, list[int]]:
    """Maps that analysis.window_dropout found to draw windows, by the name of their layer; {} if it has not run."""
    results = _results(run, window_dropout.NAME)
    dropped, layer = results.get("dropped"), results.get("layer")
    if isinstance(layer, str) and isinstance(dropped, list) and all(isinstance(number, int) for number in dropped):
        return {layer: dropped}
    return {}


def along(values: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, float]:
    """The direction in which an attribute of samples grows.

    Noise has no direction of its own, so the covariance of the attribute and z points there; with two values it is the
    difference of the means.

    Args:
      values: of the attribute, [samples].
      z: [samples, z_dim].

    Returns:
      Its unit vector, float32 [z_dim], and how well it tells: the correlation of the attribute with the place along the
      direction of half of the samples, on the other half; nan if the attribute is constant.
    """
    values = values - values.mean()
    half = len(z) // 2
    place = z[half:] @ (values[:half] @ z[:half])
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = float(np.corrcoef(values[half:], place)[0, 1])
    return _unit(values @ z), correlation


def _of_attributes(run: Run, probe: AttributeProbe) -> list[Direction]:
    z = run.noise(_POOL)
    found = probe.read(run.generate(z, progress="directions"))
    rows: list[tuple[float, Direction]] = []
    for name, values in _numbers(found, probe).items():
        vector, correlation = along(values, z)
        if correlation > _CORRELATION:
            rows.append((correlation, Direction(MEASURED, name.replace("_", " "), vector)))
    return [direction for _, direction in sorted(rows, key=lambda row: -row[0])]


def _numbers(found: dict[str, np.ndarray], probe: AttributeProbe) -> dict[str, np.ndarray]:
    """A number a sample for everything that the probe reads: a value, a probability, the area of boxes."""
    numbers = {}
    for name, target in probe.targets.items():
        values = found[name]
        if name == BOXES:
            numbers[name] = values.mean((1, 2))
        elif not target.classes:
            numbers[name] = values
        elif target.classes == 2 and name != "label":
            numbers[name] = values[:, 1]
        elif target.classes <= _MOST_CLASSES:
            names = probe.class_names if name == "label" else None
            for i in range(target.classes):
                numbers[names[i] if names else f"{name} {i}"] = values[:, i]
    return numbers


def _probe(run: Run) -> AttributeProbe | None:
    """The probe of the run's images if it was trained before."""
    try:
        if not opening.pack_path(run.config.data).is_dir():
            return None
        dataset = opening.open_or_build(run.config.data, progress=False)
        return attribute_probe.open_or_train(dataset) if attribute_probe.is_trained(dataset) else None
    except (UserError, OSError, ImportError):  # the images are not on this machine
        return None


def _turn(run: Run) -> list[Direction]:
    """The vector of analysis.turn_vector, from the numbers of its exemplars."""
    results = _results(run, turn_vector.NAME)
    try:
        left, right = ([run.noise(1, results["seed"], number) for number in results[end]] for end in ("left", "right"))
        vector = np.mean(right, (0, 1)) - np.mean(left, (0, 1))
    except (KeyError, TypeError, ValueError, OverflowError):
        return []
    return [Direction(MEASURED, f"turn vector ({results.get('attribute', 'by hand')})", _unit(vector))]


def _strongest(run: Run) -> list[Direction]:
    vectors, _ = directions_of_layer.closed_form(run)
    return [Direction(CLOSED_FORM, f"direction {i}", vector) for i, vector in enumerate(vectors[:_STRONGEST], 1)]


def _results(run: Run, name: str) -> dict[str, Any]:
    """What an experiment has left for this checkpoint; {} if there is nothing."""
    try:
        results = files.read_json(report.folder(run.workdir, "analysis", name) / "results.json", dict)
    except UserError:
        return {}
    return results if results.get("step") == run.step else {}


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return np.asarray(vector / length if length else vector, np.float32)
