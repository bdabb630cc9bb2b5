"""Inversion and completion: a linear generator whose z is known, the prior, masks by hand, and the commands."""

import contextlib
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import complete, encoder, invert, latent_search
from dcgan_jax.analysis.invert import Group
from dcgan_jax.analysis.latent_search import Descent, Objective, Pool
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import pixels
from dcgan_jax.runs import trained
from dcgan_jax.runs.trained import Run
from tests import tiny
from tests.trained import analyse


class LinearGenerator:
    """Stands for a generator: the image of z is z @ matrix, 4 x 4 pixels; labels add a tenth to all pixels."""

    image_shape, output, z_dim, num_classes = (4, 4, 1), "tanh", 3, 0

    def __init__(self, distribution: str = "uniform") -> None:
        self.z_distribution = distribution

    def copy(self, **changes: Any) -> "LinearGenerator":
        return self

    def apply(self, variables: Any, z: Any, labels: Any = None, *, train: bool) -> tuple[jax.Array, dict]:
        assert not train
        images = (z @ variables).reshape(-1, 4, 4, 1)
        return images if labels is None else images + 0.1 * labels.astype(jnp.float32)[:, None, None, None], {}


def linear_run(distribution: str = "uniform") -> Run:
    matrix = jnp.asarray(0.3 * np.random.default_rng(0).standard_normal((3, 16)), jnp.float32)
    generator = LinearGenerator(distribution)

    def noise(count: int, seed: int = 0, first: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        drawn = rng.uniform(-1, 1, (first + count, 3)) if distribution == "uniform" else rng.normal(size=(count, 3))
        return drawn[first:].astype(np.float32)

    def generate(z: np.ndarray, label: int | None = None, progress: str = "") -> np.ndarray:
        return np.asarray(pixels.to_uint8(generator.apply(matrix, z, train=False)[0], "tanh"))

    run = SimpleNamespace(
        generator=generator,
        variables=matrix,
        noise=noise,
        generate=generate,
        gan=SimpleNamespace(multiplying=contextlib.nullcontext),
        sampler=SimpleNamespace(labels=lambda first, count: None),
        has_discriminator=False,
        config=tiny.config({"data.image_size": 4, "data.channels": 1, "model.z_dim": 3}),
    )
    return cast(Run, run)


def squares(run: Run) -> Objective:
    def losses(images: jax.Array, labels: jax.Array | None, goals: jax.Array) -> jax.Array:
        return jnp.square(images - goals).mean((1, 2, 3))

    return Objective(lambda goals, labels: goals, losses)


def test_the_z_of_a_linear_generator_is_found() -> None:
    """Pixels are rounded to 1/127.5, which moves z by less than a hundredth."""
    run = linear_run()
    truth = run.noise(5, seed=7)
    inverter = invert.Inverter(run, steps=200, starts=2, rate=0.1, pool=20)
    found = inverter.find(Group(run.generate(truth), None))
    np.testing.assert_allclose(found.z, truth, atol=0.01)
    assert found.losses.max() < 1e-4


def test_rows_beyond_a_batch_are_found_too() -> None:
    run = linear_run()
    truth = run.noise(latent_search.BATCH_SIZE + 3, seed=1)
    found = Descent(run, squares(run))(np.zeros_like(truth), run.generate(truth), steps=150, rate=0.1)
    np.testing.assert_allclose(found.z, truth, atol=0.01)


def test_the_best_start_is_kept_and_its_path() -> None:
    """Without steps the starts are the results: the second of each goal is the right one."""
    run = linear_run()
    truth = run.noise(3, seed=1)
    starts = np.stack([np.zeros_like(truth), truth], 1)
    found = latent_search.search(Descent(run, squares(run)), starts, run.generate(truth), steps=0, rate=0.1, watched=2)
    np.testing.assert_array_equal(found.z, truth)
    np.testing.assert_array_equal(found.path, truth[None, :2])


def test_each_goal_has_its_own_label() -> None:
    run = linear_run()
    truth, labels = run.noise(4, seed=1), np.array([0, 1, 2, 0], np.int32)
    goals = pixels.to_uint8(run.generator.apply(run.variables, truth, jnp.asarray(labels), train=False)[0], "tanh")
    starts = np.zeros((4, 2, 3), np.float32)
    found = latent_search.search(Descent(run, squares(run)), starts, np.asarray(goals), labels, steps=200, rate=0.1)
    np.testing.assert_allclose(found.z, truth, atol=0.01)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_z_stays_in_the_prior(distribution: str) -> None:
    """The goal, white, is far outside of what the prior draws."""
    run = linear_run(distribution)
    goals = np.full((4, 4, 4, 1), 255, np.uint8)
    found = Descent(run, squares(run))(5 * run.noise(4), goals, steps=30, rate=0.5, watched=4)
    if distribution == "uniform":
        assert np.abs(found.path).max() == 1.0
    else:
        norms = np.linalg.norm(found.path, axis=2)
        assert np.abs(norms - np.sqrt(3)).max() <= np.sqrt(2) + 1e-5


def test_projection_by_hand() -> None:
    uniform = latent_search.into_prior(jnp.array([[2.0, -0.5], [-3.0, 1.0]]), "uniform")
    np.testing.assert_array_equal(uniform, [[1, -0.5], [-1, 1]])
    z = jnp.array([[30.0, 0, 0, 0], [0, 0.1, 0, 0], [1, 1, 1, 1]], jnp.float32)  # norms of 2 are in the middle
    normal = np.asarray(latent_search.into_prior(z, "normal"))
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), [2 + np.sqrt(2), 2 - np.sqrt(2), 2], rtol=1e-6)
    np.testing.assert_allclose(normal[2], 1)


