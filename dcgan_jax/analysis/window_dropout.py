"""Forgetting to draw windows, or anything else that boxes can mark [paper section 6.3.1, figure 6].

    python -m dcgan_jax.analysis.window_dropout --workdir=runs/toy_bedrooms
    python -m dcgan_jax.analysis.window_dropout --workdir=runs/lsun --annotate

Windows are marked by boxes on 150 samples. A logistic regression then tells, from the activations of one generator
layer at one place, whether the place lies in a box; every map with a positive weight is dropped (set to zero
everywhere), and new samples are drawn from the same z with and without them.

Boxes come from a page in the browser (--annotate; they are kept in analysis/window_dropout/boxes.json), from any such
file (--boxes), or, where the data itself carries boxes, from a detector trained on it (attribute_probe.py). The
detector also counts the windows that are gone. A second detector, trained from another seed, marks and counts windows
of its own, and has not marked those that the regression learned from. Beside the windows stands the change of
everything outside them, for the dropped maps and for as many maps drawn at random.

There are two regressions, and the experiment is made with both:

    plain      the paper's: a logistic regression without a penalty. A ridge too small to matter makes its weights
               finite where the places can be told apart without error.
    L1         ours: a penalty (--l1), in proportion to a map's mean activation outside the boxes, sets the weights of
               maps to zero that say little about windows or that much else is drawn with. A larger penalty drops fewer
               maps.

The paper names no penalty and does not say how many negatives it took. In both regressions all places outside weigh as
much as all places inside. The paper dropped 200 maps, of a layer with 256 or more: "the second highest" can only be the
second below the last hidden one, with maps of a quarter of the image's side (--layer).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.reports import image_grid, report
from dcgan_jax.reports.report import Figure, Picture, Report
from dcgan_jax.runs import run_flags
from dcgan_jax.runs.sampler import BATCH_SIZE, full_batches
from dcgan_jax.runs.trained import Run

NAME = "window_dropout"
TITLE = "Forgetting to draw windows (section 6.3.1, figure 6)"
BOXES_FILE = "boxes.json"  # in the folder of the results
SAMPLES, SHOWN = 150, 10  # [paper section 6.3.1; figure 6 has 10 pairs]
L1 = 0.2
PAPER: dict[str, Any] = {"samples": 150, "boxes": 52, "maps_dropped": 200}
_LEAST_AREA = 0.01  # of the image: smaller spots of the detector are not windows
_GONE = 0.5  # a window is gone when the detector marks less than half of it, the usual overlap for a detection
_SILENT = 1e-3  # see `fit_logistic`
_MARGIN = 1 / 16  # of the image's height: what is nearer to a window counts as neither in nor outside
_RANDOM_DROPS = 10
# Of the plain regression, on features of standard deviation 1 and a mean loss: that of scikit-learn's
# LogisticRegression with C = 1 on a million examples.
_RIDGE = 1e-6

Detectors = tuple[AttributeProbe, ...]  # the one that marks boxes and the second judge, or none


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
    side, _ = models.first_sides(image_shape(config.data), stages)  # as large a part of the width
    for i, (_, stride) in enumerate(stages[:-1], 1):
        side *= stride
        if side <= config.data.image_size / 4:
            name = f"deconv{i}"
    return name


def cells(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Places of a layer that a mask covers by more than half: bool [count, height, width] -> [count, rows, columns]."""
    y, x = (
        np.linspace(0, side, places + 1).round().astype(int)[:-1]
        for side, places in zip(mask.shape[1:], (rows, columns), strict=True)
    )
    sums = np.add.reduceat(np.add.reduceat(mask.astype(float), y, 1), x, 2)
    area = np.add.reduceat(np.add.reduceat(np.ones_like(mask, float), y, 1), x, 2)
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
    log_loss, count = _log_loss(inside / scale, outside / scale), inside.shape[1]

    # weights = up - down with both >= 0 makes the penalty smooth.
    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        up, down = parameters[:count], parameters[count:-1]
        loss, gradient, slope = log_loss(up - down, parameters[-1])
        return loss + l1 * (up.sum() + down.sum()), np.concatenate([gradient + l1, l1 - gradient, [slope]])

    bounds = [(0, None)] * (2 * count) + [(None, None)]
    options = {"maxiter": 5000, "maxfun": 10_000}
    found = scipy.optimize.minimize(objective, np.zeros(2 * count + 1), jac=True, bounds=bounds, options=options).x
    return Fit((found[:count] - found[count:-1]) / scale, float(found[-1]))


