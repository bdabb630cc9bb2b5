"""Networks: shapes, parameters, and what each option changes, against NumPy."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
from dcgan_jax.nets.models import BatchNorm, Discriminator, Generator
from tests import tiny

Variables = dict[str, Any]

TEN_LAYERS = ((8, 1), (8, 2), (16, 1), (16, 2), (16, 1), (32, 2), (32, 1), (32, 2), (32, 1), (32, 1))


def generator_of(config: ConfigDict, batch: int = 4) -> tuple[Generator, Variables, jax.Array]:
    """A generator, its variables, and noise [batch, z_dim]."""
    generator = models.build_generator(config)
    z = models.sample_noise(jax.random.key(0), (batch, config.model.z_dim), "normal")
    return generator, initial_variables(generator, z.shape), z


def discriminator_of(config: ConfigDict, batch: int = 4) -> tuple[Discriminator, Variables, jax.Array]:
    """A discriminator, its variables, and images in its range."""
    discriminator = models.build_discriminator(config)
    shape = (batch, config.data.image_size, config.data.image_size, config.data.channels)
    images = jax.random.uniform(jax.random.key(0), shape, minval=-1.0)
    return discriminator, initial_variables(discriminator, shape), images


def initialise(network: Generator | Discriminator, shape: tuple[int, ...]) -> Variables:
    labels = jnp.zeros(shape[:1], jnp.int32) if network.num_classes else None
    return dict(network.init(jax.random.key(1), jnp.zeros(shape), labels, train=False))


_compiled = cache(jax.jit(initialise, static_argnums=(0, 1)))


def initial_variables(network: Generator | Discriminator, shape: tuple[int, ...]) -> Variables:
    """Computed once per network; the caller may change the dictionaries."""
    return jax.tree.map(lambda leaf: leaf, _compiled(network, shape))


def abstract_variables(config: ConfigDict) -> tuple[Variables, Variables]:
    """Shapes of both networks' variables, without computing anything."""
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    images = (1, config.data.image_size, config.data.image_size, config.data.channels)
    return (
        jax.eval_shape(lambda: initialise(generator, (1, config.model.z_dim))),
        jax.eval_shape(lambda: initialise(discriminator, images)),
    )


@partial(jax.jit, static_argnums=0, static_argnames="groups")
def train(network: Generator | Discriminator, variables: Variables, inputs: jax.Array, **options: Any) -> Any:
    """Result and taps in training mode; the updated running averages are dropped."""
    return network.apply(variables, inputs, train=True, mutable=["batch_stats"], **options)[0]


@partial(jax.jit, static_argnums=0)
def evaluate(network: Generator | Discriminator, variables: Variables, *inputs: jax.Array) -> Any:
    """Result and taps in evaluation mode."""
    return network.apply(variables, *inputs, train=False)