def test_distances_by_hand() -> None:
    a = np.array([[10, 20], [30, 40]], np.uint8).reshape(1, 2, 2, 1)
    b = np.concatenate([a, a + np.array([[1, 2], [3, 4]], np.uint8)[None, ..., None]])
    np.testing.assert_allclose(latent_search.squared_distances(a, b), [[0, (1 + 4 + 9 + 16) / 4]], atol=1e-3)
    weights = np.array([[1, 0], [0, 3]])
    np.testing.assert_allclose(latent_search.squared_distances(a, b, weights), [[0, (1 + 3 * 16) / 4]], atol=1e-3)


def test_starts_are_the_nearest_samples_of_the_own_class() -> None:
    images = np.array([0, 10, 20, 30], np.uint8).reshape(4, 1, 1, 1)
    pool = Pool(np.arange(4.0)[:, None], images, np.array([0, 1, 0, 1]))
    goals = np.array([12, 12], np.uint8).reshape(2, 1, 1, 1)
    assert pool.starts(goals, None, 2)[..., 0].tolist() == [[1, 2], [1, 2]]
    assert pool.starts(goals, np.array([0, 1]), 2)[..., 0].tolist() == [[2, 0], [1, 3]]


def test_a_training_image_is_not_its_own_nearest() -> None:
    dataset = tiny.dataset(6)
    group = Group(dataset.images[[2, 4]], None, np.array([2, 4]))
    found = invert.nearest_images(group, dataset)
    for image, near, own in zip(group.images, found, (2, 4), strict=True):
        apart = [np.square(image.astype(float) - other).mean() for other in np.delete(dataset.images, own, 0)]
        assert np.square(image.astype(float) - near).mean() == min(apart)


def test_the_difference_by_hand() -> None:
    a, b = np.zeros((1, 2, 2, 1), np.uint8), np.array([[3, 0], [4, 5]], np.uint8).reshape(1, 2, 2, 1)
    assert invert.root_mean_square(a, b) == pytest.approx([np.sqrt((9 + 16 + 25) / 4)])
    assert invert.root_mean_square(a, b, np.array([[True, False], [True, False]])) == pytest.approx([np.sqrt(12.5)])


def test_likeness_is_one_between_unrelated_samples(trained_run: Path) -> None:
    """On average over pairs; pixels and features of the discriminator alike."""
    run = trained.load(trained_run)
    objective = latent_search.likeness(run, 3.0)
    images = pixels.to_network(jnp.asarray(run.generate(run.noise(128))), "tanh")
    losses = objective.losses(images[::2], None, objective.prepare(images[1::2], None))
    assert float(losses.mean()) == pytest.approx(1.0 + 3.0, rel=1e-3)
    assert float(objective.losses(images, None, objective.prepare(images, None)).max()) < 1e-6


# --- Completion ------------------------------------------------------------------------------------------------------


def test_masks_by_hand(tmp_path: Path) -> None:
    centre = complete.make_hole("centre", 8, 8)
    assert centre.sum() == 16 and centre[2:6, 2:6].all()
    left = complete.make_hole("left", 8, 8)
    assert left[:, :4].all() and not left[:, 4:].any()
    wide = complete.make_hole("centre", 8, 12)
    assert wide.shape == (8, 12) and wide.sum() == 24 and wide[2:6, 3:9].all()
    assert complete.make_hole("left", 8, 12)[:, :6].all() and complete.make_hole("random", 8, 12).shape == (8, 12)
    assert complete.make_hole("random", 64, 64).mean() == pytest.approx(0.8, abs=0.03)
    light = np.zeros((8, 8), np.uint8)
    light[3, 5] = 255
    Image.fromarray(light).save(tmp_path / "mask.png")
    assert np.argwhere(complete.make_hole(str(tmp_path / "mask.png"), 8, 8)).tolist() == [[3, 5]]
    Image.fromarray(np.pad(light, ((0, 0), (0, 4)))).save(tmp_path / "wide.png")
    assert np.argwhere(complete.make_hole(str(tmp_path / "wide.png"), 8, 12)).tolist() == [[3, 5]]
    with pytest.raises(UserError, match="has 12 x 8 pixels; the run's images have 8 x 12"):
        complete.make_hole(str(tmp_path / "wide.png"), 12, 8)


