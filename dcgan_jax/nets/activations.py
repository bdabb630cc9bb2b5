"""What `config.model.*.activation` may be [paper section 3: ReLU in G, LeakyReLU in D]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

Activation = Callable[[jax.Array], jax.Array]

LEAK = 0.2  # slope of LeakyReLU [paper section 4]


def leaky_relu(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, LEAK)


ACTIVATIONS: dict[str, Activation] = {"relu": nn.relu, "leaky_relu": leaky_relu, "tanh": jnp.tanh}
