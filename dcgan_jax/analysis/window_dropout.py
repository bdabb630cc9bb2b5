"""Forgetting to draw windows, or anything else that boxes can mark [paper section 6.3.1, figure 6].

    python -m dcgan_jax.analysis.window_dropout --workdir=runs/toy_bedrooms
    python -m dcgan_jax.analysis.window_dropout --workdir=runs/lsun --annotate

Windows are marked by boxes on 150 samples. A logistic regression then tells, from the activations of one generator
layer at one place, whether the place lies in a box; every map with a positive weight is dropped (set to zero
everywhere), and new samples are drawn from the same z with and without them.

Boxes come from a page in the browser (--annotate; they are kept in analysis/window_dropout/boxes.json), from any such
file (--boxes), or, where the data itself carries boxes, from a detector trained on it (attribute_probe.py). The
detector also counts the windows that are gone. Beside it stands the change of everything outside the windows, for our
maps and for as many maps drawn at random.

The paper says neither how its regression was regularised nor how many negatives it took. Here all places outside weigh
as much as all places inside, and an L1 penalty (--l1), in proportion to a map's mean activation outside the boxes, sets
the weights of maps to zero that say little about windows or that much else is drawn with: a larger penalty drops fewer
maps. The paper dropped 200, of a layer with 256 or more: "the second highest" can only be the
second below the last hidden one, with maps of a quarter of the image's side (--layer).
"""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.optimize
import scipy.special
from absl import flags
from ml_collections import ConfigDict

from dcgan_jax import command_line
from dcgan_jax.analysis import annotate, boxes
from dcgan_jax.config import need_convolutions
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import BOXES, AttributeProbe
from dcgan_jax.nets import models, pixels
from dcgan_jax.nets.models import Tree
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Picture, Report, Row
from dcgan_jax.runs import run_flags, trained
from dcgan_jax.runs.trained import TrainedRun

NAME = "window_dropout"
SAMPLES, SHOWN = 150, 10  # [paper section 6.3.1; figure 6 has 10 pairs]
L1 = 0.2
PAPER: dict[str, Any] = {"samples": 150, "boxes": 52, "maps_dropped": 200}
_LEAST_AREA = 0.01  # of the image: smaller spots of the detector are not windows
_GONE = 0.5  # a window is gone when the detector marks less than half of it, the usual overlap for a detection
_SILENT = 1e-3  # see `fit_logistic`
_MARGIN = 1 / 16  # of the image's side: what is nearer to a window counts as neither in nor outside
_RANDOM_DROPS = 10


class Fit(NamedTuple):
    """A logistic regression, log odds = features @ weights + intercept.

    accuracy: on images that were not fitted on, mean of the two kinds; nan if there are too few.
    """

    weights: np.ndarray
    intercept: float
    accuracy: float = math.nan


def default_layer(config: ConfigDict) -> str:
    """The last tap with maps of at most a quarter of the image's side, or the first maps if all are larger."""
    need_convolutions(config, "generator")
    stages, name = config.model.generator.stages, "projection"
    side = models.first_side(config.data.image_size, stages)
    for i, (_, stride) in enumerate(stages[:-1], 1):
        side *= stride
        if side <= config.data.image_size / 4:
            name = f"deconv{i}"
    return name


def cells(mask: np.ndarray, side: int) -> np.ndarray:
    """Places of a layer that a mask covers by more than half: bool [count, height, width] -> [count, side, side]."""
    edges = np.linspace(0, mask.shape[1], side + 1).round().astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(mask.astype(float), edges, 1), edges, 2)
    area = np.add.reduceat(np.add.reduceat(np.ones_like(mask, float), edges, 1), edges, 2)
    return sums > 0.5 * area