def test_context_weights_by_hand() -> None:
    """A window of 3: the pixel beside a hole of one pixel sees 1 of 9 missing; in the corner 1 of 4."""
    hole = np.zeros((5, 5), bool)
    hole[1, 1] = True
    weights = complete.context_weights(hole, 3)
    assert weights[1, 1] == 0 and weights[4, 4] == 0
    assert weights[0, 0] == pytest.approx(1 / 4)
    assert weights[0, 1] == pytest.approx(1 / 6)
    assert weights[2, 2] == pytest.approx(1 / 9)
    assert complete.context_weights(hole, 0).tolist() == (~hole).astype(float).tolist()


def test_the_hole_does_not_count() -> None:
    hole = complete.make_hole("centre", 8, 8)
    images, goals = (jnp.asarray(tiny.images(3, seed=seed), jnp.float32) / 255 for seed in (1, 2))
    objective = complete.completion(linear_run(), complete.context_weights(hole, 0), 0.0)
    gradient = np.asarray(jax.grad(lambda x: objective.losses(x, None, goals).sum())(images))
    assert not gradient[:, hole].any()
    assert (np.abs(gradient[:, ~hole]) > 0).all()
    changed = jnp.where(hole[None, ..., None], 0.0, goals)
    np.testing.assert_array_equal(objective.losses(images, None, changed), objective.losses(images, None, goals))
    by_hand = np.abs(np.asarray(images) - np.asarray(goals))[:, ~hole].mean((1, 2))
    np.testing.assert_allclose(objective.losses(images, None, goals), by_hand, rtol=1e-5)


