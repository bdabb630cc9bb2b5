"""Differentiable augmentation: operations by hand, what they draw, their gradients, and the step with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax import train_step
from dcgan_jax.config import check_config
from dcgan_jax.machine import mesh, rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import augment, models
from dcgan_jax.train_state import AdaptiveGANState, build_gan
from tests import tiny

ALL = tuple(augment.OPERATIONS)


def keys(count: int) -> jax.Array:
    return rng.example_keys(rng.stream(0, "test", 3), 0, count)


def test_colors_by_hand() -> None:
    """Two pixels of two channels. Each step's numbers stand beside it."""
    image = jnp.array([[[0.0, 0.5], [-0.5, 0.25]]])
    # Brightness 1/4: (0.25, 0.75), (-0.25, 0.5). Means of pixels 0.5 and 0.125.
    # Saturation 2: 0.5 -+ 0.5, 0.125 -+ 0.75. Mean of the image 0.3125. Contrast 1/2: half way there.
    expected = np.array([[[0.15625, 0.65625], [-0.15625, 0.59375]]])
    np.testing.assert_allclose(augment.color_by(image, 0.25, 2.0, 0.5), expected, atol=1e-7)
    np.testing.assert_array_equal(augment.color_by(image, 0.0, 1.0, 1.0), image)


def test_translation_by_hand() -> None:
    image = jnp.arange(1.0, 13.0).reshape(3, 4, 1)
    np.testing.assert_array_equal(
        augment.translated(image, jnp.array([1, -2]))[..., 0], [[0, 0, 0, 0], [3, 4, 0, 0], [7, 8, 0, 0]]
    )
    np.testing.assert_array_equal(
        augment.translated(image, jnp.array([-1, 1]))[..., 0], [[0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]]
    )


