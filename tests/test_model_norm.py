"""Batch normalisation: where the networks have it, and the layer itself, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.nets import models
from dcgan_jax.nets.models import BatchNorm
from tests import tiny
from tests.networks import abstract_variables, discriminator_of, evaluate, generator_of, normalised, shapes, train

# --- In the networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "in_generator", "in_discriminator"),
    [
        ("paper", {"hidden1_norm", "projection_norm", "deconv1_norm"}, {"conv2_norm", "hidden1_norm"}),
        (
            "all",
            {"hidden1_norm", "projection_norm", "deconv1_norm", "deconv2_norm"},
            {"conv1_norm", "conv2_norm", "hidden1_norm"},
        ),
        ("none", set(), set()),
    ],
)
def test_where_layers_are_normalised(norm: str, in_generator: set[str], in_discriminator: set[str]) -> None:
    config = tiny.config({"model.norm": norm, "model.generator.hidden": (7,), "model.discriminator.hidden": (7,)})
    for variables, layers in zip(abstract_variables(config), (in_generator, in_discriminator), strict=True):
        assert {name for name in variables["params"] if name.endswith("_norm")} == layers
        assert set(variables.get("batch_stats", {})) == layers


def test_norm_all_reaches_the_image_and_the_first_convolution() -> None:
    config = tiny.config({"model.norm": "all"})
    generator, variables, z = generator_of(config)
    image, _ = train(generator, variables, z)
    before_tanh = np.arctanh(np.asarray(image, np.float64))
    np.testing.assert_allclose(before_tanh.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(before_tanh.std((0, 1, 2)), variables["params"]["deconv2_norm"]["gain"], rtol=1e-3)

    discriminator, variables, images = discriminator_of(config)
    conv1 = np.asarray(train(discriminator, variables, images)[1]["conv1"])
    before_leak = np.where(conv1 > 0, conv1, conv1 / 0.2)
    np.testing.assert_allclose(before_leak.mean((0, 1, 2)), 0, atol=1e-5)


def test_no_affine_means_no_gains_and_shifts() -> None:
    generator, discriminator = abstract_variables(tiny.config({"model.norm_affine": False}))
    assert set(shapes(generator)) == {"projection/kernel", "deconv1", "deconv2"}
    assert set(shapes(discriminator)) == {"conv1", "conv2", "logit/kernel"}
    assert set(generator["batch_stats"]) == {"projection_norm", "deconv1_norm"}
    assert set(discriminator["batch_stats"]) == {"conv2_norm"}
    layer = BatchNorm(epsilon=0.0, affine=False, momentum=0.9)
    values, _ = layer.init_with_output(jax.random.key(0), jnp.array([[1.0], [5.0]]), train=True)
    np.testing.assert_allclose(values, [[-1], [1]])


def test_projection_is_normalised_per_unit_or_per_channel() -> None:
    for kind, axes, gains in (("unit", 0, 24), ("channel", (0, 1, 2), 6)):
        generator, variables, z = generator_of(tiny.config({"model.generator.projection_norm": kind}), batch=16)
        gain = np.linspace(0.5, 2, gains, dtype=np.float32)
        assert shapes(variables)["projection_norm/gain"] == shapes(variables)["projection_norm/shift"] == (gains,)
        variables["params"]["projection_norm"] = {"gain": gain, "shift": gain - 1}
        maps = np.asarray(z @ variables["params"]["projection"]["kernel"])
        if kind == "channel":
            expected = normalised(maps.reshape(16, 2, 2, 6), axes, 1e-8) * gain + gain - 1
        else:
            expected = (normalised(maps, axes, 1e-8) * gain + gain - 1).reshape(16, 2, 2, 6)
        projection = train(generator, variables, z)[1]["projection"]
        np.testing.assert_allclose(projection, np.maximum(expected, 0), atol=2e-5)


def test_axis_name_is_used_across_replicas_only() -> None:
    for build in (models.build_generator, models.build_discriminator):
        assert build(tiny.config(), "data").axis_name == "data"
        assert build(tiny.config({"model.cross_replica_norm": False}), "data").axis_name is None


def test_groups_equal_two_passes_of_the_discriminator() -> None:
    discriminator, variables, images = discriminator_of(tiny.config(), batch=8)
    logits, _ = train(discriminator, variables, images, groups=2)
    real, _ = train(discriminator, variables, images[:4])
    fake, _ = train(discriminator, variables, images[4:])
    np.testing.assert_allclose(logits, jnp.concatenate([real, fake]), atol=1e-6)
    together, _ = train(discriminator, variables, images)
    assert not np.allclose(logits, together, atol=1e-4)


def test_batch_mates_matter_in_training_only() -> None:
    config = tiny.config()
    for model, variables, inputs in (generator_of(config), discriminator_of(config)):
        both, _ = evaluate(model, variables, inputs)
        alone, _ = evaluate(model, variables, inputs[:1])
        np.testing.assert_allclose(both[:1], alone, rtol=1e-5, atol=1e-9)
        pair, _ = train(model, variables, inputs[:2])
        assert not np.allclose(pair[:1], train(model, variables, inputs)[0][:1], rtol=1e-2, atol=0)


# --- The layer ----------------------------------------------------------------------------------------------------

GAIN, SHIFT = np.array([0.5, 2.0, -1.0], np.float32), np.array([1.0, 0.0, 3.0], np.float32)
OLD_MEAN, OLD_VAR = np.array([1.0, -1.0, 0.0], np.float32), np.array([2.0, 1.0, 0.5], np.float32)
LAYER = BatchNorm(epsilon=1e-3, affine=True, momentum=0.75)
LAYER_VARIABLES = {
    "params": {"gain": jnp.asarray(GAIN), "shift": jnp.asarray(SHIFT)},
    "batch_stats": {"mean": jnp.asarray(OLD_MEAN), "var": jnp.asarray(OLD_VAR)},
}


def maps(*shape: int) -> np.ndarray:
    """Values with another mean and scale in each feature."""
    values = np.random.default_rng(0).standard_normal(shape)
    return (values * [1.0, 3.0, 0.2] + [0.0, 2.0, -1.0]).astype(np.float32)


def test_batch_norm_by_hand() -> None:
    """Mean 3, variance 4; with epsilon 5 the result is (x - 3) / 3, times 2, plus 10."""
    layer = BatchNorm(epsilon=5.0, affine=True, momentum=0.9)
    x = jnp.array([[1.0], [5.0]])
    variables = layer.init(jax.random.key(0), x, train=True)
    # Initialisation leaves the running averages alone.
    assert float(variables["batch_stats"]["mean"][0]) == 0 and float(variables["batch_stats"]["var"][0]) == 1
    variables = {**variables, "params": {"gain": jnp.array([2.0]), "shift": jnp.array([10.0])}}
    values, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(values, [[10 - 4 / 3], [10 + 4 / 3]], rtol=1e-6)
    # 0.9 * 0 + 0.1 * 3 and 0.9 * 1 + 0.1 * 4, the variance not being corrected for the small batch.
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], [1.3], rtol=1e-6)
    # In evaluation mode: (x - 0) / sqrt(1 + 5) and no update.
    values, updates = layer.apply(variables, x, train=False, mutable=["batch_stats"])
    np.testing.assert_allclose(values, np.array([[2], [10]]) / np.sqrt(6) + 10, rtol=1e-6)
    np.testing.assert_array_equal(updates["batch_stats"]["mean"], [0])


@pytest.mark.parametrize(("mean", "std"), [(1.0, 3e-4), (10.0, 0.01), (-300.0, 1.0)])
def test_batch_norm_keeps_small_deviations_from_large_means(mean: float, std: float) -> None:
    """With the authors' epsilon, maps that hardly vary still come out with standard deviation 1."""
    values = (mean + std * np.random.default_rng(0).standard_normal((4096, 1))).astype(np.float32)
    layer = BatchNorm(epsilon=1e-8, affine=False, momentum=0.9)
    variables = layer.init(jax.random.key(0), values, train=True)
    result, _ = layer.apply(variables, values, train=True, mutable=["batch_stats"])
    exact = values.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-8)
    np.testing.assert_allclose(result, expected, atol=0.02)
    assert np.asarray(result).std() == pytest.approx(expected.std(), rel=1e-3)


