"""Networks: initial weights, activations, resampling, output, head, and the noise that goes in, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.nets import models
from tests import tiny
from tests.networks import discriminator_of, evaluate, generator_of, shapes, train


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


def test_noise() -> None:
    key = jax.random.key(0)
    uniform = np.asarray(models.sample_noise(key, (200, 100), "uniform"))
    normal = np.asarray(models.sample_noise(key, (200, 100), "normal"))
    assert uniform.shape == normal.shape == (200, 100)
    assert uniform.dtype == normal.dtype == np.float32
    assert uniform.min() >= -1 and uniform.max() <= 1
    assert uniform.std() == pytest.approx(1 / np.sqrt(3), rel=0.02) and abs(uniform.mean()) < 0.02
    assert normal.std() == pytest.approx(1, rel=0.02) and np.abs(normal).max() > 3