def test_cutout_by_hand() -> None:
    image = jnp.ones((3, 4, 2))
    cut = augment.cut_out(image, jnp.array([1, 2]), jnp.array([1, 2]))
    np.testing.assert_array_equal(cut[..., 0], [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(cut[..., 0], cut[..., 1])
    beyond = augment.cut_out(image, jnp.array([-1, 3]), jnp.array([2, 2]))
    np.testing.assert_array_equal(beyond[..., 1], [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])


def test_draws_cover_the_official_ranges() -> None:
    """Sides of 16 and 24: shifts of up to 2 and 3 pixels; squares of 8 and 12, less what lies beyond the image."""
    marked = jnp.zeros((2000, 16, 24, 1)).at[:, 8, 12].set(1.0)
    moved = np.argwhere(np.asarray(augment.augmented(marked, keys(2000), ("translation",), 1.0))[..., 0])
    assert len(moved) == 2000
    assert set(moved[:, 1] - 8) == {-2, -1, 0, 1, 2} and set(moved[:, 2] - 12) == {-3, -2, -1, 0, 1, 2, 3}

    cut = np.asarray(augment.augmented(jnp.ones((4000, 16, 24, 1)), keys(4000), ("cutout",), 1.0))[..., 0] == 0
    heights, widths = cut.any(2).sum(1), cut.any(1).sum(1)
    # Centres 0 to 16 and 0 to 24: from half of a square beyond the edge to a whole one inside.
    assert (heights.min(), heights.max(), widths.min(), widths.max()) == (4, 8, 6, 12)
    assert (cut.sum((1, 2)) == heights * widths).all()
    ends = cut[:, 0].any(1), cut[:, -1].any(1), cut[:, :, 0].any(1), cut[:, :, -1].any(1)
    assert [heights[end].min() for end in ends[:2]] == [4, 4] and [widths[end].min() for end in ends[2:]] == [6, 6]

    grey = jnp.zeros((2000, 2, 2, 3))  # without contrast and saturation: brightness alone is left
    bright = np.asarray(augment.augmented(grey, keys(2000), ("color",), 1.0))
    assert -0.5 <= bright.min() < -0.49 and 0.49 < bright.max() <= 0.5
    assert abs(bright.mean()) < 4 * 12**-0.5 / 2000**0.5 * 1.01

    greys = jnp.tile(jnp.array([-1.0, 1.0])[None, None, :, None], (2000, 1, 1, 3))  # contrast alone scales them apart
    contrast = np.ptp(np.asarray(augment.augmented(greys, keys(2000), ("color",), 1.0)), axis=(1, 2, 3)) / 2
    assert 0.5 <= contrast.min() + 1e-6 < 0.51 and 1.49 < contrast.max() <= 1.5 + 1e-6
    pixel = jnp.tile(jnp.array([-1.0, 0.0, 1.0]), (2000, 1, 1, 1))  # saturation, and then the same contrast
    saturation = (
        np.ptp(np.asarray(augment.augmented(pixel, keys(2000), ("color",), 1.0)), axis=(1, 2, 3)) / 2 / contrast
    )
    assert 0 <= saturation.min() < 0.01 and 1.99 < saturation.max() <= 2 + 1e-5


def test_an_odd_square_has_its_centre_inside() -> None:
    """Side 6: squares of 3 around pixels 0 to 5, of which 2 or 3 rows are in the image."""
    cut = np.asarray(augment.augmented(jnp.ones((500, 6, 6, 1)), keys(500), ("cutout",), 1.0))[..., 0] == 0
    assert set(cut.any(2).sum(1)) == {2, 3}


def test_probability_is_that_of_each_operation() -> None:
    images = jnp.ones((4000, 8, 8, 1))
    seen = np.asarray(augment.augmented(images, keys(4000), ("translation", "cutout"), 0.25))[..., 0]
    untouched = (seen == 1).all((1, 2)).mean()
    # A third of the shifts along each axis of 8 pixels is by 0: a ninth of the translations changes nothing.
    expected = 0.75 * (0.75 + 0.25 / 9)
    assert abs(untouched - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5
    np.testing.assert_array_equal(augment.augmented(images, keys(4000), ALL, 0.0), images)
    np.testing.assert_array_equal(augment.augmented(images, keys(4000), (), 1.0), images)


def test_each_image_has_draws_of_its_own() -> None:
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32))
    together = augment.augmented(images, keys(6), ALL, 0.7)
    alone = augment.augmented(images[4:5], keys(6)[4:5], ALL, 0.7)
    np.testing.assert_allclose(together[4], alone[0], atol=1e-6)


@pytest.mark.parametrize("names", [*((name,) for name in ALL), ALL])
def test_gradients_against_finite_differences(names: tuple[str, ...]) -> None:
    images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32))
    weights = jnp.asarray(np.random.default_rng(2).standard_normal((3, 8, 8, 3)).astype(np.float32))

    def value(x: jax.Array) -> jax.Array:
        return (augment.augmented(x, keys(3), names, 1.0) * weights).sum()

    gradient = np.asarray(jax.grad(value)(images))
    assert np.abs(gradient).max() > 0.1
    for index in np.random.default_rng(3).integers(0, (3, 8, 8, 3), (20, 4)):
        step = np.zeros(images.shape, np.float32)
        step[tuple(index)] = 0.5  # every operation is linear in the image
        difference = float(value(images + step) - value(images - step))
        assert gradient[tuple(index)] == pytest.approx(difference, abs=2e-4)


