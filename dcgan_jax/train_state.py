"""What is trained: both networks with their optimizers and loss, and the state that a checkpoint holds."""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from dcgan_jax.config import need_decided
from dcgan_jax.machine import rng
from dcgan_jax.machine.mesh import AXIS, mean_over_devices
from dcgan_jax.nets import augment
from dcgan_jax.nets.losses import Loss, smoothed
from dcgan_jax.nets.models import Discriminator, Generator, Tree, build_discriminator, build_generator, stage_layers


@dataclass(frozen=True)
class Gan:
    """The networks of a config and what trains them, built once a start.

    Attributes:
      generator, discriminator: as the training step runs them, inside the mapped axis `mesh.AXIS`.
      generator_optimizer, discriminator_optimizer: see `make_optimizer`.
      frozen: names of the discriminator's layers that keep their parameters.
      loss: of both.
      generator_first: the order of the updates, see `train_step`.
      flip: whether training images are mirrored at random.
      augmentations: what the discriminator sees of images, see nets/augment.py.
      augment_probability: of each; its start if there is an `augment_target`.
      augment_target, augment_ramp_images: see `augment.Adaptive`; target 0: the probability is fixed.
      r1, r1_every: weight of the penalty, see `train_step.r1_gradients`, and steps between two; r1 0: none.
      instance_noise: standard deviation at the start of the noise that is added to what D sees; it falls linearly to 0
        at `num_steps`.
      ema_decay: of the generator's averaged parameters; 0: none are kept.
      seed: of the initial parameters and of everything that training draws.
      matmul_precision, reduce_precision: see configs/default.py.
    """

    generator: Generator
    discriminator: Discriminator
    generator_optimizer: optax.GradientTransformation
    discriminator_optimizer: optax.GradientTransformation
    frozen: frozenset[str]
    loss: Loss
    generator_first: bool
    flip: bool
    augmentations: tuple[str, ...]
    augment_probability: float
    augment_target: float
    augment_ramp_images: int
    r1: float
    r1_every: int
    instance_noise: float
    num_steps: int
    ema_decay: float
    seed: int
    matmul_precision: str
    reduce_precision: str

    def multiplying(self) -> contextlib.AbstractContextManager[object]:
        """Within it, convolutions and products are traced with `matmul_precision`."""
        if self.matmul_precision == "default":  # JAX's own, which JAX_DEFAULT_MATMUL_PRECISION sets
            return contextlib.nullcontext()
        return jax.default_matmul_precision(self.matmul_precision)

    def average(self, gradients: Tree) -> Tree:
        """Gradients averaged over devices, inside a mapped step."""
        if self.reduce_precision == "float32":
            return mean_over_devices(gradients)
        rounded = jax.tree.map(lambda leaf: leaf.astype(self.reduce_precision), gradients)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), mean_over_devices(rounded))

    @property
    def shares_statistics(self) -> bool:
        """Whether all devices have the same statistics of batch normalisation already."""
        return self.generator.axis_name is not None


def build_gan(config: ConfigDict, d_rate: float = 1.0) -> Gan:
    """The `Gan` of a config that has been checked.

    Args:
      config: see configs/default.py.
      d_rate: multiplies the discriminator's learning rate.

    Raises:
      UserError: config.precision is 'auto', or config.model.width 0.
    """
    need_decided(config)
    return Gan(
        generator=build_generator(config, AXIS),
        discriminator=build_discriminator(config, AXIS),
        generator_optimizer=make_optimizer(
            config.optimizer, config.optimizer.generator_learning_rate, config.num_steps
        ),
        discriminator_optimizer=make_optimizer(
            config.optimizer, d_rate * config.optimizer.discriminator_learning_rate, config.num_steps
        ),
        frozen=stage_layers(config.model.discriminator.freeze),
        loss=smoothed(config.loss, config.regularizer.label_smoothing),
        generator_first=config.update_order == "generator_first",
        flip=config.data.flip == "x",
        augmentations=tuple(config.augment.operations),
        augment_probability=config.augment.probability,
        augment_target=config.augment.target,
        augment_ramp_images=config.augment.ramp_images,
        r1=config.regularizer.r1,
        r1_every=config.regularizer.r1_every,
        instance_noise=config.regularizer.instance_noise,
        num_steps=config.num_steps,
        ema_decay=config.ema_decay,
        seed=config.seed,
        matmul_precision=config.matmul_precision,
        reduce_precision=config.reduce_precision,
    )