def fit_plain(inside: np.ndarray, outside: np.ndarray) -> Fit:
    """The regression that minimises the log loss alone, each kind weighing half; see _RIDGE.

    Args:
      inside, outside: features [examples, features] of places inside and outside boxes.
    """
    both = np.concatenate([inside, outside])
    centre, scale = both.mean(0, dtype=np.float64), both.std(0, dtype=np.float64)
    scale[scale == 0] = 1.0  # dead
    log_loss = _log_loss((inside - centre) / scale, (outside - centre) / scale)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters[:-1]
        loss, gradient, slope = log_loss(weights, parameters[-1])
        return loss + _RIDGE / 2 * (weights @ weights), np.append(gradient + _RIDGE * weights, slope)

    options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-12, "gtol": 1e-8}
    start = np.zeros(len(scale) + 1)
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    weights = found[:-1] / scale
    return Fit(weights, float(found[-1] - centre @ weights))


def _log_loss(
    inside: np.ndarray, outside: np.ndarray
) -> Callable[[np.ndarray, float], tuple[float, np.ndarray, float]]:
    """(weights, intercept) -> the log loss, each kind weighing half, and its gradient in both."""
    x = np.concatenate([inside, outside])
    sign = np.repeat([1.0, -1.0], [len(inside), len(outside)])
    share = np.repeat([0.5 / len(inside), 0.5 / len(outside)], [len(inside), len(outside)])

    def log_loss(weights: np.ndarray, intercept: float) -> tuple[float, np.ndarray, float]:
        margin = sign * (x @ weights + intercept)
        slope = -share * sign * scipy.special.expit(-margin)
        return float(share @ np.logaddexp(0, -margin)), x.T @ slope, float(slope.sum())

    return log_loss


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

    def __init__(self, run: Run, name: str, label: int | None) -> None:
        """Raises UserError if there is no such layer of maps."""
        generator = run.generator

        @jax.jit
        def forward(variables: Tree, z: jax.Array, labels: Any, gate: jax.Array) -> tuple[jax.Array, jax.Array]:
            images, taps = generator.apply(variables, z, labels, train=False, gates={name: gate})
            return pixels.to_uint8(images, generator.output), taps[name]

        z = np.zeros((1, generator.z_dim), np.float32)
        labels = run.sampler.labels(0, 1, label)
        taps = jax.eval_shape(lambda: generator.apply(run.state.generator.variables, z, labels, train=False)[1])
        layers = [tap for tap, value in taps.items() if len(value.shape) == 4 and tap != "image"]
        if name not in layers:
            raise UserError(f"the generator has no layer {name!r} of maps; it has {', '.join(layers)}.")
        self._run, self._forward, self._label = run, forward, label
        self.name, self.maps = name, taps[name].shape[3]

    def draw(self, z: np.ndarray, dropped: np.ndarray, progress: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [count, height, width, channels] and maps [count, rows, columns, maps]; dropped: bool [maps]."""
        images, maps = [], []
        gate, labels = jnp.where(dropped, 0.0, 1.0), self._run.sampler.labels(0, BATCH_SIZE, self._label)
        for batch, count in full_batches(z, progress):
            image, tap = self._forward(self._run.variables, batch, labels, gate)
            images.append(np.asarray(image)[:count])
            maps.append(np.asarray(tap, np.float32)[:count])
        return np.concatenate(images), np.concatenate(maps)


def fit_maps(maps: np.ndarray, inside: np.ndarray, regress: Callable[[np.ndarray, np.ndarray], Fit]) -> Fit:
    """The regression that tells places inside boxes from all others, on the images that have boxes.

    Args:
      maps: [count, rows, columns, features]; inside: bool [count, rows, columns].
      regress: `fit_plain`, or `fit_logistic` with its penalty.

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
    fit, test = regress(*places(marked)), marked[::5]
    if len(marked) < 10:
        return fit
    held_in = regress(*places(np.setdiff1d(marked, test)))
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


class _View(NamedTuple):
    """The windows of some samples, bool [count, height, width], and the detector that saw them; None: boxes by hand."""

    windows: np.ndarray
    detector: AttributeProbe | None

    def effect(self, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
        """What dropping maps did to images uint8 [count, height, width, channels].

        Returns:
          Mean changes in levels 0-255: inside_change, outside_change; with a detector the number of windows, gone_share
          of them, and gone_area, the share of their pixels that the detector marks no more.
        """
        effect = {
            "inside_change": mean_change(before, after, self.windows),
            "outside_change": mean_change(before, after, outside(self.windows)),
        }
        if self.detector:
            left = _windows(self.detector, after)
            total, gone = windows_gone(self.windows, left)
            area = 1.0 - float(left[self.windows].mean())
            effect |= {"windows": total, "gone_share": gone / total, "gone_area": area}
        return effect


class _Drop(NamedTuple):
    """What dropping the maps with a positive weight did.

    Attributes:
      fit: the regression.
      dropped: bool [maps].
      after: images without them, uint8 [count, height, width, channels].
      random: without as many maps, the first random draw.
      effects: one for each view, see `_View.effect`; with 'random_drop', the mean effect of as many maps dropped at
        random, and 'outside_change_ratio', of the change outside windows to that of a random drop.
    """

    fit: Fit
    dropped: np.ndarray
    after: np.ndarray
    random: np.ndarray
    effects: list[dict[str, Any]]

    def values(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "dropped": np.flatnonzero(self.dropped).tolist(),
            "maps_dropped": int(self.dropped.sum()),
            "regression_accuracy": self.fit.accuracy,
            **self.effects[0],
            **({"second_judge": self.effects[1]} if len(self.effects) > 1 else {}),
        }


def _drop(layer: _Layer, z: np.ndarray, before: np.ndarray, fit: Fit, views: Sequence[_View], seed: int) -> _Drop:
    """Draws the samples of z, whose images with all maps are `before`, without maps of the regression."""
    dropped, rng = fit.weights > 0, np.random.default_rng(seed)
    after = layer.draw(z, dropped, "without the dropped ones")[0]
    drawn = [layer.draw(z, random_maps(dropped, rng), f"random drop {i + 1}")[0] for i in range(_RANDOM_DROPS)]
    effects: list[dict[str, Any]] = []
    for view in views:
        effect, each = view.effect(before, after), [view.effect(before, random) for random in drawn]
        chance = {name: float(np.mean([one[name] for one in each])) for name in effect}
        ratio = effect["outside_change"] / max(chance["outside_change"], 1e-9)
        held_out = {"detector_held_out_iou": view.detector.targets[BOXES].held_out} if view.detector else {}
        effects.append({**effect, **held_out, "random_drop": chance, "outside_change_ratio": ratio})
    return _Drop(fit, dropped, after, drawn[0], effects)


def random_maps(dropped: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many maps drawn at random as `dropped` has, bool [maps]."""
    return rng.permutation(dropped)


def measure(
    run: Run,
    *,
    layer: str | None = None,
    l1: float = L1,
    num_samples: int = 512,
    boxes_file: Path | None = None,
    seed: int = 0,
    label: int | str | None = None,
) -> Report:
    """Marks windows, fits, drops maps, and measures what changed; see the module.

    Args:
      run: a trained run.
      layer: tap of the generator; None: see `default_layer`.
      l1: penalty of the second regression; larger drops fewer maps.
      num_samples: new samples, where a detector sees windows.
      boxes_file: boxes on the first SAMPLES samples, see boxes.py; None: a detector marks them.
      seed: of the samples and of the random drops.
      label: class of all images of a conditional network; None: class 0.

    Returns:
      What dropping the maps of the L1 regression changed in and outside the windows, the share of windows that are gone
      where a detector can tell, and the same for as many maps drawn at random ('random_drop'); what a second detector
      tells ('second_judge'); and all of this for the plain regression ('plain').

    Raises:
      UserError: there is no such layer, there are no boxes, or nothing is left to drop or to compare with.
    """
    maps_of = _Layer(run, layer or default_layer(run.config), run.one_label(label))
    everything = np.zeros(maps_of.maps, bool)
    z = run.noise(SAMPLES, seed)
    if boxes_file:
        drawn = boxes.read(boxes_file, boxes.samples_of(run, seed, label))
        masks = boxes.masks(drawn, SAMPLES, *run.generator.image_shape[:2])
        detectors = _open_packed_detectors(run.config)
        images, maps = maps_of.draw(z, everything, "samples")
    else:
        detectors = _open_detectors(run.config)
        images, maps = maps_of.draw(z, everything, "samples")
        masks = _windows(detectors[0], images)
    if not masks.any():
        nothing = "there are no boxes" if boxes_file else f"the detector sees no window on {SAMPLES} samples"
        raise UserError(f"{nothing}: draw some with --annotate.")
    inside = cells(masks, *maps.shape[1:3])
    plain, ours = (fit_maps(maps, inside, regress) for regress in (fit_plain, partial(fit_logistic, l1=l1)))
    if not (ours.weights > 0).any():
        raise UserError(f"no map has a positive weight at --l1={l1}: give a smaller penalty.")

    # Without a detector nobody knows where the windows of other samples are.
    marked = masks.any((1, 2))
    fresh = run.noise(num_samples, seed, SAMPLES) if detectors else z[marked]
    before = maps_of.draw(fresh, everything, "with all maps")[0]
    views = [_View(_windows(detector, before), detector) for detector in detectors] or [_View(masks[marked], None)]
    if any(windows_gone(view.windows, view.windows)[0] == 0 for view in views):
        raise UserError(f"a detector sees no window on {len(fresh)} samples: raise --num_samples.")
    drops = [_drop(maps_of, fresh, before, fit, views, seed) for fit in (plain, ours)]

    count = int(drops[1].dropped.sum())
    figures = [
        Figure("step", run.step),
        Figure("seed", seed),
        Figure("layer", maps_of.name),
        Figure("l1", l1),
        Figure("boxes_from", str(boxes_file) if boxes_file else "detector"),
        Figure(
            "samples_with_boxes",
            int(marked.sum()),
            "samples with boxes",
            f"{marked.sum()} of {SAMPLES}",
            paper_here=f"{PAPER['boxes']} boxes on {PAPER['samples']}",
        ),
        Figure("maps", maps_of.maps),
        Figure("num_samples", len(fresh)),
        *(
            Figure("", text=f"the {which} on windows, held out", here=detector.targets[BOXES].accuracy)
            for which, detector in zip(("detector", "second judge"), detectors, strict=False)
        ),
        Figure("", text="plain logistic regression", paper_here="plain"),
        *_lines(drops[0], maps_of.maps),
        Figure("", text=f"L1 penalty of {l1:g}"),
        *_lines(drops[1], maps_of.maps),
        *(Figure(name, value) for name, value in drops[1].values().items()),
        Figure("plain", drops[0].values()),
    ]
    chosen = np.flatnonzero(views[0].windows.any((1, 2)))[:SHOWN]
    sheet = np.concatenate([before[chosen], drops[0].after[chosen], drops[1].after[chosen], drops[1].random[chosen]])
    pictures = [
        Picture(
            "dropout.png",
            image_grid.make_grid(sheet, len(chosen)),
            "Rows: samples with windows; the same z without the "
            f"{drops[0].dropped.sum()} maps of the plain regression; without the {count} of the L1 regression; without "
            f"{count} maps drawn at random.",
        ),
        Picture(
            "boxes.png",
            image_grid.make_grid(outlines(images, masks), 15),
            "The samples that the regression learned from, and what counts as a window.",
        ),
    ]
    return Report(TITLE, figures, pictures, paper=PAPER)


def _lines(drop: _Drop, maps: int) -> list[Figure]:
    """The table of one regression: effects beside as many maps dropped at random, then the second judge's."""

    def percent(share: float) -> str:
        return f"{100 * share:.1f} %"

    accuracy, count = drop.fit.accuracy, int(drop.dropped.sum())
    words = "too few boxes" if math.isnan(accuracy) else percent(accuracy)
    lines = [
        Figure("", text="  maps dropped", here=f"{count} of {maps}", paper_here=str(PAPER["maps_dropped"])),
        Figure("", text="  accuracy, held out", here=words),
    ]
    for effect, judge in zip(drop.effects, ("", ", second judge"), strict=False):
        chance = effect["random_drop"]
        texts: dict[str, tuple[str, Callable[[float], str]]] = {
            "outside_change": ("change outside windows (levels)", "{:.1f}".format),
            "inside_change": ("change inside windows", "{:.1f}".format),
        }
        if "windows" in effect:
            texts |= {
                "gone_share": (f"windows gone of {effect['windows']}", percent),
                "gone_area": ("area of windows gone", percent),
            }
        for name, (text, here) in texts.items():
            both = f"{here(effect[name])}; {here(chance[name])}"
            lines.append(Figure("", text=f"  {text}{judge}; as many at random", here=both))
    return lines


def main() -> None:
    run, out = _RUN.load(), report.folder(Path(_RUN.workdir.value), "analysis", NAME)
    seed, label = _RUN.seed.value, _RUN.label.value
    file = Path(_BOXES.value) if _BOXES.value else out / BOXES_FILE
    if _ANNOTATE.value:
        # A layer that does not exist is an error before anybody has drawn boxes.
        _Layer(run, _LAYER.value or default_layer(run.config), run.one_label(label))
        _annotate(run, file, seed, label, _PORT.value)
    found = measure(
        run,
        layer=_LAYER.value,
        l1=_L1.value,
        num_samples=_NUM_SAMPLES.value,
        boxes_file=file if _BOXES.value or _ANNOTATE.value or file.exists() else None,
        seed=seed,
        label=label,
    )
    report.publish(out, found)


def _annotate(run: Run, file: Path, seed: int, label: int | str | None, port: int) -> None:
    """Serves the page on which boxes are drawn. Raises UserError if the file holds boxes of other samples."""
    samples = boxes.samples_of(run, seed, label)
    if file.exists():
        boxes.masks(boxes.read(file, samples), SAMPLES, *run.generator.image_shape[:2])
    images = run.generate(run.noise(SAMPLES, seed), run.one_label(label), "samples")
    annotate.serve(images, file, samples, port)


def _windows(detector: AttributeProbe, images: np.ndarray) -> np.ndarray:
    """Where the detector sees windows, bool [count, height, width]."""
    return detector.read(images)[BOXES] > 0.5


def _open_packed_detectors(config: ConfigDict) -> Detectors:
    """The probes of the run's images if they see windows; () if these are not packed, which they are not for this."""
    try:
        if not opening.pack_path(config.data).exists():
            return ()
    except UserError:  # the images are not there any more
        return ()
    dataset = opening.open_or_build(config.data)
    return attribute_probe.open_judges(dataset) if BOXES in dataset.attributes else ()


def _open_detectors(config: ConfigDict) -> Detectors:
    """The probes of the run's images, which see windows. Raises UserError if they carry no boxes."""
    dataset = opening.open_or_build(config.data)
    if BOXES not in dataset.attributes:
        raise UserError(
            f"{config.data.source} carries no boxes: draw some on this run's samples with --annotate, or give --boxes."
        )
    return attribute_probe.open_judges(dataset)


if __name__ == "__main__":
    _RUN = run_flags.define_flags()
    _LAYER = flags.DEFINE_string("layer", None, "Tap of the generator; default: maps of a quarter of the image's side.")
    _L1 = flags.DEFINE_float("l1", L1, "Penalty of the regression; larger drops fewer maps.", lower_bound=0.0)
    _NUM_SAMPLES = flags.DEFINE_integer(
        "num_samples", 512, "New samples, where a detector sees windows.", lower_bound=1
    )
    _BOXES = command_line.define_path(
        "boxes", None, "File of boxes; default: those of --annotate, else the detector's."
    )
    _ANNOTATE = flags.DEFINE_bool("annotate", False, "First serve a page on which the mouse draws boxes.")
    _PORT = flags.DEFINE_integer("port", 8765, "Of that page; 0 takes a free one.", lower_bound=0, upper_bound=65535)
    command_line.run(main)