@pytest.mark.parametrize("output", ["tanh", "sigmoid"])
def test_both_players_see_augmented_images(monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    """In place of an operation of random numbers, one that darkens: what it is given, and what its gradient becomes."""
    seen = []

    def darken(image: jax.Array, key: jax.Array) -> jax.Array:
        seen.append(key)
        return image * 0.5 - 0.5

    monkeypatch.setitem(augment.OPERATIONS, "cutout", darken)
    changes = {"model.output": output, "update_order": "discriminator_first", "model.norm": "none"}
    plain, augmenting = tiny.config(changes), tiny.config({**changes, "augment.operations": ("cutout",)})
    states, history = tiny.run_steps(augmenting)
    assert len(seen) == 2  # traced once for D's images and once for G's
    gan = build_gan(plain)
    real = jnp.asarray(tiny.images(plain.batch_size, seed=0)).astype(jnp.float32)
    real = real / 255 if output == "sigmoid" else real / 127.5 - 1
    z = jnp.stack(
        [
            jax.random.uniform(jax.random.fold_in(rng.stream(plain.seed, "z", 0), n), (5,), minval=-1, maxval=1)
            for n in range(plain.batch_size)
        ]
    )
    # Darkened in [-1, 1]: to half way between its value and -1, which is 0 in [0, 1].
    dark = (lambda x: x * 0.5) if output == "sigmoid" else (lambda x: x * 0.5 - 0.5)
    before, after = states[0], states[1]

    def draw(params: Any) -> jax.Array:
        return gan.generator.apply({"params": params, "batch_stats": {}}, z, train=False)[0]

    def judge(params: Any, images: jax.Array) -> jax.Array:
        return gan.discriminator.apply({"params": params, "batch_stats": {}}, dark(images), train=False)[0]

    def d_loss(params: Any) -> jax.Array:
        return gan.loss.discriminator(judge(params, real), judge(params, draw(before.generator.params)))

    def g_loss(params: Any) -> jax.Array:
        return gan.loss.generator(judge(after.discriminator.params, draw(params)))

    def norm(gradients: Any) -> float:
        return float(jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradients))))

    d_norm = norm(jax.grad(d_loss)(before.discriminator.params))
    g_norm = norm(jax.grad(g_loss)(before.generator.params))
    assert history[0]["d_grad_norm"] == pytest.approx(d_norm, rel=1e-4)
    assert history[0]["g_grad_norm"] == pytest.approx(g_norm, rel=1e-4)
    unseen = tiny.run_steps(plain)[1][0]
    assert unseen["d_grad_norm"] != pytest.approx(d_norm, rel=0.1)
    assert unseen["g_grad_norm"] != pytest.approx(g_norm, rel=0.1)


def test_real_and_generated_images_have_other_draws_in_each_update(monkeypatch: pytest.MonkeyPatch) -> None:
    names, keys_of = list[str](), train_step.Draw.keys

    def noted(draw: train_step.Draw, name: str) -> jax.Array:
        names.append(name)
        return keys_of(draw, name)

    monkeypatch.setattr(train_step.Draw, "keys", noted)
    config = tiny.config({"augment.operations": ALL, "update_order": "discriminator_first", "seed": 11})
    states, history = tiny.run_steps(config)
    assert [name for name in names if name.startswith("augment")] == [
        "augment_real",
        "augment_fake_d",
        "augment_fake_g",
    ]

    # Another step draws other numbers for the same images.
    step = train_step.make_mapped_step(build_gan(config), tiny.mesh(1), config.mapper)
    batch = {"image": tiny.images(config.batch_size, seed=0)[None]}
    later = states[0].replace(step=states[0].step + 1)
    _, metrics = step(mesh.replicate(tiny.mesh(1), later), {}, mesh.shard_batches(tiny.mesh(1), config.mapper, batch))
    assert float(metrics["d_grad_norm"]) != pytest.approx(history[0]["d_grad_norm"], rel=1e-3)


def test_the_probability_follows_the_signs_by_hand() -> None:
    """Batches of 10: 40 images between adjustments, and 400 from 0 to 1, so steps of 0.1. Target 0.6: signs of 24."""
    adaptive = augment.Adaptive.start(0.85)
    sums = [10, 10, 2, 4, 10, 10, 10, 10, 6, 6, 6, 6, 10, -10, 10, 10]  # 26, 40, 24 and 20 in four steps
    seen = []
    for step, signs in enumerate(sums):
        adaptive = adaptive.after(jnp.int32(step), jnp.float32(signs), 10, 0.6, 400)
        seen.append(float(adaptive.probability))
    # Above the target up, to 1 at most; at the target neither; below it down.
    np.testing.assert_allclose(seen, [*[0.85] * 3, *[0.95] * 4, *[1.0] * 8, 0.9], atol=1e-6)
    assert float(adaptive.signs) == 0.0
    down = augment.Adaptive.start(0.05).after(jnp.int32(7), jnp.float32(-10), 10, 0.6, 400)
    assert float(down.probability) == 0.0
    at_once = augment.Adaptive.start(0.0).after(jnp.int32(3), jnp.float32(40), 10, 0.6, 1)
    assert float(at_once.probability) == 1.0