def fit_logistic(inside: np.ndarray, outside: np.ndarray, l1: float) -> Fit:
    """The regression that minimises the log loss, each kind weighing half, + l1 * sum |weight * mean outside|.

    The mean outside counts as a thousandth of the mean inside at least.

    Args:
      inside, outside: features [examples, features] of places inside and outside boxes, none of them negative.
      l1: penalty.
    """
    scale = np.maximum(outside.mean(0, dtype=np.float64), _SILENT * inside.mean(0, dtype=np.float64))
    scale[scale == 0] = 1.0  # dead
    x = np.concatenate([inside, outside]) / scale
    sign = np.repeat([1.0, -1.0], [len(inside), len(outside)])
    share = np.repeat([0.5 / len(inside), 0.5 / len(outside)], [len(inside), len(outside)])
    count = x.shape[1]

    # weights = up - down with both >= 0 makes the penalty smooth.
    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        up, down, intercept = parameters[:count], parameters[count:-1], parameters[-1]
        margin = sign * (x @ (up - down) + intercept)
        loss = share @ np.logaddexp(0, -margin) + l1 * (up.sum() + down.sum())
        slope = -share * sign * scipy.special.expit(-margin)
        gradient = x.T @ slope
        return loss, np.concatenate([gradient + l1, l1 - gradient, [slope.sum()]])

    bounds = [(0, None)] * (2 * count) + [(None, None)]
    options = {"maxiter": 5000, "maxfun": 10_000}
    found = scipy.optimize.minimize(objective, np.zeros(2 * count + 1), jac=True, bounds=bounds, options=options).x
    return Fit((found[:count] - found[count:-1]) / scale, float(found[-1]))


