"""Losses of the two players, on logits.

Each loss is a pair of functions: the discriminator's, of the logits of real and of generated images, and the
generator's, of the logits of generated images. All logits are float [batch]; all results are scalars, means over the
batch. The discriminator's two terms are summed, not averaged, as in the authors' scripts.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus


class Loss(NamedTuple):
    """`discriminator(real_logits, fake_logits)` and `generator(fake_logits)`, both to be minimised.

    `undecided` is the lowest loss that one which cannot tell the two apart reaches.
    `boundary` is the logit half way between its answers for real and for generated images. The discriminator's is never
    below `lowest`.
    """

    discriminator: Callable[[jax.Array, jax.Array], jax.Array]
    generator: Callable[[jax.Array], jax.Array]
    undecided: float
    boundary: float = 0.0
    lowest: float = 0.0


def _cross_entropy(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    # -log sigmoid(x) = softplus(-x): exact for logits of any size.
    _check_logits(real_logits, fake_logits)
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def _non_saturating(fake_logits: jax.Array) -> jax.Array:
    _check_logits(fake_logits)
    return softplus(-fake_logits).mean()


def _minimax(fake_logits: jax.Array) -> jax.Array:
    _check_logits(fake_logits)
    return -softplus(fake_logits).mean()


def _least_squares_discriminator(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    _check_logits(real_logits, fake_logits)
    return 0.5 * (jnp.square(real_logits - 1.0).mean() + jnp.square(fake_logits).mean())


def _least_squares_generator(fake_logits: jax.Array) -> jax.Array:
    _check_logits(fake_logits)
    return 0.5 * jnp.square(fake_logits - 1.0).mean()


def _hinge_discriminator(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    _check_logits(real_logits, fake_logits)
    return relu(1.0 - real_logits).mean() + relu(1.0 + fake_logits).mean()


def _hinge_generator(fake_logits: jax.Array) -> jax.Array:
    _check_logits(fake_logits)
    return -fake_logits.mean()


LOSSES = {
    # Goodfellow et al. 2014, section 3, with the generator's log D(G(z)); the paper's and the authors' code's loss.
    "non_saturating": Loss(_cross_entropy, _non_saturating, 2 * math.log(2)),
    # Goodfellow et al. 2014, equation 1: the generator minimises log(1 - D(G(z))).
    "minimax": Loss(_cross_entropy, _minimax, 2 * math.log(2)),
    # Mao et al. 2017, equation 9: targets 1 for real, 0 for fake, 1 for the generator.
    "least_squares": Loss(_least_squares_discriminator, _least_squares_generator, 0.25, boundary=0.5),
    # Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17.
    "hinge": Loss(_hinge_discriminator, _hinge_generator, 2.0),
}


def smoothed(name: str, amount: float) -> Loss:
    """The loss `name` with one-sided label smoothing: the target of real images is 1 - amount.

    Salimans et al. 2016 (https://arxiv.org/abs/1606.03498), section 3.4. The generator's loss stays as it is.

    Args:
      name: one of SMOOTHED.
      amount: 0 to 1; 0 is the loss itself.
    """
    loss, target = LOSSES[name], 1.0 - amount
    if not amount:
        return loss
    if name == "least_squares":

        def squares(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
            _check_logits(real_logits, fake_logits)
            return 0.5 * (jnp.square(real_logits - target).mean() + jnp.square(fake_logits).mean())

        return Loss(squares, loss.generator, target**2 / 4, boundary=target / 2)

    def cross_entropy(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
        # softplus(-x) with weight `target` and softplus(x), which is softplus(-x) + x, with the rest.
        return _cross_entropy(real_logits, fake_logits) + amount * real_logits.mean()

    guess = target / 2  # the probability that an undecided D gives
    undecided = -target * math.log(guess) - (2.0 - target) * math.log(1.0 - guess)
    lowest = -target * math.log(target) - amount * math.log(amount)
    return Loss(cross_entropy, loss.generator, undecided, lowest=lowest)


# Losses whose discriminator has targets that can be smoothed.
SMOOTHED = ("non_saturating", "minimax", "least_squares")


def _check_logits(*logits: jax.Array) -> None:
    for values in logits:
        if values.ndim != 1:
            raise ValueError(f"logits must have shape [batch], not {values.shape}")