ADAPTIVE = {"augment.operations": ALL, "augment.target": 0.6, "augment.probability": 0.5, "augment.ramp_images": 64}


@pytest.mark.parametrize("loss", ["non_saturating", "least_squares"])
def test_signs_are_those_of_the_logits_of_training_images(loss: str) -> None:
    """Probability 0 shows the images as they are: the logits of the first step can be had by hand."""
    changes = {**ADAPTIVE, "augment.probability": 0.0, "loss": loss, "update_order": "discriminator_first"}
    config = tiny.config({**changes, "model.norm": "none"})
    (start, one, _), history = tiny.run_steps(config)
    real = jnp.asarray(tiny.images(config.batch_size, seed=0)).astype(jnp.float32) / 127.5 - 1
    network = models.build_discriminator(config)
    logits, _ = network.apply({"params": start.discriminator.params}, real, train=False)
    boundary = {"non_saturating": 0.0, "least_squares": 0.5}[loss]
    expected = np.sign(np.asarray(logits) - boundary)
    assert history[0]["d_sign"] == pytest.approx(expected.mean())
    assert isinstance(one, AdaptiveGANState)
    assert float(one.adaptive.signs) == expected.sum()
    assert history[0]["augment_probability"] == 0.0 == float(one.adaptive.probability)


def test_the_step_takes_the_probability_of_the_state() -> None:
    """A state with another probability sees what a run with that fixed probability sees."""
    fixed = tiny.config({"augment.operations": ALL, "augment.probability": 0.25})
    adaptive = tiny.config({**ADAPTIVE, "augment.probability": 1.0})
    (start, *_), history = tiny.run_steps(fixed)
    step = train_step.make_mapped_step(build_gan(adaptive), tiny.mesh(1), adaptive.mapper)
    state = AdaptiveGANState(**vars(start), adaptive=augment.Adaptive.start(0.25))
    batch = tiny.shard_batch(adaptive, tiny.mesh(1), seed=0)
    _, metrics = step(mesh.replicate(tiny.mesh(1), state), {}, batch)
    assert float(metrics["d_loss"]) == history[0]["d_loss"]
    assert float(metrics["augment_probability"]) == 0.25


def test_the_adjusted_probability_does_not_depend_on_the_number_of_devices() -> None:
    """Eight steps, two adjustments; and the signs that they follow are summed over all devices."""
    config, seen = tiny.config({**ADAPTIVE, "augment.target": 0.05}), {}
    for devices in (1, 2, 4):
        devices_mesh = tiny.mesh(devices)
        state = mesh.replicate(devices_mesh, tiny.fresh_state(config))
        step = train_step.make_mapped_step(build_gan(config), devices_mesh, config.mapper)
        probabilities, signs = [], []
        for i in range(8):
            state, metrics = step(state, {}, tiny.shard_batch(config, devices_mesh, seed=i))
            assert isinstance(state, AdaptiveGANState)
            probabilities.append(float(state.adaptive.probability))
            signs.append(float(metrics["d_sign"]))
        seen[devices] = probabilities, signs
    assert seen[1] == seen[2] == seen[4]
    probabilities, signs = seen[1]
    assert probabilities[:3] == [0.5] * 3 and len(set(probabilities)) > 1
    assert any(signs) and all(-1.0 <= sign <= 1.0 for sign in signs)


def test_a_target_needs_something_to_adjust() -> None:
    with pytest.raises(UserError, match=r"augment\.target is 0\.6, but there is nothing to adjust"):
        check_config(tiny.config({"augment.target": 0.6}))
