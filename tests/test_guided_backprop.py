"""Guided backpropagation by hand, its figures by hand, and the command on a trained run."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import guided_backprop
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
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


@pytest.mark.parametrize("kernel_size", [3, 4, 5])
@pytest.mark.parametrize("resampling", ["strided", "pooling"])
def test_receptive_fields_by_trying_every_pixel(resampling: str, kernel_size: int) -> None:
    """With weights of one, a place answers to a single bright pixel if and only if it sees that pixel."""
    height, width = 16, 24
    network = models.build_discriminator(
        tiny.config(
            {
                "data.image_size": height,
                "data.image_width": width,
                "data.channels": 1,
                "model.norm": "none",
                "model.kernel_size": kernel_size,
                "model.resampling": resampling,
                "model.discriminator.stages": ((2, 2), (2, 1), (2, 2)),
                "model.generator.stages": ((2, 2), (2, 2)),
            }
        )
    )
    pixels = np.eye(height * width, dtype=np.float32).reshape(-1, height, width, 1)
    variables = network.init(jax.random.key(0), pixels[:1], train=False)
    ones = jax.tree.map(jnp.ones_like, variables)
    maps = network.apply(ones, pixels, train=False)[1]["conv3"][..., 0]  # [pixels, 4, 6]
    fields = guided_backprop.receptive_fields(network, np.arange(24), (height, width))
    for place, (y0, y1, x0, x1) in enumerate(fields):
        seen = np.zeros((height, width), bool)
        seen[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(np.asarray(maps)[:, place // 6, place % 6].reshape(height, width) > 0, seen)


def test_concentration_within_a_field_by_hand() -> None:
    """Energies 9 + 4 of 9 + 4 + 1 + 1 are in the strongest two of the 4 x 5 pixels seen, of 8 x 8 in all."""
    gradients = np.zeros((2, 8, 8, 1))
    gradients[0, 2, 3:7, 0] = (3, -2, 1, 1)
    fields = np.array([[1, 5, 3, 8], [0, 2, 0, 2]])
    share = guided_backprop.field_concentration(gradients, fields)
    assert share[0] == pytest.approx(13 / 15) and np.isnan(share[1])
    whole = guided_backprop.concentration(gradients[:1])
    assert whole[0] == 1  # the strongest six


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


def test_concentration_of_all_maps_is_that_of_their_strongest_images(labelled_run: Path) -> None:
    """Of each of the six maps the five strongest images; found again image by image."""
    run = trained.load(labelled_run)
    report = guided_backprop.measure(run, features=(0,), num_images=20)
    dataset = opening.open_or_build(run.config.data)
    numbers = np.random.default_rng(0).permutation(len(dataset.images))[:20]
    network = guided_backprop._Network(run, run.state.discriminator, dataset, numbers)
    responses, places = network.respond(numbers, "")
    means = []
    for feature in range(6):
        best = np.argsort(-responses[:, feature], kind="stable")[:5]
        shares = []
        for i in best:
            gradient = network.gradients(numbers[[i]], places[[i], feature], np.array([feature]))[0]
            (y0, y1, x0, x1) = guided_backprop.receptive_fields(run.discriminator, places[[i], feature], (8, 8))[0]
            energy = np.sort(np.square(gradient[y0:y1, x0:x1]).sum(-1).ravel())
            assert energy.sum() == pytest.approx(np.square(gradient).sum(), rel=1e-5)  # nothing lies outside
            if energy.sum() > 0:
                shares.append(energy[-max(1, round(len(energy) / 10)) :].sum() / energy.sum())
        means += [np.mean(shares)] if shares else []
    assert report["trained_field_concentration"] == pytest.approx(np.mean(means), rel=1e-4)
    assert report["trained_field_concentration_std"] == pytest.approx(np.std(means, ddof=1), rel=1e-3)
    assert report["untrained_field_concentration"] != report["trained_field_concentration"]


def test_bad_input(labelled_run: Path) -> None:
    run = trained.load(labelled_run)
    with pytest.raises(UserError, match="there is no map 6; they are numbered 0 to 5"):
        guided_backprop.measure(run, features=[6])
    with pytest.raises(UserError, match="/nowhere"):
        guided_backprop.measure(run, source="folder:/nowhere")
    process = analyse("guided_backprop", labelled_run, "--features=a")
    assert process.returncode == 2
    assert "must be numbers of maps" in process.stderr and "Traceback" not in process.stderr
