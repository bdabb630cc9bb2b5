"""Guided backpropagation by hand, its figures by hand, and the command on a trained run."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import guided_backprop
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.activations import leaky_relu
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import trained
from tests import tiny
from tests.trained import analyse


def test_gradient_passes_only_where_activation_and_gradient_are_positive() -> None:
    x = jnp.array([1.0, 2.0, -1.0, -2.0])
    weights = jnp.array([3.0, -4.0, 5.0, -6.0])
    value, gradient = jax.value_and_grad(lambda x: (weights * guided_backprop.guided(leaky_relu)(x)).sum())(x)
    assert value == pytest.approx(3 - 8 + 5 * -0.2 + -6 * -0.4)  # forward, it is LeakyReLU
    np.testing.assert_allclose(gradient, [3, 0, 0, 0])


def test_two_layers_by_hand() -> None:
    """y = w2 . relu(W1 x): unit 0 is active with a positive weight, unit 1 active but negative, unit 2 not active."""
    first = jnp.array([[1.0, 1.0, -1.0], [-2.0, 1.0, 1.0]])
    second = jnp.array([2.0, -1.0, 3.0])
    x = jnp.array([3.0, 1.0])

    def network(x: jax.Array) -> jax.Array:
        return second @ guided_backprop.guided(leaky_relu)(x @ first)

    np.testing.assert_allclose(jax.grad(network)(x), 2.0 * first[:, 0])


def test_concentration_by_hand() -> None:
    """20 pixels, so the strongest tenth are two of them: energies 9 + 4 of 9 + 4 + 1 + 1."""
    gradients = np.zeros((3, 4, 5, 1))
    gradients[0, 0, :4, 0] = (3, -2, 1, 1)
    gradients[1] = 7
    share = guided_backprop.concentration(gradients)
    np.testing.assert_allclose(share[:2], [13 / 15, 0.1])
    assert np.isnan(share[2])


def test_area_under_curve_by_hand() -> None:
    """Pairs of (positive, negative) in the right order: of 2 x 2 all, three, and with a tie 3.5."""
    positive = np.array([True, True, False, False])
    responses = np.array([[4.0, 4.0, 2.0], [3.0, 2.0, 4.0], [2.0, 3.0, 2.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(guided_backprop.area_under_curve(responses, positive), [1, 0.75, 0.875])


def test_selectivity_names_the_best_attribute() -> None:
    dataset = tiny.dataset(count=6, classes=2)  # labels 0 1 0 1 0 1
    dataset.attributes["lamp"] = np.array([0, 0, 0, 1, 1, 1], np.int32)
    numbers = np.array([5, 4, 3, 2, 1, 0])
    lamp, label = dataset.attributes["lamp"][numbers], dataset.labels[numbers] if dataset.labels is not None else None
    assert label is not None
    responses = np.stack([lamp, -lamp, label], 1).astype(float)  # the second map is silent where there is a lamp
    areas, names = guided_backprop.selectivity(responses, dataset, numbers) or ([], [])
    np.testing.assert_allclose(areas, 1)
    assert names == ["lamp=1", "lamp=1", "label=1"]
    assert guided_backprop.selectivity(responses, tiny.dataset(count=6), numbers) is None
    _, named = guided_backprop.selectivity(responses, dataset, numbers, conditional=True) or ([], [])
    assert named == ["lamp=1"] * 3


def test_command(labelled_run: Path) -> None:
    process = analyse("guided_backprop", labelled_run, "--features=0,3", "--num_images=20")
    assert process.returncode == 0, process.stderr
    out = labelled_run / "analysis" / "guided_backprop"
    results = json.loads((out / "results.json").read_text())
    assert results["features"] == [0, 3] and results["num_images"] == 20
    for measure in ("concentration", "selectivity"):  # one step of training changes both
        assert results[f"trained_{measure}"] != results[f"untrained_{measure}"]
    again = guided_backprop.measure(trained.load(labelled_run), features=(0, 3), num_images=20)
    assert {name: results[name] for name in again.values()} == again.values()
    assert image_grid.png(np.asarray(again.pictures[0].content)) == (out / "guided.png").read_bytes()
    with Image.open(out / "guided.png") as sheet:
        assert sheet.size == (4 * 5 * 8 + 3 * 8, 2 * 8)  # four blocks of five images, gaps of 8


def test_bad_input(labelled_run: Path) -> None:
    run = trained.load(labelled_run)
    with pytest.raises(UserError, match="there is no map 6; they are numbered 0 to 5"):
        guided_backprop.measure(run, features=[6])
    with pytest.raises(UserError, match="/nowhere"):
        guided_backprop.measure(run, source="folder:/nowhere")
    process = analyse("guided_backprop", labelled_run, "--features=a")
    assert process.returncode == 2
    assert "must be numbers of maps" in process.stderr and "Traceback" not in process.stderr