def windows_gone(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """How many windows there were, and how many of them are gone.

    Args:
      before, after: the detector's masks, bool [count, height, width].
    """
    total = gone = 0
    least = _LEAST_AREA * before.shape[1] * before.shape[2]
    for old, new in zip(before, after, strict=True):
        spots, number = scipy.ndimage.label(old)
        for spot in range(1, number + 1):
            window = spots == spot
            if window.sum() >= least:
                total += 1
                gone += new[window].mean() < _GONE
    return total, int(gone)


class _Layer:
    """The generator with a layer that can be read and whose maps can be dropped."""

    def __init__(self, run: TrainedRun, name: str) -> None:
        """Raises UserError if there is no such layer of maps."""
        generator, _ = models.build_models(run.config)

        @jax.jit
        def forward(variables: Tree, z: jax.Array, labels: Any, gate: jax.Array) -> tuple[jax.Array, jax.Array]:
            images, taps = generator.apply(variables, z, labels, train=False, gates={name: gate})
            return pixels.to_uint8(images, run.config.model.output), taps[name]

        z = np.zeros((1, run.config.model.z_dim), np.float32)
        player = run.state.generator
        variables = {"params": player.params, "batch_stats": player.batch_stats}
        taps = jax.eval_shape(lambda: generator.apply(variables, z, run.labels(1), train=False)[1])
        layers = [tap for tap, value in taps.items() if len(value.shape) == 4 and tap != "image"]
        if name not in layers:
            raise UserError(f"the generator has no layer {name!r} of maps; it has {', '.join(layers)}.")
        self._run, self._forward = run, forward
        self.maps = taps[name].shape[3]

    def draw(self, z: np.ndarray, dropped: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [count, height, width, channels] and maps [count, side, side, maps]; dropped: bool [maps]."""
        images, maps = [], []
        gate, labels = jnp.where(dropped, 0.0, 1.0), self._run.labels(trained.BATCH_SIZE)
        for batch, count in trained.full_batches(z, what):
            image, tap = self._forward(self._run.variables, batch, labels, gate)
            images.append(np.asarray(image)[:count])
            maps.append(np.asarray(tap, np.float32)[:count])
        return np.concatenate(images), np.concatenate(maps)


def fit_maps(maps: np.ndarray, inside: np.ndarray, l1: float) -> Fit:
    """The regression that tells places inside boxes from all others, on the images that have boxes.

    Args:
      maps: [count, side, side, features]; inside: bool [count, side, side].
      l1: see `fit_logistic`.

    Raises:
      UserError: no place lies in a box, or all do.
    """

    def places(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return maps[images][inside[images]], maps[images][~inside[images]]

    marked = np.flatnonzero(inside.any((1, 2)))
    if not len(marked):
        raise UserError("no box covers half of a place of the layer: draw larger boxes, or give a later --layer.")
    if inside[marked].all():
        raise UserError("the boxes cover everything: nothing is left to compare with.")
    fit, test = fit_logistic(*places(marked), l1), marked[::5]
    if len(marked) < 10:
        return fit
    held_in = fit_logistic(*places(np.setdiff1d(marked, test)), l1)
    right = [
        (side @ held_in.weights + held_in.intercept > 0) == bool(i)
        for i, side in zip((1, 0), places(test), strict=True)
    ]
    return fit._replace(accuracy=float(np.mean([kind.mean() for kind in right])))


def outside(mask: np.ndarray) -> np.ndarray:
    """Pixels farther than the margin from every window: bool [count, height, width] of the same."""
    width = 2 * max(1, round(_MARGIN * mask.shape[1])) + 1
    return ~scipy.ndimage.maximum_filter(mask, size=(1, width, width))


def mean_change(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference of uint8 images [count, height, width, channels] over bool [count, height, width]."""
    difference = np.abs(a.astype(np.int16) - b.astype(np.int16)).mean(-1)
    return float(difference[where].mean()) if where.any() else float("nan")


def outlines(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The images with a red (grey images: white) line round what the masks mark."""
    edge = masks & ~scipy.ndimage.minimum_filter(masks, size=(1, 3, 3), mode="constant")
    color = [255, 40, 40] if images.shape[-1] == 3 else [255]
    return np.where(edge[..., None], np.array(color, np.uint8), images)


def main() -> None:
    """Marks windows, fits, drops maps, and measures what changed; see the module."""
    run = _RUN.load()
    name = _LAYER.value or default_layer(run.config)
    layer, out = _Layer(run, name), report.folder(run.workdir, "analysis", NAME)
    file = Path(_BOXES.value) if _BOXES.value else out / "boxes.json"
    by_hand = bool(_BOXES.value) or _ANNOTATE.value or file.exists()

    everything = np.zeros(layer.maps, bool)
    z = run.noise(0, SAMPLES)
    if by_hand:
        drawn = boxes.read(file, run.samples) if file.exists() or not _ANNOTATE.value else []
        masks = boxes.masks(drawn, SAMPLES, run.config.data.image_size)
        images, maps = layer.draw(z, everything, "samples")
        if _ANNOTATE.value:
            annotate.serve(images, file, run.samples, _PORT.value)
            masks = boxes.masks(boxes.read(file, run.samples), SAMPLES, images.shape[1])
        detector = _open_detector(run.config, needed=False)
    else:
        detector = _open_detector(run.config, needed=True)
        images, maps = layer.draw(z, everything, "samples")
        masks = detector.read(images)[BOXES] > 0.5
    if not masks.any():
        who = "there are no boxes" if by_hand else f"the detector sees no window on {SAMPLES} samples"
        raise UserError(f"{who}: draw some with --annotate.")
    fit = fit_maps(maps, cells(masks, maps.shape[1]), _L1.value)
    dropped = fit.weights > 0
    if not dropped.any():
        raise UserError(f"no map has a positive weight at --l1={_L1.value}: give a smaller penalty.")

    # Without a detector nobody knows where the windows of other samples are.
    marked = masks.any((1, 2))
    fresh = run.noise(SAMPLES, _NUM_SAMPLES.value) if detector else z[marked]
    before = layer.draw(fresh, everything, "with all maps")[0]
    windows = detector.read(before)[BOXES] > 0.5 if detector else masks[marked]
    if windows_gone(windows, windows)[0] == 0:
        raise UserError(f"the detector sees no window on {len(fresh)} samples: raise --num_samples.")
    after = layer.draw(fresh, dropped, "without the dropped ones")[0]
    rng = np.random.default_rng(run.seed)
    drops = [layer.draw(fresh, rng.permutation(dropped), f"random drop {i + 1}")[0] for i in range(_RANDOM_DROPS)]
    ours = _effect(before, after, windows, detector)
    each = [_effect(before, drop, windows, detector) for drop in drops]
    chance = {name: float(np.mean([effect[name] for effect in each])) for name in ours}

    figures: dict[str, Any] = {
        "step": run.step,
        "seed": run.seed,
        "layer": name,
        "l1": _L1.value,
        "boxes_from": str(file) if by_hand else "detector",
        "samples_with_boxes": int(marked.sum()),
        "regression_accuracy": fit.accuracy,
        "maps": layer.maps,
        "maps_dropped": int(dropped.sum()),
        "num_samples": len(fresh),
        **ours,
        "random_drop": chance,
        "outside_change_ratio": ours["outside_change"] / max(chance["outside_change"], 1e-9),
    }
    rows = [
        Row("samples with boxes", f"{marked.sum()} of {SAMPLES}", f"{PAPER['boxes']} boxes on {PAPER['samples']}"),
        Row("maps dropped", f"{figures['maps_dropped']} of {layer.maps}", str(PAPER["maps_dropped"])),
        Row(
            "accuracy of the regression, held out",
            "too few boxes" if math.isnan(fit.accuracy) else f"{100 * fit.accuracy:.1f} %",
        ),
        Row("change outside windows (levels)", f"{ours['outside_change']:.1f}"),
        Row("  dropping as many maps at random", f"{chance['outside_change']:.1f}"),
        Row("change inside windows", f"{ours['inside_change']:.1f}"),
        Row("  dropping as many maps at random", f"{chance['inside_change']:.1f}"),
    ]
    if detector:
        quality = detector.targets[BOXES].accuracy
        figures["detector_held_out_iou"] = detector.targets[BOXES].held_out
        rows += [
            Row(f"windows gone of {ours['windows']:.0f} (detector: {quality})", f"{100 * ours['gone_share']:.1f} %"),
            Row("  dropping as many maps at random", f"{100 * chance['gone_share']:.1f} %"),
            Row("area of windows gone", f"{100 * ours['gone_area']:.1f} %"),
            Row("  dropping as many maps at random", f"{100 * chance['gone_area']:.1f} %"),
        ]
    chosen = np.flatnonzero(windows.any((1, 2)))[:SHOWN]
    sheet = np.concatenate([before[chosen], after[chosen], drops[0][chosen]])
    pictures = [
        Picture(
            "dropout.png",
            image_grid.make_grid(sheet, len(chosen)),
            f"Top: samples with windows. Middle: the same z without the {figures['maps_dropped']} window maps. "
            "Bottom: without as many maps drawn at random.",
        ),
        Picture(
            "boxes.png",
            image_grid.make_grid(outlines(images, masks), 15),
            "The samples that the regression learned from, and what counts as a window.",
        ),
    ]
    title = "Forgetting to draw windows (section 6.3.1, figure 6)"
    report.publish(out, Report(title, figures, rows, pictures, PAPER))


@overload
def _open_detector(config: ConfigDict, *, needed: Literal[True]) -> AttributeProbe: ...


@overload
def _open_detector(config: ConfigDict, *, needed: Literal[False]) -> AttributeProbe | None: ...


def _open_detector(config: ConfigDict, *, needed: bool) -> AttributeProbe | None:
    """The probe of the run's images if it sees windows. If it is not needed, no images are packed for it.

    Raises:
      UserError: there is none, but it is needed.
    """
    if not needed:
        try:
            if not opening.pack_path(config.data).exists():
                return None
        except UserError:  # the images are not there any more
            return None
    dataset = opening.open_or_build(config.data)
    if BOXES in dataset.attributes:
        return attribute_probe.open_or_train(dataset)
    if needed:
        raise UserError(
            f"{config.data.source} carries no boxes: draw some on this run's samples with --annotate, or give --boxes."
        )
    return None


def _effect(
    before: np.ndarray, after: np.ndarray, windows: np.ndarray, detector: AttributeProbe | None
) -> dict[str, float]:
    """What dropping maps did: changes in levels 0-255 and, with a detector, the share of windows that are gone."""
    effect = {
        "inside_change": mean_change(before, after, windows),
        "outside_change": mean_change(before, after, outside(windows)),
    }
    if detector:
        left = detector.read(after)[BOXES] > 0.5
        total, gone = windows_gone(windows, left)
        effect |= {"windows": total, "gone_share": gone / total, "gone_area": 1.0 - float(left[windows].mean())}
    return effect


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _LAYER = flags.DEFINE_string("layer", None, "Tap of the generator; default: maps of a quarter of the image's side.")
    _L1 = flags.DEFINE_float("l1", L1, "Penalty of the regression; larger drops fewer maps.", lower_bound=0.0)
    _NUM_SAMPLES = flags.DEFINE_integer(
        "num_samples", 512, "New samples, where a detector sees windows.", lower_bound=1
    )
    _BOXES = flags.DEFINE_string("boxes", None, "File of boxes; default: those of --annotate, else the detector's.")
    _ANNOTATE = flags.DEFINE_bool("annotate", False, "First serve a page on which the mouse draws boxes.")
    _PORT = flags.DEFINE_integer("port", 8765, "Of that page; 0 takes a free one.", lower_bound=0, upper_bound=65535)
    command_line.run(main)
