"""Conditional networks: labels join the input of every layer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.networks import Variables, abstract_variables, discriminator_of, evaluate, generator_of, shapes

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


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("resampling", ["strided", "pooling"])
def test_what_labels_add_is_convolved_once_for_each_class(network: str, resampling: str) -> None:
    """Five images of three classes, against labels that are joined to the maps of each image (conv 'lax')."""
    changes = {**CONDITIONAL, "model.resampling": resampling}
    labels = jnp.array([2, 0, 1, 1, 2])

    def values_and_gradients(method: str) -> Any:
        config = tiny.config({**changes, "conv": method})
        model, variables, _ = generator_of(config) if network == "generator" else discriminator_of(config)
        shape = (5, 5) if network == "generator" else (5, 8, 8, 3)
        inputs = jnp.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float32))

        def value(params: Any, x: Any) -> Any:
            return model.apply({**variables, "params": params}, x, labels, train=False)[0]

        # Weights of 0.02 make labels count for little.
        params = jax.tree.map(lambda leaf: 5.0 * leaf, variables["params"])
        result, pull_back = jax.vjp(value, params, inputs)
        return result, pull_back(jnp.cos(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape))

    joined, split = values_and_gradients("lax"), values_and_gradients("im2col")
    assert float(jnp.abs(joined[0]).max()) > 1e-3
    for a, b in zip(jax.tree.leaves(joined), jax.tree.leaves(split), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * float(jnp.abs(a).max()))
