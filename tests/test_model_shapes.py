"""Networks: which layers they have, of which shapes, and which configs are refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from dcgan_jax.config import check_config
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
from tests import tiny
from tests.networks import (
    abstract_taps,
    abstract_variables,
    discriminator_of,
    evaluate,
    generator_of,
    normalised,
    shapes,
    train,
)

TEN_LAYERS = ((8, 1), (8, 2), (16, 1), (16, 2), (16, 1), (32, 2), (32, 1), (32, 2), (32, 1), (32, 1))


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


def test_width_scales_every_layer_and_keeps_at_least_one() -> None:
    changes = {"model.generator.hidden": (8,), "model.discriminator.hidden": (8,)}
    config = tiny.config({"model.width": 0.5, **changes})
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
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
            check_config(config)
    else:
        generator, discriminator = models.build_generator(config), models.build_discriminator(config)
        assert models.first_sides((size, size), generator.stages) == (size // 16, size // 16)
    for network in (config.model.generator, config.model.discriminator):
        network.stages = network.stages[:2]
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    assert models.first_sides((size, size), discriminator.stages) == (size // 4, size // 4)


@pytest.mark.parametrize("size", [28, 256])
def test_networks_at_both_ends_of_the_sizes(size: int) -> None:
    config = tiny.config({"data.image_size": size, "data.channels": 1})
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    taps = abstract_taps(generator, jax.ShapeDtypeStruct((2, 5), jnp.float32))
    assert taps["projection"] == (2, size // 4, size // 4, 6) and taps["image"] == (2, size, size, 1)
    taps = abstract_taps(discriminator, jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32))
    assert taps["conv2"] == (2, size // 4, size // 4, 6)


def test_networks_of_images_that_are_not_square() -> None:
    """Two halvings of 8 x 12: 2 x 3 maps. The logit reads all of them."""
    config = tiny.config({"data.image_width": 12})
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    taps = abstract_taps(generator, jax.ShapeDtypeStruct((2, 5), jnp.float32))
    assert taps == {"projection": (2, 2, 3, 6), "deconv1": (2, 4, 6, 4), "image": (2, 8, 12, 3)}
    taps = abstract_taps(discriminator, jax.ShapeDtypeStruct((2, 8, 12, 3), jnp.float32))
    assert taps == {"conv1": (2, 4, 6, 4), "conv2": (2, 2, 3, 6), "logit": (2,)}
    assert shapes(abstract_variables(config)[1])["logit/kernel"] == (2 * 3 * 6, 1)


def test_the_width_must_fit_too() -> None:
    with pytest.raises(UserError, match=r"image_width 30 does not fit .*: set --config\.data\.image_width to 28 or 32"):
        check_config(tiny.config({"data.image_width": 30}))
    check_config(tiny.config({"data.image_width": 28}))


def test_misfit_names_the_sizes_that_fit() -> None:
    stages = ((8, 2), (8, 1), (4, 2), (4, 2), (4, 2))
    with pytest.raises(UserError) as error:
        check_config(tiny.config({"data.image_size": 72, "model.generator.stages": stages}))
    text = str(error.value)
    assert f"image_size 72 does not fit config.model.generator.stages {stages}" in text
    assert "multiples of 16: set --config.data.image_size to 64 or 80, or change the stages." in text
    with pytest.raises(UserError, match=r"multiples of 4: set --config\.data\.image_size to 4, or"):
        check_config(tiny.config({"data.image_size": 3}))


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_both_networks_are_checked(network: str) -> None:
    config = tiny.config().unlock()
    config.model[network].stages = ((4, 2), (4, 2), (4, 2), (4, 2))
    with pytest.raises(UserError, match="image_size 8 does not fit"):
        check_config(config)


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
        check_config(config)
    assert str(error.value) == f"config.{field} is {value!r}; choose from {choices}."