def test_the_prior_adds_the_generators_own_loss(trained_run: Path) -> None:
    run = trained.load(trained_run)
    images = pixels.to_network(jnp.asarray(run.generate(run.noise(4))), "tanh")
    weights = complete.context_weights(complete.make_hole("left", 8, 8), 0)
    without, with_prior = (
        complete.completion(run, weights, weight).losses(images, None, images + 0.5) for weight in (0.0, 2.0)
    )
    logits, _ = run.discriminate(np.asarray(pixels.to_uint8(images, "tanh")))
    np.testing.assert_allclose(with_prior - without, 2 * np.log1p(np.exp(-logits)), rtol=0.02)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("nowhere", "is neither centre, left, random nor the path of a file"),
        ("small.png", "has 4 x 4 pixels; the run's images have 8 x 8"),
        ("white.png", "hides everything"),
        ("black.png", "hides nothing"),
        ("text.png", "cannot be read"),
    ],
)
def test_masks_that_cannot_be_used(tmp_path: Path, mask: str, message: str) -> None:
    for name, size, level in (("small", 4, 0), ("white", 8, 255), ("black", 8, 0)):
        Image.fromarray(np.full((size, size), level, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=message):
        complete.make_hole(str(tmp_path / mask), 8, 8)


# --- Commands --------------------------------------------------------------------------------------------------------

QUICK = ("--steps=3", "--starts=2")
quick = partial(invert.measure, steps=3, starts=2, pool=128)


def test_the_command_inverts_a_folder(trained_run: Path, tmp_path: Path) -> None:
    tiny.image_folder(tmp_path / "images", 3, size=12)
    process = analyse("invert", trained_run, f"--images={tmp_path / 'images'}", "--encoder", *QUICK)
    assert process.returncode == 0, process.stderr
    out = trained_run / "analysis" / "invert"
    results = json.loads((out / "results.json").read_text())
    assert len(results["images"]["each"]) == 3 and results["images"]["mean"] > 0
    assert results["encoder_steps"] == encoder.STEPS > 0
    z = np.load(out / "z.npy")
    assert z.shape == (3, 5) and np.abs(z).max() <= 1
    again = trained.load(trained_run).generate(z)
    originals = invert.read_images(tmp_path / "images", trained.load(trained_run).config.data)
    np.testing.assert_allclose(invert.root_mean_square(again, originals), results["images"]["each"])
    with Image.open(out / "images.png") as sheet, Image.open(out / "film.gif") as film:
        assert sheet.size == (24, 24)
        assert film.size == (24, 16) and cast(Any, film).n_frames > 1
    assert "z.npy" in process.stdout


def test_samples_and_data(conditional_run: Path) -> None:
    report = quick(trained.load(conditional_run), samples=4, data=5, label=1)
    assert len(report["training"]["each"]) == 5 and len(report["samples"]["each"]) == 4
    assert 0 < report["z_distance"]["mean"] < 2
    assert report["training"]["nearest_training_image"]["mean"] > 0
    assert report["held_out"].startswith("none: the data has no other split")
    assert {picture.file for picture in report.pictures} == {"samples.png", "training.png"}


def test_held_out_images_of_another_source(trained_run: Path, tmp_path: Path) -> None:
    source = tiny.image_folder(tmp_path / "others", 6, size=9)
    report = quick(trained.load(trained_run), data=4, held_out_source=source)
    assert len(report["training"]["each"]) == len(report["held_out"]["each"]) == 4
    run = trained.load(trained_run)
    for same in (run.config.data.source, tiny.image_folder(tmp_path / "copy")):
        with pytest.raises(UserError, match="the held-out images are those of training"):
            quick(run, data=4, held_out_source=same)


def test_a_trained_generator_is_descended(trained_run: Path) -> None:
    """With its running averages a generator of one step draws hardly more than rounding leaves."""
    run = trained.load(trained_run, norm="frozen")
    goals, starts = run.sample(6, seed=3), run.noise(6, seed=4)
    descent = Descent(run, latent_search.likeness(run, 1.0))
    none, many = (float(descent(starts, goals, steps=steps, rate=0.1).losses.mean()) for steps in (0, 40))
    assert many < 0.3 * none


def test_without_a_discriminator_pixels_are_compared() -> None:
    inverter = invert.Inverter(linear_run(), steps=1, starts=1, feature_weight=1.0, pool=4)
    assert "the run has no discriminator" in inverter.note


def test_an_encoder_learns() -> None:
    """Its guess of z is nearer than 0, the best one that does not look at the image."""
    run = linear_run()
    z = run.noise(64, seed=5)
    guess = encoder.train(run, 150)(run.generate(z), None)
    assert guess.shape == z.shape and np.abs(guess).max() <= 1
    error, of_zero = float(np.square(guess - z).mean()), float(np.square(z).mean())
    assert error < 0.6 * of_zero


def test_the_command_completes(labelled_run: Path) -> None:
    process = analyse("complete", labelled_run, "--mask=left", "--data=4", *QUICK)
    assert process.returncode == 0, process.stderr
    out = labelled_run / "analysis" / "complete"
    results = json.loads((out / "results.json").read_text())
    assert results["hidden"] == 0.5 and results["images"] == "training"
    for name in ("completed", "mean_image", "nearest_training_image"):
        assert len(results[name]["each"]) == 4 and results[name]["mean"] > 0
    with Image.open(out / "completed.png") as sheet:
        original, given, completed = np.asarray(sheet).reshape(3, 8, 32, 3)
    for column in range(0, 32, 8):
        right, left = slice(column + 4, column + 8), slice(column, column + 4)
        np.testing.assert_array_equal(completed[:, right], original[:, right])
        assert (given[:, left] == 128).all()
        assert (completed[:, left] != original[:, left]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing is to be inverted"),
        ({"samples": 1}, "must be 0, or 2 or more"),
        ({"images": tiny.images(2, size=9)}, r"must be uint8 \[count, 8, 8, 3\]"),
        ({"images": tiny.images(2), "starts": 129}, "--starts=129 must be 1 to 128"),
        ({"images": tiny.images(2), "rate": 0.0}, "--rate=0 must be positive"),
        ({"images": tiny.images(2), "feature_weight": -1.0}, "must not be negative"),
        ({"images": tiny.images(2), "label": 1}, "the network is unconditional"),
    ],
)
def test_bad_input(trained_run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        quick(trained.load(trained_run), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": 4}, "--window=4 must be odd"), ({"data": 1}, "2 or more"), ({"prior_weight": -1.0}, "negative")],
)
def test_bad_input_of_completion(trained_run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        complete.measure(trained.load(trained_run), **options)


def test_images_that_cannot_be_read(trained_run: Path, tmp_path: Path) -> None:
    data = trained.load(trained_run).config.data
    with pytest.raises(UserError, match="there is no such file or folder"):
        invert.read_images(tmp_path / "missing", data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No image found"):
        invert.read_images(tmp_path / "empty", data)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(UserError, match=r"small.png is 4 x 4, smaller than 8 pixels"):
        invert.read_images(tmp_path / "small.png", data)
    process = analyse("invert", trained_run, f"--images={tmp_path / 'small.png'}")
    assert process.returncode == 2 and "Traceback" not in process.stderr
