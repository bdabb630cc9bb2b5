"""Tests of dcgan_jax.nets.layers: the plain layers say what the Flax networks say."""

from typing import Any

import numpy as np
import pytest

from dcgan_jax.nets import layers, models
from dcgan_jax.nets.models import Discriminator, Generator
from tests import networks, tiny

VARIANTS: dict[str, dict[str, Any]] = {
    "strided": {},
    "4x4, normalised per channel": {"model.kernel_size": 4, "model.generator.projection_norm": "channel"},
    "5x5, conditional, grey, sigmoid": {
        "model.kernel_size": 5,
        "model.num_classes": 3,
        "data.channels": 1,
        "model.output": "sigmoid",
        "model.norm_affine": False,
        "model.generator.hidden": (7,),
        "model.discriminator.hidden": (7,),
    },
    "pooling, averaged head": {"model.resampling": "pooling", "model.discriminator.head": "pool"},
    "stride 1, every layer normalised": {
        "model.norm": "all",
        "model.generator.stages": ((6, 1), (4, 2)),
        "model.discriminator.stages": ((4, 2), (6, 1)),
        "model.generator.activation": "tanh",
    },
    "not normalised": {"model.norm": "none"},
    "dense": {
        "model.generator.stages": (),
        "model.discriminator.stages": (),
        "model.generator.hidden": (9, 8),
        "model.discriminator.hidden": (9, 8),
        "model.num_classes": 3,
    },
}


def _assert_same(network: Generator | Discriminator, found: list[layers.Layer], variables: Any, inputs: Any) -> None:
    labels = np.arange(len(inputs), dtype=np.int32) % network.num_classes if network.num_classes else None
    expected, taps = network.apply(variables, inputs, labels, train=False)
    result, plain = layers.apply(found, np.asarray(inputs), labels)
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=2e-4, atol=2e-5)
    for name, tap in taps.items():
        np.testing.assert_allclose(plain[name].reshape(tap.shape), tap, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", VARIANTS)
def test_generator_layers_draw_what_the_network_draws(name: str) -> None:
    generator, fresh, z = networks.generator_of(tiny.config(VARIANTS[name]))
    variables = networks.of_a_trained_network(fresh)
    found = layers.generator_layers(generator, variables)
    _assert_same(generator, found, variables, z)
    assert [layer.name for layer in found][-1] == "image"


@pytest.mark.parametrize("name", VARIANTS)
def test_discriminator_layers_say_what_the_network_says(name: str) -> None:
    discriminator, fresh, images = networks.discriminator_of(tiny.config(VARIANTS[name]))
    variables = networks.of_a_trained_network(fresh)
    _assert_same(discriminator, layers.discriminator_layers(discriminator, variables), variables, images)


def test_widths_and_padding_of_the_papers_generator() -> None:
    from configs import default

    config = default.get_config()
    config.model.width = 1 / 64
    generator = models.build_generator(config)
    variables = networks.initial_variables(generator, (1, 100))
    found = layers.generator_layers(generator, variables)
    assert [(layer.in_features, layer.out_features) for layer in found] == [(100, 256), (16, 8), (8, 4), (4, 2), (2, 3)]
    assert found[0].reshape == (4, 4, 16)
    assert [layer.padding for layer in found] == [(0, 0), *[(2, 1)] * 4]  # Theano's pad of 2 for 5x5 at stride 2
