"""Directions in closed form: eigenvectors and correlations by hand, the path, and the command."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import directions
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.models import Generator
from dcgan_jax.runs import trained
from dcgan_jax.runs.trained import Run
from tests import tiny
from tests.trained import analyse


def by_hand(kernel: list[list[float]], gain: list[float], var: list[float]) -> Run:
    """A run whose generator is one dense layer with batch normalisation: two coordinates of z, two units."""
    from dcgan_jax.nets.models import build_generator

    config = tiny.config(
        {
            "data.image_size": 1,
            "data.channels": 2,
            "model.z_dim": 2,
            "model.norm": "all",
            "model.generator.stages": (),
            "model.discriminator.stages": (),
        }
    )
    generator: Generator = build_generator(config).copy(norm_epsilon=0.0)
    arrays = {name: np.array(values, np.float32) for name, values in (("kernel", kernel), ("gain", gain), ("var", var))}
    variables = {
        "params": {
            "projection": {"kernel": arrays["kernel"]},
            "projection_norm": {"gain": arrays["gain"], "shift": np.zeros(2, np.float32)},
        },
        "batch_stats": {"projection_norm": {"mean": np.zeros(2, np.float32), "var": arrays["var"]}},
    }
    return cast(Run, SimpleNamespace(generator=generator, variables=variables))


def test_eigenvectors_by_hand() -> None:
    """W = [[2, 1], [1, 2]]: W W^T = [[5, 4], [4, 5]], whose eigenvalues are 9 for (1, 1) and 1 for (1, -1)."""
    run = by_hand([[2, 1], [1, 2]], [1, 1], [1, 1])
    found, eigenvalues = directions.closed_form(run)
    np.testing.assert_allclose(eigenvalues, [9, 1], rtol=1e-5)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found[0], [half, half], rtol=1e-5)
    np.testing.assert_allclose(np.abs(found[1]), [half, half], rtol=1e-5)
    assert found[1].prod() < 0 and found[1][np.abs(found[1]).argmax()] > 0


def test_batch_normalisation_is_folded_in() -> None:
    """Units scaled by 6 / sqrt(4) = 3 and 1 / sqrt(100): the first column of W counts, then the second one."""
    run = by_hand([[1, 0], [0, 2]], [6, 1], [4, 100])
    found, eigenvalues = directions.closed_form(run)
    np.testing.assert_allclose(found, [[1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(eigenvalues, [9, 0.04], rtol=1e-5)
    found, eigenvalues = directions.closed_form(run, folded=False)
    np.testing.assert_allclose(found, [[0, 1], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(eigenvalues, [4, 1], rtol=1e-5)


def test_labels_are_no_directions(conditional_run: Path) -> None:
    found, eigenvalues = directions.closed_form(trained.load(conditional_run))
    assert found.shape == (5, 5) and eigenvalues.shape == (5,)
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-5)
    assert (np.diff(eigenvalues) <= 0).all()


def test_the_path_by_hand() -> None:
    """z = (0.5, 0.25) along the first axis, a standard deviation of 0.2; the second coordinate stays."""
    z, axis = np.array([[0.5, 0.25]], np.float32), np.array([1, 0], np.float32)
    path = directions.along(z, axis, 0.2, "uniform")
    np.testing.assert_allclose(path[0, :, 0], [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6], atol=1e-6)
    np.testing.assert_allclose(path[0, :, 1], 0.25)
    clipped = directions.along(z, axis, 0.5, "uniform")
    np.testing.assert_allclose(clipped[0, :, 0], [-1, -1, -0.5, 0, 0.5, 1, 1], atol=1e-6)


def test_correlation_by_hand() -> None:
    """Two samples of three steps. A reading that follows the step, one that opposes it, one that never changes."""
    follows = np.array([[0, 1, 2], [0, 1, 2]], float)
    offset = np.array([[0, 1, 2], [2, 3, 4]], float)  # variance of the steps 2/3, of the samples 1
    values = np.stack([follows, -follows, np.ones((2, 3)), offset], -1)[None]
    expected = [1, -1, 0, np.sqrt((2 / 3) / (2 / 3 + 1))]
    np.testing.assert_allclose(directions.correlation(values), [expected], atol=1e-9)


class Reader:
    """Stands for a probe: the brightness of an image, and whether it is light."""

    def __init__(self) -> None:
        self.targets = {
            "bright": directions.attribute_probe.Target("bright", 0, held_out=0.9),
            "light": directions.attribute_probe.Target("light", 2, held_out=0.8),
            "label": directions.attribute_probe.Target("label", 3, held_out=0.7),
        }

    def read(self, images: np.ndarray) -> dict[str, np.ndarray]:
        bright = images.astype(float).mean((1, 2, 3))
        light = (bright > 100).astype(float)
        return {
            "bright": bright,
            "light": np.stack([1 - light, light], 1),
            "label": np.stack([bright, -bright, 0 * bright], 1),
        }


def test_readings_are_correlated_by_name(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "_probe", lambda run: (Reader(), ""))
    report = directions.measure(trained.load(trained_run), directions=2, samples=3)
    assert report["attributes"] == ["bright", "light=1", "label=0", "label=1", "label=2"]
    bright, _, first, second, third = np.array(report["correlations"]).T
    assert len(bright) == 2 + 8 and np.abs(bright).max() > 0
    np.testing.assert_allclose(first, bright)
    np.testing.assert_allclose(second, -bright)
    assert not third.any()
    assert report["probe_held_out"] == {"bright": 0.9, "light": 0.8, "label": 0.7}
    assert report["no_probe"] == ""


def test_the_command_and_the_function_give_the_same(trained_run: Path) -> None:
    flags = ("--directions=3", "--samples=4")
    process = analyse("directions", trained_run, *flags)
    assert process.returncode == 0, process.stderr
    out = trained_run / "analysis" / "directions"
    results = json.loads((out / "results.json").read_text())
    run = trained.load(trained_run)
    found, eigenvalues = directions.closed_form(run)
    np.testing.assert_array_equal(np.load(out / "directions.npy"), found)
    np.testing.assert_allclose(results["eigenvalues"], eigenvalues)
    assert len(results["change"]) == len(results["change_standard_error"]) == 3
    assert "neither labels nor attributes" in results["no_probe"] and results["no_probe"] in process.stdout
    with Image.open(out / "directions.png") as sheet:
        assert sheet.size == (7 * 8, 3 * 2 * 8)
    again = directions.measure(run, directions=3, samples=4)
    assert again["change"] == results["change"]


def test_the_change_is_relative_to_random_directions(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every direction is as strong as random ones where all are random."""
    run = trained.load(trained_run)
    vectors = np.random.default_rng(9).standard_normal((5, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(directions, "closed_form", lambda run, folded: (vectors, np.ones(5)))
    report = directions.measure(run, directions=5, samples=16)
    assert np.mean(report["change"]) == pytest.approx(1.0, abs=0.4)
    half = report["random_change"]
    moved = directions.along(run.noise(16), vectors[0], 1 / np.sqrt(3), "uniform")
    images = run.generate(moved.reshape(-1, 5)).astype(float).reshape(16, 7, -1)
    by_hand = np.abs(np.diff(images, axis=1)).mean()
    assert report["change"][0] == pytest.approx(by_hand / half, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": 6}, "--directions=6 must be 1 to 5"),
        ({"directions": 2, "samples": 1}, "--samples=1 must be 2 or more"),
    ],
)
def test_bad_input(trained_run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        directions.measure(trained.load(trained_run), **options)
