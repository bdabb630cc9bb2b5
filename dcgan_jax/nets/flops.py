"""How much arithmetic and memory one training step needs, counted from the config alone.

A multiplication and an addition are two floating-point operations. Counted are the products of convolutions and dense
layers, by their definition: sum over taps, whatever formulation computes them. Normalisation, activations and the
optimizer are left out (under 2 % in the paper's network).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dcgan_jax.nets import models
from dcgan_jax.nets.shapes import image_shape


class Layer(NamedTuple):
    """A convolution or dense layer: multiplications per image, and values it puts out per image."""

    name: str
    multiplications: int
    outputs: int


def layers(config: ConfigDict) -> tuple[list[Layer], list[Layer]]:
    """The layers of generator and discriminator, from noise to image and from image to logit."""
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    shape, classes = image_shape(config.data), config.model.num_classes
    taps, pooling = config.model.kernel_size**2, config.model.resampling == "pooling"

    def dense(name: str, inputs: int, outputs: int) -> Layer:
        return Layer(name, (inputs + classes) * outputs, outputs)

    g_layers, width = [], config.model.z_dim
    for i, features in enumerate(generator.hidden, 1):
        g_layers.append(dense(f"hidden{i}", width, features))
        width = features
    area = math.prod(models.first_sides(shape, generator.stages))  # pixels of the maps
    widths = models.generator_widths(generator.stages, shape[2])
    g_layers.append(dense("projection", width, area * widths[0]))
    for i, ((features, stride), output) in enumerate(zip(generator.stages, widths[1:], strict=True), 1):
        places = area * stride**2 if pooling else area
        multiplications = places * taps * (features + classes) * output
        area *= stride**2
        g_layers.append(Layer(f"deconv{i}", multiplications, area * output))

    d_layers, area, width = [], math.prod(shape[:2]), shape[2]
    for i, (features, stride) in enumerate(discriminator.stages, 1):
        places = area if pooling else area // stride**2
        area //= stride**2
        multiplications = places * taps * (width + classes) * features
        d_layers.append(Layer(f"conv{i}", multiplications, places * features))
        width = features
    if discriminator.head == "dense":
        width *= area
    for i, features in enumerate(discriminator.hidden, 1):
        d_layers.append(dense(f"hidden{i}", width, features))
        width = features
    d_layers.append(dense("logit", width, 1))
    return g_layers, d_layers


def flops_per_image(config: ConfigDict) -> int:
    """Floating-point operations of one training step per image of the batch.

    With forward passes F_G and F_D the step costs 3 F_G (forward, gradients of weights and of inputs) + 6 F_D (the
    same on real and generated images) + 2 F_D (generated images forward and back, without weight gradients), less the
    gradients of inputs that nobody asks for: those of the images in the discriminator's update and of the noise.
    'generator_first' draws new fakes for the discriminator: F_G more.
    """
    g_layers, d_layers = layers(config)
    forward_g, forward_d = (sum(layer.multiplications for layer in part) for part in (g_layers, d_layers))
    total = 3 * forward_g + 8 * forward_d - g_layers[0].multiplications - 2 * d_layers[0].multiplications
    if config.update_order == "generator_first":
        total += forward_g
    return 2 * total


def activation_bytes_per_image(config: ConfigDict) -> int:
    """Bytes of the maps that one step must remember for its gradients, per image of the batch.

    Every layer's output once before and once after normalisation and activation, of G for one image and of D for the
    real one and the generated one, in the precision of the computation.
    """
    g_layers, d_layers = layers(config)
    values = 2 * sum(layer.outputs for layer in g_layers) + 4 * sum(layer.outputs for layer in d_layers)
    return values * jnp.dtype(config.precision).itemsize


def step_memory_bytes(config: ConfigDict, devices: int) -> int:
    """Bytes that a training step needs on one device besides the images, at most: an estimate.

    Six float32 values per parameter (itself, both moments of Adam, its average, gradient and update) and twice the
    maps that are remembered. Programs compiled for an H100 and a v5e need about half of it.

    Args:
      config: see configs/default.py.
      devices: that the batch is split over.
    """
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    labels = jnp.zeros((1,), jnp.int32) if config.model.num_classes else None
    key = jax.random.key(0)
    inputs = (
        (generator, jnp.zeros((1, config.model.z_dim))),
        (discriminator, jnp.zeros((1, *image_shape(config.data)))),
    )
    parameters = 0
    for network, first in inputs:
        shapes = jax.eval_shape(lambda network=network, first=first: network.init(key, first, labels, train=False))
        parameters += sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    share = -(-config.batch_size // devices)
    return 6 * 4 * parameters + 2 * activation_bytes_per_image(config) * share
