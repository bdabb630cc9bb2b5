"""Window dropout: regression, masks and counts by hand, and the command on a trained run."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from configs import imagenet32, lsun
from dcgan_jax.analysis import boxes, window_dropout
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
from dcgan_jax.runs import trained
from tests import tiny
from tests.trained import analyse


def test_default_layer_is_the_one_with_maps_of_a_quarter_of_the_side() -> None:
    assert window_dropout.default_layer(lsun.get_config()) == "deconv2"
    assert window_dropout.default_layer(imagenet32.get_config()) == "deconv2"  # strides 2 1 2 1 2 1: 8 x 8 of 32
    assert window_dropout.default_layer(tiny.config()) == "projection"  # 2 x 2 of 8; the next has 4 x 4


def test_cells_need_more_than_half() -> None:
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0, :2] = True  # half of the first 2 x 2 cell: not enough
    mask[0, 2:, 2:] = [[True, True], [True, False]]  # three quarters of the last
    np.testing.assert_array_equal(window_dropout.cells(mask, 2)[0], [[False, False], [False, True]])


def test_cells_of_a_side_that_does_not_divide() -> None:
    mask = np.zeros((1, 7, 7), bool)
    mask[0, :4, 4:] = True
    np.testing.assert_array_equal(window_dropout.cells(mask, 2)[0], [[False, True], [False, False]])


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
    fit = window_dropout.fit_maps(maps, inside, 0.05)
    np.testing.assert_array_equal(fit.weights > 0, [False, True, False])
    assert fit.accuracy > 0.9
    with pytest.raises(UserError, match="no box covers half of a place"):
        window_dropout.fit_maps(maps, np.zeros_like(inside), 0.05)
    with pytest.raises(UserError, match="cover everything"):
        window_dropout.fit_maps(maps, np.ones_like(inside), 0.05)


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
    assert results["inside_change"] > 0 and "gone_share" not in results
    with Image.open(out / "dropout.png") as sheet, Image.open(out / "boxes.png") as marked:
        assert sheet.size == (10 * 8, 3 * 8)
        assert marked.size == (15 * 8, 10 * 8)
        assert np.asarray(marked)[0, 0].tolist() == [255, 40, 40]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"x1": 9.0}, {}, "does not lie in the image, whose side is 8 pixels"),
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