def make_optimizer(settings: ConfigDict, learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam with coupled L2 for one player, with moments and a step counter of its own.

    L2 enters the gradient of every parameter, gains and shifts included, before the moments (the authors'
    lib/updates.py); this is not the decoupled weight decay of AdamW.

    Args:
      settings: config.optimizer.
      learning_rate: at the start; it decays linearly to 0 as settings says.
      num_steps: of the run.
    """
    begin, steps = settings.decay_begin, settings.decay_steps
    if settings.decay_fraction:
        steps = max(1, round(settings.decay_fraction * num_steps))
        begin = num_steps - steps
    schedule: optax.ScalarOrSchedule = learning_rate
    if steps:
        schedule = optax.linear_schedule(learning_rate, 0.0, steps, begin)
    return optax.chain(
        optax.add_decayed_weights(settings.l2), optax.adam(schedule, settings.b1, settings.b2, settings.eps)
    )


class Player(flax.struct.PyTreeNode):
    """One network: its parameters, running averages of batch normalisation, and optimizer state."""

    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Tree]:
        """What `Module.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def updated(self, gradients: Tree, optimizer: optax.GradientTransformation, frozen: Collection[str] = ()) -> Self:
        """The player after one step of its optimizer; layers named in `frozen` keep their parameters.

        Adam's moments of these follow their gradients all the same: a run that is resumed may update them again.
        """
        updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
        kept = {name: layer for name, layer in self.params.items() if name in frozen}
        return self.replace(params={**optax.apply_updates(self.params, updates), **kept}, opt_state=opt_state)

    def with_statistics(self, batch_stats: Tree, shared: bool) -> Self:
        """The player with new running averages; unless they are `shared`, each device has those of its own images."""
        return self.replace(batch_stats=batch_stats if shared else mean_over_devices(batch_stats))


class GANState(flax.struct.PyTreeNode):
    """Attributes:

    step: int32 scalar, finished steps.
    generator, discriminator: the two players.
    ema: the generator's averaged params, or None.

    A field more, even with None in it, and no checkpoint of before can be read: see `AdaptiveGANState`.
    """

    step: jax.Array
    generator: Player
    discriminator: Player
    ema: Tree | None


class AdaptiveGANState(GANState):
    """With `adaptive`, the probability of augmentation, which follows the discriminator."""

    adaptive: augment.Adaptive


def counts_for_decay(state: GANState) -> bool:
    """Whether the optimizers count their steps for learning rates that decay, see `make_optimizer`."""
    return isinstance(state.generator.opt_state[1][1], optax.ScaleByScheduleState)


def with_counts_for_decay(state: GANState, counted: bool) -> GANState:
    """The state as it would be with such counts, which are Adam's, or without: decay may begin in a resumed run."""

    def adapted(player: Player) -> Player:
        l2, (adam, _) = player.opt_state
        # A copy: a step takes over the memory of each array.
        count = jnp.copy(adam.count) if isinstance(adam.count, jax.Array) else adam.count
        rates = optax.ScaleByScheduleState(count) if counted else optax.EmptyState()
        return player.replace(opt_state=(l2, (adam, rates)))

    return state.replace(generator=adapted(state.generator), discriminator=adapted(state.discriminator))


def create_state(gan: Gan) -> GANState:
    """A fresh state: a pure function of the config, traceable by `jax.eval_shape` and `jax.jit`."""
    # The formulation of the convolutions does not matter here; this one is the quickest to trace.
    generator, discriminator = gan.generator.copy(conv_method="lax"), gan.discriminator.copy(conv_method="lax")
    labels = jnp.zeros((1,), jnp.int32) if generator.num_classes else None
    z = jnp.zeros((1, generator.z_dim))
    images = jnp.zeros((1, *generator.image_shape))
    # train=False: initialisation then needs neither dropout keys nor a mapped axis.
    g_variables = generator.init(rng.stream(gan.seed, "init_generator"), z, labels, train=False)
    d_variables = discriminator.init(rng.stream(gan.seed, "init_discriminator"), images, labels, train=False)
    g, d = _fresh(g_variables, gan.generator_optimizer), _fresh(d_variables, gan.discriminator_optimizer)
    ema = jax.tree.map(jnp.copy, g.params) if gan.ema_decay else None
    step = jnp.zeros((), jnp.int32)
    if gan.augment_target:
        adaptive = augment.Adaptive.start(gan.augment_probability)
        return AdaptiveGANState(step=step, generator=g, discriminator=d, ema=ema, adaptive=adaptive)
    return GANState(step=step, generator=g, discriminator=d, ema=ema)


def _fresh(variables: Mapping[str, Tree], optimizer: optax.GradientTransformation) -> Player:
    params = variables["params"]
    return Player(params=params, batch_stats=variables.get("batch_stats", {}), opt_state=optimizer.init(params))