def abstract_taps(network: Generator | Discriminator, *inputs: jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the taps, in order, without computing anything."""
    names: list[str] = []

    def run(*inputs: jax.Array) -> models.Taps:
        (_, taps), _ = network.init_with_output(jax.random.key(0), *inputs, train=False)
        names.extend(taps)  # eval_shape itself would sort them
        return taps

    taps = jax.eval_shape(run, *inputs)
    return {name: taps[name].shape for name in names}


def shapes(variables: Variables) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def normalised(x: np.ndarray, axes: int | tuple[int, ...], epsilon: float) -> np.ndarray:
    """Zero mean and unit variance over `axes`, in float64."""
    x = np.asarray(x, np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


# --- Shapes -------------------------------------------------------------------------------------------------------


def test_taps_of_the_paper_network() -> None:
    """Figure 1 of the paper, and its mirror image."""
    generator, discriminator = (
        models.build_generator(default.get_config()),
        models.build_discriminator(default.get_config()),
    )
    taps = abstract_taps(generator, jax.ShapeDtypeStruct((2, 100), jnp.float32))
    assert list(taps.items()) == [
        ("projection", (2, 4, 4, 1024)),
        ("deconv1", (2, 8, 8, 512)),
        ("deconv2", (2, 16, 16, 256)),
        ("deconv3", (2, 32, 32, 128)),
        ("image", (2, 64, 64, 3)),
    ]
    taps = abstract_taps(discriminator, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))
    assert list(taps.items()) == [
        ("conv1", (2, 32, 32, 128)),
        ("conv2", (2, 16, 16, 256)),
        ("conv3", (2, 8, 8, 512)),
        ("conv4", (2, 4, 4, 1024)),
        ("logit", (2,)),
    ]


def test_ten_layers_with_dropout_and_dense_head() -> None:
    config = tiny.config(
        {"data.image_size": 64, "model.discriminator.hidden": (24, 12), "model.discriminator.dropout": 0.5}
    )
    config.unlock()
    config.model.discriminator.stages = TEN_LAYERS
    config.model.generator.stages = ((8, 2), (8, 2), (8, 2), (8, 2))
    discriminator = models.build_discriminator(config)
    taps = abstract_taps(discriminator, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))
    sides, features = (64, 32, 32, 16, 16, 8, 8, 4, 4, 4), [features for features, _ in TEN_LAYERS]
    expected = {f"conv{i}": (2, s, s, f) for i, (s, f) in enumerate(zip(sides, features, strict=True), 1)}
    assert list(taps.items()) == [*expected.items(), ("hidden1", (2, 24)), ("hidden2", (2, 12)), ("logit", (2,))]


def test_hidden_layers() -> None:
    config = tiny.config({"model.generator.hidden": (7, 9), "model.discriminator.hidden": (11,)})
    generator, variables, z = generator_of(config)
    _, taps = generator.apply(variables, z, train=False)
    assert list(taps) == ["hidden1", "hidden2", "projection", "deconv1", "image"]
    assert taps["hidden1"].shape == (4, 7) and taps["hidden2"].shape == (4, 9)
    assert shapes(variables)["hidden2/kernel"] == (7, 9)
    assert shapes(variables)["projection/kernel"] == (9, 2 * 2 * 6)
    assert shapes(variables)["hidden2_norm/gain"] == (9,)
    hidden1 = normalised(np.asarray(z) @ np.asarray(variables["params"]["hidden1"]["kernel"]), 0, 1e-8)
    hidden1 = np.maximum(hidden1 * np.asarray(variables["params"]["hidden1_norm"]["gain"]), 0)
    np.testing.assert_allclose(train(generator, variables, z)[1]["hidden1"], hidden1, atol=1e-5)

    discriminator, variables, images = discriminator_of(config)
    _, taps = discriminator.apply(variables, images, train=False)
    assert list(taps) == ["conv1", "conv2", "hidden1", "logit"]
    assert shapes(variables)["hidden1/kernel"] == (2 * 2 * 6, 11)
    assert shapes(variables)["logit/kernel"] == (11, 1)
    np.testing.assert_allclose(
        taps["logit"], (taps["hidden1"] @ variables["params"]["logit"]["kernel"])[:, 0], atol=1e-6
    )


def test_width_scales_every_layer_and_keeps_at_least_one() -> None:
    changes = {"model.generator.hidden": (8,), "model.discriminator.hidden": (8,)}
    generator, discriminator = models.build_models(tiny.config({"model.width": 0.5, **changes}))
    assert (generator.stages, generator.hidden) == (((3, 2), (2, 2)), (4,))
    assert (discriminator.stages, discriminator.hidden) == (((2, 2), (3, 2)), (4,))
    generator = models.build_generator(tiny.config({"model.width": 0.01, **changes}))
    assert (generator.stages, generator.hidden) == (((1, 2), (1, 2)), (1,))


@pytest.mark.parametrize("size", range(28, 257, 4))
def test_image_sizes(size: int) -> None:
    """Four halvings need a multiple of 16; two of them any multiple of 4."""
    config = default.get_config()
    config.data.image_size = size
    if size % 16:
        with pytest.raises(UserError, match=f"image_size {size} does not fit"):
            models.build_models(config)
    else:
        generator, discriminator = models.build_generator(config), models.build_discriminator(config)
        assert models.first_side(size, generator.stages) == size // 16
    for network in (config.model.generator, config.model.discriminator):
        network.stages = network.stages[:2]
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    assert models.first_side(size, discriminator.stages) == size // 4


@pytest.mark.parametrize("size", [28, 256])
def test_networks_at_both_ends_of_the_sizes(size: int) -> None:
    generator, discriminator = models.build_models(tiny.config({"data.image_size": size, "data.channels": 1}))
    taps = abstract_taps(generator, jax.ShapeDtypeStruct((2, 5), jnp.float32))
    assert taps["projection"] == (2, size // 4, size // 4, 6) and taps["image"] == (2, size, size, 1)
    taps = abstract_taps(discriminator, jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32))
    assert taps["conv2"] == (2, size // 4, size // 4, 6)


def test_misfit_names_the_sizes_that_fit() -> None:
    stages = ((8, 2), (8, 1), (4, 2), (4, 2), (4, 2))
    with pytest.raises(UserError) as error:
        models.build_models(tiny.config({"data.image_size": 72, "model.generator.stages": stages}))
    text = str(error.value)
    assert f"image_size 72 does not fit config.model.generator.stages {stages}" in text
    assert "multiples of 16: set --config.data.image_size to 64 or 80, or change the stages." in text
    with pytest.raises(UserError, match=r"multiples of 4: set --config\.data\.image_size to 4, or"):
        models.build_models(tiny.config({"data.image_size": 3}))


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_both_networks_are_checked(network: str) -> None:
    config = tiny.config().unlock()
    config.model[network].stages = ((4, 2), (4, 2), (4, 2), (4, 2))
    with pytest.raises(UserError, match="image_size 8 does not fit"):
        models.build_models(config)


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("data.channels", 4, "1, 3"),
        ("model.z_distribution", "gaussian", "'uniform', 'normal'"),
        ("model.kernel_size", 7, "3, 4, 5"),
        ("model.output", "relu", "'tanh', 'sigmoid'"),
        ("model.norm", "layer", "'paper', 'all', 'none'"),
        ("model.generator.projection_norm", "map", "'unit', 'channel'"),
        ("model.discriminator.head", "flat", "'dense', 'pool'"),
        ("conv", "fft", "'auto', 'winograd', 'im2col', 'lax'"),
    ],
)
def test_unknown_choices_are_named(field: str, value: Any, choices: str) -> None:
    config = tiny.config({field: value})
    with pytest.raises(UserError) as error:
        models.build_models(config)
    assert str(error.value) == f"config.{field} is {value!r}; choose from {choices}."


# --- Parameters ---------------------------------------------------------------------------------------------------


def test_initial_weights() -> None:
    """N(0, 0.02) weights, N(1, 0.02) gains, zero shifts [paper section 4; the authors' faces script]."""
    config = tiny.config({"model.z_dim": 40, "model.width": 8.0})
    for variables in (generator_of(config)[1], discriminator_of(config)[1]):
        for name, value in variables["params"].items():
            if name.endswith("_norm"):
                assert np.abs(value["gain"] - 1).max() < 0.1 and 0.01 < np.std(value["gain"]) < 0.03, name
                assert (value["shift"] == 0).all(), name
            else:
                weights = np.asarray(value["kernel"] if isinstance(value, dict) else value)
                spread = 4 / np.sqrt(2 * weights.size)  # four standard errors of a standard deviation, relative
                assert np.std(weights) == pytest.approx(0.02, rel=spread), name
                assert abs(weights.mean()) < 0.02 * 4 / np.sqrt(weights.size), name


def test_no_biases() -> None:
    """Without normalisation's shifts, nothing but zero can come of zero."""
    hidden = {"model.generator.hidden": (7,), "model.discriminator.hidden": (7,)}
    config = tiny.config({"model.norm": "none", **hidden})
    generator, variables, z = generator_of(config)
    assert set(shapes(variables)) == {"hidden1/kernel", "projection/kernel", "deconv1", "deconv2"}
    assert (evaluate(generator, variables, 0 * z)[0] == 0).all()
    discriminator, variables, images = discriminator_of(config)
    assert set(shapes(variables)) == {"conv1", "conv2", "hidden1/kernel", "logit/kernel"}
    assert (evaluate(discriminator, variables, 0 * images)[0] == 0).all()


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


# --- Labels -------------------------------------------------------------------------------------------------------

CONDITIONAL = {"model.num_classes": 3, "model.generator.hidden": (7,), "model.discriminator.hidden": (7,)}


def test_labels_widen_every_layer() -> None:
    generator, discriminator = map(shapes, abstract_variables(tiny.config(CONDITIONAL)))
    assert {name: shape for name, shape in generator.items() if "norm" not in name} == {
        "hidden1/kernel": (5 + 3, 7),
        "projection/kernel": (7 + 3, 2 * 2 * 6),
        "deconv1": (3, 3, 4, 6 + 3),
        "deconv2": (3, 3, 3, 4 + 3),
    }
    assert {name: shape for name, shape in discriminator.items() if "norm" not in name} == {
        "conv1": (3, 3, 3 + 3, 4),
        "conv2": (3, 3, 4 + 3, 6),
        "hidden1/kernel": (2 * 2 * 6 + 3, 7),
        "logit/kernel": (7 + 3, 1),
    }


def without_labels(params: Variables, kept: str, deconvolutions: bool) -> Variables:
    """Zeroes the weights that labels meet, the last three inputs, in every layer but `kept`."""

    def clear(name: str, value: Any) -> Any:
        if name == kept or name.endswith("_norm"):
            return value
        if isinstance(value, dict):
            return {"kernel": value["kernel"].at[-3:].set(0)}
        return value.at[..., -3:].set(0) if deconvolutions else value.at[:, :, -3:].set(0)

    return {name: clear(name, value) for name, value in params.items()}


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_every_layer_listens_to_labels(network: str) -> None:
    config = tiny.config(CONDITIONAL)
    model, variables, inputs = generator_of(config) if network == "generator" else discriminator_of(config)
    layers = [name for name in variables["params"] if not name.endswith("_norm")]
    assert len(layers) == 4
    for kept in ["", *layers]:
        params = without_labels(variables["params"], kept, deconvolutions=network == "generator")
        a, b, c = (
            evaluate(model, {**variables, "params": params}, inputs, jnp.full((4,), label))[0] for label in (0, 1, 2)
        )
        if kept:
            assert not np.allclose(a, b, rtol=1e-4, atol=0) and not np.allclose(b, c, rtol=1e-4, atol=0), kept
        else:
            np.testing.assert_array_equal(a, b)


def test_labels_are_those_of_the_example() -> None:
    generator, variables, z = generator_of(tiny.config(CONDITIONAL))
    same_z = jnp.broadcast_to(z[:1], z.shape)
    image, _ = evaluate(generator, variables, same_z, jnp.array([0, 1, 2, 1]))
    np.testing.assert_allclose(image[1], image[3], rtol=1e-5)
    assert not np.allclose(image[0], image[1], rtol=1e-3, atol=0)
    assert not np.allclose(image[1], image[2], rtol=1e-3, atol=0)


def test_missing_labels() -> None:
    generator, variables, z = generator_of(tiny.config({"model.num_classes": 3}))
    with pytest.raises(ValueError, match="3 classes needs labels"):
        generator.apply(variables, z, train=False)


# --- Batch normalisation ------------------------------------------------------------------------------------------

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


def test_axis_name_is_used_across_replicas_only() -> None:
    assert [model.axis_name for model in models.build_models(tiny.config(), "data")] == ["data", "data"]
    local = tiny.config({"model.cross_replica_norm": False})
    assert [model.axis_name for model in models.build_models(local, "data")] == [None, None]


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


# --- Activations, output and head ---------------------------------------------------------------------------------


def test_output_ranges() -> None:
    """Large weights reach both ends; the same logit comes out of either squashing."""
    logits = {}
    for output, low, inverse in (("tanh", -1, np.arctanh), ("sigmoid", 0, lambda p: np.log(p / (1 - p)))):
        generator, variables, z = generator_of(tiny.config({"model.output": output}))
        variables["params"]["deconv2"] *= 10
        image, _ = train(generator, variables, z)
        assert image.dtype == jnp.float32
        logits[output] = inverse(np.asarray(image, np.float64))
        variables["params"]["deconv2"] *= 1000
        image, _ = train(generator, variables, z)
        assert (image.min(), image.max()) == (low, 1)
    np.testing.assert_allclose(logits["tanh"], logits["sigmoid"], rtol=1e-3, atol=1e-4)
    assert np.ptp(logits["tanh"]) > 0.5


def test_activations() -> None:
    """ReLU in the generator; in the discriminator negative values are multiplied by 0.2."""
    generator, variables, z = generator_of(tiny.config())
    taps = train(generator, variables, z)[1]
    for name in ("projection", "deconv1"):
        assert taps[name].min() == 0 and taps[name].max() > 0, name

    discriminator, variables, images = discriminator_of(tiny.config())
    # Normalised, conv2 has zero mean before the LeakyReLU and a gain for standard deviation.
    conv2 = np.asarray(train(discriminator, variables, images)[1]["conv2"], np.float64)
    before = np.where(conv2 > 0, conv2, conv2 / 0.2)
    np.testing.assert_allclose(before.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(before.std((0, 1, 2)), variables["params"]["conv2_norm"]["gain"], rtol=1e-3)


def test_other_activations() -> None:
    config = tiny.config({"model.generator.activation": "leaky_relu", "model.discriminator.activation": "tanh"})
    taps = train(*generator_of(config))[1]
    assert taps["deconv1"].min() < 0 < taps["deconv1"].max()
    taps = train(*discriminator_of(config))[1]
    assert -1 < taps["conv2"].min() < 0 < taps["conv2"].max() < 1


def test_pooling_keeps_the_shapes_and_takes_maxima() -> None:
    """One layer without normalisation: a convolution of stride 1, LeakyReLU, the maximum of each 2 x 2 block."""
    changes = {"model.discriminator.stages": ((4, 2),), "model.generator.stages": ((4, 2),)}
    config = tiny.config({"model.resampling": "pooling", **changes})
    discriminator, variables, images = discriminator_of(config)
    kernel = variables["params"]["conv1"]
    full = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    blocks = np.asarray(full).reshape(4, 4, 2, 4, 2, 4).max((2, 4))
    found = evaluate(discriminator, variables, images)[1]["conv1"]
    np.testing.assert_allclose(found, np.where(blocks > 0, blocks, 0.2 * blocks), atol=1e-5)

    generator, variables, z = generator_of(config)
    image, taps = evaluate(generator, variables, z)
    repeated = jnp.kron(taps["projection"], jnp.ones((1, 2, 2, 1)))
    kernel = variables["params"]["deconv1"][::-1, ::-1]  # the transpose of a convolution turns its kernel
    full = jax.lax.conv_general_dilated(repeated, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWOI", "NHWC"))
    np.testing.assert_allclose(image, jnp.tanh(full), atol=1e-5)


def test_networks_of_dense_layers_only() -> None:
    """8 x 8 x 3 images from 5 + 2 numbers through 7 units and back through 6; no norm at G's end and D's beginning."""
    hidden = {"model.generator.hidden": (7,), "model.discriminator.hidden": (6, 4)}
    config = tiny.config(
        {"model.generator.stages": (), "model.discriminator.stages": (), "model.num_classes": 2, **hidden}
    )
    generator, discriminator = abstract_variables(config)
    norm = {"gain": (7,), "shift": (7,)}
    assert shapes(generator) == {
        "hidden1/kernel": (7, 7),
        "projection/kernel": (9, 192),
        **{f"hidden1_norm/{name}": shape for name, shape in norm.items()},
    }
    assert shapes(discriminator) == {
        "hidden1/kernel": (194, 6),
        "hidden2/kernel": (8, 4),
        "hidden2_norm/gain": (4,),
        "hidden2_norm/shift": (4,),
        "logit/kernel": (6, 1),
    }
    network, variables, z = generator_of(config)
    image = evaluate(network, variables, z, jnp.zeros(4, jnp.int32))[0]
    assert image.shape == (4, 8, 8, 3) and -1 < image.min() < 0 < image.max() < 1


@pytest.mark.parametrize("head", ["dense", "pool"])
def test_heads(head: str) -> None:
    discriminator, variables, images = discriminator_of(tiny.config({"model.discriminator.head": head}))
    logit, taps = evaluate(discriminator, variables, images)
    features = np.asarray(taps["conv2"])
    features = features.mean((1, 2)) if head == "pool" else features.reshape(4, 2 * 2 * 6)
    kernel = np.asarray(variables["params"]["logit"]["kernel"])
    assert kernel.shape == (features.shape[1], 1)
    assert logit.shape == (4,) and logit.dtype == jnp.float32
    np.testing.assert_allclose(logit, (features @ kernel)[:, 0], atol=1e-6)
    np.testing.assert_array_equal(logit, taps["logit"])


def test_formulation_of_the_convolutions_does_not_matter() -> None:
    config = tiny.config()
    for model, variables, inputs in (generator_of(config), discriminator_of(config)):
        lax, _ = train(model, variables, inputs)
        im2col, _ = train(model.copy(conv_method="im2col"), variables, inputs)
        np.testing.assert_allclose(im2col, lax, atol=1e-5)


# --- Dropout ------------------------------------------------------------------------------------------------------

# Two stages without strides on 8x8 pixels.
UNITS = 8 * 8 * 16


def counting_discriminator(rate: float) -> tuple[Discriminator, Variables]:
    """All activations are one on images of ones: the logit is the sum of what two rounds of dropout leave."""
    config = tiny.config({"model.norm": "none", "model.discriminator.dropout": rate}).unlock()
    config.model.discriminator.stages = ((16, 1), (16, 1))
    discriminator = models.build_discriminator(config)
    kernel1, kernel2 = np.zeros((3, 3, 3, 16), np.float32), np.zeros((3, 3, 16, 16), np.float32)
    kernel1[1, 1, 0] = 1
    kernel2[1, 1] = np.eye(16)
    params = {"conv1": kernel1, "conv2": kernel2, "logit": {"kernel": np.ones((UNITS, 1), np.float32)}}
    return discriminator, {"params": jax.tree.map(jnp.asarray, params)}


def test_dropout_rate() -> None:
    """A quarter is dropped, twice, with masks that have nothing to do with each other; the mean stays."""
    discriminator, variables = counting_discriminator(0.25)
    keys = jax.random.split(jax.random.key(0), 64)
    logits, taps = train(discriminator, variables, jnp.ones((64, 8, 8, 3)), dropout_keys=keys)
    np.testing.assert_allclose(taps["conv1"], 1)  # taps are what activations are before dropout ...
    np.testing.assert_allclose(np.unique(taps["conv2"]), [0, 4 / 3], rtol=1e-6)  # ... whose survivors are scaled
    first = float((taps["conv2"] > 0).mean())
    kept = np.asarray(logits) * 0.75**2
    np.testing.assert_allclose(kept, np.round(kept), atol=0.01)
    units = 64 * UNITS
    assert first == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / units))
    both = 0.75**2
    assert kept.sum() / units == pytest.approx(both, abs=4 * np.sqrt(both * (1 - both) / units))
    # Examples have masks of their own: their counts spread as binomial ones do.
    assert kept.std() == pytest.approx(np.sqrt(UNITS * both * (1 - both)), rel=0.4)


def test_dropout_does_not_depend_on_the_split_of_the_batch() -> None:
    discriminator, variables = counting_discriminator(0.5)
    images, keys = jnp.ones((4, 8, 8, 3)), jax.random.split(jax.random.key(0), 4)

    def logits(part: slice) -> Any:
        return train(discriminator, variables, images[part], dropout_keys=keys[part])[0]

    whole = logits(slice(0, 4))
    assert len(set(whole.tolist())) > 1
    np.testing.assert_array_equal(whole, jnp.concatenate([logits(slice(0, 1)), logits(slice(1, 4))]))


def test_dropout_is_for_training() -> None:
    discriminator, variables = counting_discriminator(0.5)
    logits, _ = evaluate(discriminator, variables, jnp.ones((2, 8, 8, 3)))
    np.testing.assert_array_equal(logits, [UNITS, UNITS])
    with pytest.raises(ValueError, match=r"dropout 0\.5 needs dropout_keys"):
        discriminator.apply(variables, jnp.ones((2, 8, 8, 3)), train=True)


def test_dropout_also_follows_hidden_layers() -> None:
    config = tiny.config(
        {"model.norm": "none", "model.discriminator.dropout": 0.5, "model.discriminator.hidden": (64,)}
    )
    discriminator, variables, images = discriminator_of(config)
    keys = jax.random.split(jax.random.key(0), 4)
    logit, taps = train(discriminator, variables, images, dropout_keys=keys)
    undropped = taps["hidden1"] @ variables["params"]["logit"]["kernel"]
    assert not np.allclose(logit, undropped[:, 0], rtol=1e-3, atol=0)


# --- Noise --------------------------------------------------------------------------------------------------------


def test_noise() -> None:
    key = jax.random.key(0)
    uniform = np.asarray(models.sample_noise(key, (200, 100), "uniform"))
    normal = np.asarray(models.sample_noise(key, (200, 100), "normal"))
    assert uniform.shape == normal.shape == (200, 100)
    assert uniform.dtype == normal.dtype == np.float32
    assert uniform.min() >= -1 and uniform.max() <= 1
    assert uniform.std() == pytest.approx(1 / np.sqrt(3), rel=0.02) and abs(uniform.mean()) < 0.02
    assert normal.std() == pytest.approx(1, rel=0.02) and np.abs(normal).max() > 3