@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 2, 3)], ids=["units", "maps"])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_against_numpy(shape: tuple[int, ...], groups: int) -> None:
    x = maps(*shape)
    axes = tuple(range(len(shape) - 1))
    values, updates = LAYER.apply(LAYER_VARIABLES, x, train=True, groups=groups, mutable=["batch_stats"])
    parts = np.split(x, groups)
    expected = np.concatenate([normalised(part, axes, 1e-3) * GAIN + SHIFT for part in parts])
    np.testing.assert_allclose(values, expected, atol=1e-5)
    mean, var = parts[0].mean(axes), parts[0].var(axes)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.75 * OLD_MEAN + 0.25 * mean, atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.75 * OLD_VAR + 0.25 * var, atol=1e-5)


def test_batch_norm_in_evaluation() -> None:
    x = maps(6, 4, 2, 3)
    values, _ = LAYER.apply(LAYER_VARIABLES, x, train=False, groups=2, mutable=["batch_stats"])
    np.testing.assert_allclose(values, (x - OLD_MEAN) / np.sqrt(OLD_VAR + 1e-3) * GAIN + SHIFT, rtol=1e-5, atol=1e-6)


def test_second_group_influences_nothing_but_itself() -> None:
    x = maps(6, 4, 2, 3)
    changed = x.copy()
    changed[3:] = 7 * changed[3:] ** 2
    one, one_updates = LAYER.apply(LAYER_VARIABLES, x, train=True, groups=2, mutable=["batch_stats"])
    other, other_updates = LAYER.apply(LAYER_VARIABLES, changed, train=True, groups=2, mutable=["batch_stats"])
    np.testing.assert_array_equal(one[:3], other[:3])
    assert not np.allclose(one[3:], other[3:])
    assert tiny.largest_difference(one_updates, other_updates) == 0


def test_batch_norm_of_a_constant_is_its_shift() -> None:
    values, _ = LAYER.apply(LAYER_VARIABLES, jnp.full((4, 3), 100.0), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(values, np.broadcast_to(SHIFT, (4, 3)), atol=1e-3)


def test_batch_norm_over_an_axis_is_that_of_the_whole_batch() -> None:
    x = maps(6, 4, 2, 3)
    whole, updates = LAYER.apply(LAYER_VARIABLES, x, train=True, mutable=["batch_stats"])
    layer = LAYER.copy(axis_name="devices")
    parts, part_updates = jax.vmap(
        lambda part: layer.apply(LAYER_VARIABLES, part, train=True, mutable=["batch_stats"]), axis_name="devices"
    )(x.reshape(3, 2, 4, 2, 3))
    np.testing.assert_allclose(parts.reshape(x.shape), whole, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(part_updates["batch_stats"][name][2], updates["batch_stats"][name], atol=1e-6)
