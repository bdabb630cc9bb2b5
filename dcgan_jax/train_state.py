"""The state of a run: both players and a step counter. Everything that a checkpoint holds is in here."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from dcgan_jax.machine import rng
from dcgan_jax.nets import models
from dcgan_jax.nets.models import Discriminator, Generator


class Player(flax.struct.PyTreeNode):
    """One network: its parameters, running averages of batch normalisation, and optimizer state."""

    params: models.Tree
    batch_stats: models.Tree
    opt_state: optax.OptState


class GANState(flax.struct.PyTreeNode):
    """Attributes: step int32 scalar (finished steps); two players; `ema` the generator's averaged params, or None."""

    step: jax.Array
    generator: Player
    discriminator: Player
    ema: models.Tree | None


def make_optimizers(config: ConfigDict) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Adam with coupled L2 for generator and discriminator, each with its own moments and step counter.

    L2 enters the gradient of every parameter, gains and shifts included, before the moments (the authors'
    lib/updates.py); this is not the decoupled weight decay of AdamW.
    """
    settings = config.optimizer

    def adam(learning_rate: float) -> optax.GradientTransformation:
        schedule: optax.ScalarOrSchedule = learning_rate
        if settings.decay_steps:
            schedule = optax.linear_schedule(learning_rate, 0.0, settings.decay_steps, settings.decay_begin)
        return optax.chain(
            optax.add_decayed_weights(settings.l2), optax.adam(schedule, settings.b1, settings.b2, settings.eps)
        )

    return adam(settings.generator_learning_rate), adam(settings.discriminator_learning_rate)


def create_state(config: ConfigDict, generator: Generator, discriminator: Discriminator) -> GANState:
    """A fresh state; a pure function of the config, traceable by `jax.eval_shape` and `jax.jit`."""
    data, model = config.data, config.model
    labels = jnp.zeros((1,), jnp.int32) if model.num_classes else None
    z = jnp.zeros((1, model.z_dim))
    images = jnp.zeros((1, data.image_size, data.image_size, data.channels))
    keys = [rng.stream(config.seed, f"init_{name}") for name in ("generator", "discriminator")]
    # The formulation of the convolutions does not matter here; this one is the quickest to trace.
    generator, discriminator = generator.copy(conv_method="lax"), discriminator.copy(conv_method="lax")
    # train=False: initialisation then needs neither dropout keys nor a mapped axis.
    generator_variables = generator.init(keys[0], z, labels, train=False)
    discriminator_variables = discriminator.init(keys[1], images, labels, train=False)
    players = [
        Player(
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
        )
        for variables, optimizer in zip(
            (generator_variables, discriminator_variables), make_optimizers(config), strict=True
        )
    ]
    ema = jax.tree.map(jnp.copy, players[0].params) if config.ema_decay else None
    return GANState(step=jnp.zeros((), jnp.int32), generator=players[0], discriminator=players[1], ema=ema)
