"""Window dropout: regression, masks and counts by hand, and the command on a trained run."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from PIL import Image

from configs import imagenet32, lsun
from dcgan_jax.analysis import boxes, window_dropout
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import attribute_probe
from dcgan_jax.metrics.attribute_probe import BOXES, AttributeProbe, Target
from dcgan_jax.nets import models
from dcgan_jax.runs import trained
from tests import linear, tiny
from tests.linear import LinearRun
from tests.trained import analyse


def test_default_layer_is_the_one_with_maps_of_a_quarter_of_the_side() -> None:
    assert window_dropout.default_layer(lsun.get_config()) == "deconv2"
    assert window_dropout.default_layer(imagenet32.get_config()) == "deconv2"  # strides 2 1 2 1 2 1: 8 x 8 of 32
    assert window_dropout.default_layer(tiny.config()) == "projection"  # 2 x 2 of 8; the next has 4 x 4


def test_cells_need_more_than_half() -> None:
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0, :2] = True  # half of the first 2 x 2 cell: not enough
    mask[0, 2:, 2:] = [[True, True], [True, False]]  # three quarters of the last
    np.testing.assert_array_equal(window_dropout.cells(mask, 2, 2)[0], [[False, False], [False, True]])


def test_cells_of_maps_that_are_not_square() -> None:
    mask = np.zeros((1, 4, 6), bool)
    mask[0, :2, 4:] = True
    np.testing.assert_array_equal(window_dropout.cells(mask, 2, 3)[0], [[False, False, True], [False, False, False]])


def test_cells_of_a_side_that_does_not_divide() -> None:
    mask = np.zeros((1, 7, 7), bool)
    mask[0, :4, 4:] = True
    np.testing.assert_array_equal(window_dropout.cells(mask, 2, 2)[0], [[False, True], [False, False]])


def test_regression_by_hand() -> None:
    """Each feature has mean 1 outside. At zero weights the gradient of the loss is (mean outside - mean inside) / 4 ...

    ... of each kind's half, so 0.25 * (3 - 1) = 0.5 for the first feature and 0 for the second: a penalty above 0.5
    leaves nothing. Below, the loss of the first feature alone is log(1 + exp(-w)) at distance 1 from the threshold,
    with slope 1 / (1 + exp(w)) = penalty.
    """
    inside, outside = np.array([[3.0, 0.0], [3.0, 2.0]]), np.array([[1.0, 0.0], [1.0, 2.0]])
    assert not window_dropout.fit_logistic(inside, outside, 0.51).weights.any()
    fit = window_dropout.fit_logistic(inside, outside, 0.1)
    np.testing.assert_allclose(fit.weights, [np.log(9), 0], atol=1e-4)
    assert fit.intercept == pytest.approx(-2 * np.log(9), abs=1e-3)


def test_the_plain_regression_by_hand() -> None:
    """Of what is 3 three quarters lie inside, of what is 1 one quarter: log odds of log 3 and -log 3.

    With the second feature it is the other way round, the third says nothing, the fourth is dead.
    """
    one = np.array([3.0, 3.0, 3.0, 1.0])
    fit = window_dropout.fit_plain(one[:, None], 4 - one[:, None])
    np.testing.assert_allclose([fit.weights[0], fit.intercept], [np.log(3), -2 * np.log(3)], atol=1e-4)
    unequal = window_dropout.fit_plain(one[:, None], np.tile(4 - one[:, None], (5, 1)))  # both kinds weigh alike
    np.testing.assert_allclose([unequal.weights[0], unequal.intercept], [np.log(3), -2 * np.log(3)], atol=1e-4)
    noise = np.tile([0.0, 1.0], 4)
    inside = np.stack([np.tile(one, 2), np.repeat([0.0, 0.0, 0.0, 7.0], 2), noise, np.zeros(8)], 1)
    outside = np.stack([4 - np.tile(one, 2), np.repeat([7.0, 7.0, 0.0, 7.0], 2), noise, np.zeros(8)], 1)
    weights = window_dropout.fit_plain(inside, outside).weights
    assert weights[0] > 0 > weights[1] and weights[3] == 0


def test_places_that_can_be_told_apart_have_finite_weights() -> None:
    fit = window_dropout.fit_plain(np.array([[2.0], [3.0]]), np.array([[0.0], [1.0]]))
    assert np.isfinite(fit.weights).all() and fit.weights[0] > 0
    assert (np.array([2.0, 3.0]) * fit.weights[0] + fit.intercept > 0).all()
    assert (np.array([0.0, 1.0]) * fit.weights[0] + fit.intercept < 0).all()


def test_a_map_that_is_silent_outside_is_cheapest() -> None:
    rng = np.random.default_rng(0)
    inside, outside = np.ones((50, 3)), np.zeros((80, 3))
    inside[:, 1] += 0.5 * rng.random(50)
    outside[:, 1] = 0.5 * rng.random(80)
    fit = window_dropout.fit_logistic(inside, outside, 0.2)
    assert fit.weights[0] > 0 and fit.weights[0] > 10 * fit.weights[1]
    assert window_dropout.fit_logistic(np.zeros((5, 2)), np.zeros((5, 2)), 0.2).weights.tolist() == [0, 0]


def test_regression_weighs_both_kinds_alike_and_maps_by_what_they_do_outside() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.random((50, 2)) + np.array([1.0, 0.0]), rng.random((80, 2))
    one = window_dropout.fit_logistic(inside, outside, 0.05)
    repeated = window_dropout.fit_logistic(inside, np.concatenate([outside] * 3), 0.05)
    np.testing.assert_allclose(one.weights, repeated.weights, atol=1e-3)
    scaled = window_dropout.fit_logistic(inside * [1000, 1], outside * [1000, 1], 0.05)
    np.testing.assert_allclose(one.weights, scaled.weights * [1000, 1], atol=1e-3)


def test_fit_finds_the_map_that_marks_windows() -> None:
    rng = np.random.default_rng(0)
    inside = np.zeros((20, 4, 4), bool)
    inside[:, 1, 2] = True
    maps = 0.5 + rng.random((20, 4, 4, 3)).astype(np.float32)
    maps[..., 1] += inside
    fit = window_dropout.fit_maps(maps, inside, partial(window_dropout.fit_logistic, l1=0.05))
    np.testing.assert_array_equal(fit.weights > 0, [False, True, False])
    assert fit.accuracy > 0.9
    plain = window_dropout.fit_maps(maps, inside, window_dropout.fit_plain)
    assert plain.weights[1] > 2 * np.abs(plain.weights[[0, 2]]).max() and plain.accuracy > 0.9
    with pytest.raises(UserError, match="no box covers half of a place"):
        window_dropout.fit_maps(maps, np.zeros_like(inside), window_dropout.fit_plain)
    with pytest.raises(UserError, match="cover everything"):
        window_dropout.fit_maps(maps, np.ones_like(inside), window_dropout.fit_plain)


def test_accuracy_is_that_of_images_not_fitted_to() -> None:
    """As many maps as places, of noise: a regression fits what it sees, and is right by chance elsewhere."""
    rng = np.random.default_rng(0)
    inside = np.zeros((20, 2, 2), bool)
    inside[:, 0] = True
    maps = rng.standard_normal((20, 2, 2, 80)).astype(np.float32)
    fit = window_dropout.fit_maps(maps, inside, window_dropout.fit_plain)
    seen = (maps @ fit.weights + fit.intercept > 0) == inside
    assert seen.mean() == 1.0 and fit.accuracy < 0.8


def test_windows_gone_by_hand() -> None:
    """Two windows of 16 pixels and a speck on a side of 20: one keeps 7 pixels, the other 8."""
    before = np.zeros((1, 20, 20), bool)
    before[0, 0:4, 0:4] = before[0, 10:14, 10:14] = before[0, 19, 19] = True
    after = np.zeros_like(before)
    after[0, 0, :4] = after[0, 1, :3] = after[0, 10:12, 10:14] = True
    assert window_dropout.windows_gone(before, after) == (2, 1)


def test_changes_by_hand() -> None:
    mask = np.zeros((1, 16, 16), bool)
    mask[0, 8, 8] = True
    apart = window_dropout.outside(mask)
    assert apart.sum() == 16 * 16 - 9  # a margin of a pixel
    before = np.zeros((1, 16, 16, 3), np.uint8)
    after = before.copy()
    after[0, 8, 8] = (30, 60, 90)
    after[0, 0, 0] = 247
    assert window_dropout.mean_change(before, after, mask) == 60
    assert window_dropout.mean_change(before, after, apart) == 1
    assert np.isnan(window_dropout.mean_change(before, after, np.zeros_like(mask)))


class Detector:
    """Stands for a probe: what is brighter than a level lies in a window. `targets` holds its accuracy."""

    def __init__(self, level: int, held_out: float) -> None:
        self.level, self.targets = level, {BOXES: Target(BOXES, 0, held_out=held_out)}

    def read(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {BOXES: (images[..., 0] > self.level).astype(np.float32)}


def detectors() -> dict[int, AttributeProbe]:
    """By seed. The second sees fainter windows too."""
    return {0: cast(AttributeProbe, Detector(150, 0.75)), 1: cast(AttributeProbe, Detector(75, 0.5))}


def test_the_effect_by_hand() -> None:
    """Of two windows of 16 pixels, levels of 200, one keeps 4 pixels and the other 12; two pixels outside change by 9.

    The margin is one pixel: 20 x 20 less 2 x 36 are outside.
    """
    before = np.zeros((1, 20, 20, 1), np.uint8)
    windows = np.zeros((1, 20, 20), bool)
    windows[0, 2:6, 2:6] = windows[0, 10:14, 10:14] = True
    before[windows] = 200
    after = before.copy()
    after[0, 3:6, 2:6] = after[0, 13, 10:14] = 100
    after[0, 18, 18:] = 9
    view = window_dropout._View(windows, detectors()[0])
    assert view.effect(before, after) == pytest.approx(
        {
            "inside_change": 100 * 16 / 32,
            "outside_change": 18 / (400 - 72),
            "windows": 2,
            "gone_share": 0.5,
            "gone_area": 16 / 32,
        }
    )
    second = window_dropout._View(windows, detectors()[1]).effect(before, after)
    assert (second["gone_share"], second["gone_area"]) == (0, 0)  # a level of 100 is a window still
    assert set(window_dropout._View(windows, None).effect(before, after)) == {"inside_change", "outside_change"}


def test_as_many_other_maps_at_random() -> None:
    dropped = np.array([True, True, False, False, False, False])
    drawn = [window_dropout.random_maps(dropped, np.random.default_rng(seed)) for seed in range(200)]
    assert all(maps.sum() == 2 for maps in drawn)
    np.testing.assert_allclose(np.mean(drawn, 0), np.full(6, 1 / 3), atol=0.12)  # a standard error of 0.033


class PaintedLayer:
    """Stands for a layer with six maps of 4 x 4 places; each paints squares of 4 pixels, a gain times what it says.

    Map 0 draws a window at one place, in half of the samples a faint one, 1 and 2 draw noise everywhere, 3 draws a dark
    frame wherever there is no window, 4 draws noise and faintly says where the window is, 5 is dead.
    """

    name, maps, gains = "deconv2", 6, np.array([150.0, 10.0, 10.0, 20.0, 30.0, 0.0])

    def __init__(self, run: Any, name: str, label: Any) -> None:
        self.drops: list[tuple[str, np.ndarray]] = []
        PaintedLayer.last = self

    last: "PaintedLayer"

    def draw(self, z: np.ndarray, dropped: np.ndarray, progress: str) -> tuple[np.ndarray, np.ndarray]:
        self.drops.append((progress, dropped))
        maps = self.maps_of(z) * ~dropped
        levels = (maps * self.gains).sum(-1).repeat(4, 1).repeat(4, 2)[..., None]
        return np.round(levels).astype(np.uint8), maps

    @staticmethod
    def maps_of(z: np.ndarray) -> np.ndarray:
        """Activations [count, 4, 4, 6]; the window of a sample is at the place that its first coordinate says."""
        rng = np.random.default_rng(len(z))
        maps = rng.random((len(z), 4, 4, 6))
        place = ((z[:, 0] + 1) / 2 * 16).astype(int).clip(0, 15)
        window = np.zeros((len(z), 16), bool)
        window[np.arange(len(z)), place] = True
        here = window.reshape(-1, 4, 4)
        faint = np.where(z[:, 1] > 0, 0.5, 1.0)
        maps[..., 0], maps[..., 3], maps[..., 5] = here * faint[:, None, None], ~here, 0
        maps[..., 4] += 0.3 * here
        return maps


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> LinearRun:
    """A run with a painted layer, whose data has boxes."""
    rooms = replace(tiny.dataset(6), attributes={BOXES: np.zeros((6, 1, 4), np.float32)})
    monkeypatch.setattr(opening, "open_or_build", lambda data: rooms)
    monkeypatch.setattr(attribute_probe, "open_or_train", lambda dataset, seed=0: detectors()[seed])
    monkeypatch.setattr(window_dropout, "_Layer", PaintedLayer)
    return LinearRun()


def test_an_experiment_with_two_detectors(painted: LinearRun) -> None:
    """Both regressions, both detectors, and the random drops are computed again from the maps that were dropped."""
    report = window_dropout.measure(linear.as_run(painted), num_samples=64)
    layer = PaintedLayer.last
    ours, plain = report.values(), report["plain"]
    assert 0 in ours["dropped"] and set(ours["dropped"]) <= set(plain["dropped"])
    assert 3 not in plain["dropped"] and 5 not in plain["dropped"] and 4 in plain["dropped"]
    z = painted.noise(64, 0, 150)
    maps = layer.maps_of(z)
    bright = int((z[:, 1] <= 0).sum())
    assert 20 < bright == report["windows"] == plain["windows"]
    assert report["second_judge"]["windows"] == plain["second_judge"]["windows"] == 64  # the faint ones too
    assert report["gone_share"] == report["gone_area"] == 1  # nothing else is as bright

    def image(dropped: np.ndarray) -> np.ndarray:
        return np.round((maps * layer.gains * ~dropped).sum(-1)).repeat(4, 1).repeat(4, 2)

    def far_from(windows: np.ndarray) -> np.ndarray:
        near = np.zeros_like(windows)
        for i, y, x in np.argwhere(windows):
            near[i, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
        return ~near

    before = image(np.zeros(6, bool))
    for i, found in ((0, plain), (1, ours)):
        masks = [dropped for progress, dropped in layer.drops if progress.startswith("random drop")][10 * i :][:10]
        of_drop = [dropped for progress, dropped in layer.drops if progress == "without the dropped ones"][i]
        assert np.flatnonzero(of_drop).tolist() == found["dropped"]
        assert all(mask.sum() == found["maps_dropped"] == len(found["dropped"]) for mask in masks)
        assert any((mask != of_drop).any() for mask in masks)
        for judge, level in ((found, 150), (found["second_judge"], 75)):
            outside = far_from(before > level)
            changes = [np.abs(image(mask) - before)[outside].mean() for mask in (of_drop, *masks)]
            assert judge["outside_change"] == pytest.approx(changes[0])
            assert judge["random_drop"]["outside_change"] == pytest.approx(np.mean(changes[1:]))
            assert judge["outside_change_ratio"] == pytest.approx(changes[0] / np.mean(changes[1:]))
            for shares, drawn in ((judge, [of_drop]), (judge["random_drop"], masks)):
                seen = before > level
                left = [(image(mask) > level)[seen].mean() for mask in drawn]
                assert shares["gone_area"] == pytest.approx(1 - np.mean(left))
                rooms = np.flatnonzero(seen.any((1, 2)))
                gone = [np.mean([(image(mask)[k] > level)[seen[k]].mean() < 0.5 for k in rooms]) for mask in drawn]
                assert shares["gone_share"] == pytest.approx(np.mean(gone))
    assert (report["detector_held_out_iou"], report["second_judge"]["detector_held_out_iou"]) == (0.75, 0.5)
    assert report["random_drop"]["gone_share"] < 1
    words = [(row["what"], row["here"]) for row in report.rows()]
    shares = (100 * plain["second_judge"]["gone_share"], 100 * plain["second_judge"]["random_drop"]["gone_share"])
    assert ("  windows gone of 64, second judge; as many at random", f"{shares[0]:.1f} %; {shares[1]:.1f} %") in words
    titles = [what for what, _ in words]
    assert titles.index("plain logistic regression") < titles.index("L1 penalty of 0.2")
    assert np.asarray(report.pictures[0].content).shape == (4 * 16, 10 * 16, 1)


def test_refusals_of_an_experiment_with_detectors(painted: LinearRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = linear.as_run(painted)
    with pytest.raises(UserError, match=r"no map has a positive weight at --l1=1000.0: give a smaller penalty"):
        window_dropout.measure(run, l1=1000.0)
    monkeypatch.setattr(PaintedLayer, "gains", np.full(6, 1.0))
    with pytest.raises(UserError, match="the detector sees no window on 150 samples: draw some with --annotate"):
        window_dropout.measure(run)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gate_of_zero_drops_a_map(precision: str) -> None:
    """Only that map is silent, the image changes, and gates of one change nothing."""
    config = tiny.config({"precision": precision})
    generator = models.build_generator(config)
    state = tiny.fresh_state(config).generator
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    z = jax.random.normal(jax.random.key(0), (3, 5))

    def draw(gate: np.ndarray) -> Any:
        return generator.apply(variables, z, train=False, gates={"deconv1": gate})

    plain, plain_taps = generator.apply(variables, z, train=False)  # type: ignore[misc]
    same, _ = draw(np.ones(4, np.float32))
    np.testing.assert_array_equal(same, plain)
    changed, taps = draw(np.array([1, 0, 1, 1], np.float32))
    assert not taps["deconv1"][..., 1].any()
    np.testing.assert_array_equal(taps["deconv1"][..., [0, 2, 3]], plain_taps["deconv1"][..., [0, 2, 3]])
    assert tiny.largest_difference(changed, plain) > 0


SAMPLES = {"step": 1, "seed": 0, "norm": "running", "label": None, "run_seed": 0}


def write_boxes(path: Path, workdir: Path, **changes: Any) -> Path:
    source = json.loads((workdir / "config.json").read_text())["data"]["source"]
    box = {"x0": 0.0, "y0": 0.0, "x1": 4.0, "y1": 8.0}
    drawn = [{"sample": float(i), **box, **changes} for i in range(20)]
    boxes.write(path, {**SAMPLES, "data": source}, drawn)
    return path


def test_boxes_drive_an_experiment(trained_run: Path, tmp_path: Path) -> None:
    """The left half of 20 samples is marked; without a detector those samples are what is drawn again."""
    file = write_boxes(tmp_path / "boxes.json", trained_run)
    process = analyse("window_dropout", trained_run, f"--boxes={file}", "--l1=0.0001")
    assert process.returncode == 0, process.stderr
    out = trained_run / "analysis" / "window_dropout"
    results = json.loads((out / "results.json").read_text())
    assert (results["samples_with_boxes"], results["num_samples"], results["layer"]) == (20, 20, "projection")
    assert 0 < results["maps_dropped"] <= results["maps"] == 6
    assert results["inside_change"] > 0 and "gone_share" not in results and "second_judge" not in results
    assert results["plain"]["maps_dropped"] == len(results["plain"]["dropped"])
    assert set(results["plain"]["random_drop"]) == {"inside_change", "outside_change"}
    with Image.open(out / "dropout.png") as sheet, Image.open(out / "boxes.png") as marked:
        assert sheet.size == (10 * 8, 4 * 8)
        assert marked.size == (15 * 8, 10 * 8)
        assert np.asarray(marked)[0, 0].tolist() == [255, 40, 40]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"x1": 9.0}, {}, "does not lie in the image of 8 x 8 pixels"),
        ({}, {"seed": 1}, "drawn on other samples (seed 0 there, 1 here)"),
        ({}, {"layer": "conv1"}, "the generator has no layer 'conv1' of maps; it has deconv1, projection"),
    ],
)
def test_bad_input(
    trained_run: Path, tmp_path: Path, changes: dict[str, float], options: dict[str, Any], message: str
) -> None:
    file = write_boxes(tmp_path / "boxes.json", trained_run, **changes)
    with pytest.raises(UserError, match=re.escape(message)):
        window_dropout.measure(trained.load(trained_run), boxes_file=file, **options)


def test_a_command_that_cannot_work(trained_run: Path, tmp_path: Path) -> None:
    process = analyse("window_dropout", trained_run, f"--boxes={tmp_path}/none.json")
    assert process.returncode == 2
    assert "there is no file" in process.stderr and "Traceback" not in process.stderr


def test_images_without_boxes_need_some(trained_run: Path) -> None:
    with pytest.raises(UserError, match="carries no boxes: draw some on this run's samples with --annotate"):
        window_dropout.measure(trained.load(trained_run))


def test_a_layer_that_does_not_exist_is_refused_before_anybody_draws(trained_run: Path) -> None:
    process = analyse("window_dropout", trained_run, "--annotate", "--port=0", "--layer=conv1")
    assert process.returncode == 2
    assert "the generator has no layer 'conv1' of maps" in process.stderr and "Draw boxes" not in process.stdout


def test_done_without_a_box_does_not_fall_back_to_the_detector(trained_run: Path) -> None:
    """The page writes no file when its button is pressed before anything was drawn."""
    done = (
        "import runpy, sys; from dcgan_jax.analysis import annotate; annotate.serve = lambda *arguments: None; "
        "sys.argv[1:1] = ['--annotate', '--seed=17']; "
        "runpy.run_module('dcgan_jax.analysis.window_dropout', run_name='__main__')"
    )
    command = [sys.executable, "-c", done, f"--workdir={trained_run}"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert "boxes.json: draw boxes with --annotate" in process.stderr, process.stderr
