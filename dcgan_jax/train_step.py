"""One training step of both players, as a pure function of one device's share of the batch.

It runs inside a mapped axis (`mesh.AXIS`): each device sees its slice of the global batch, gradients and metrics are
averaged over devices, and noise is a function of (seed, step, position in the global batch). So a run does not depend
on the number of devices, up to float rounding, as long as batch statistics are shared between them.

Update orders (config.update_order):

    discriminator_first   fakes = G(z); D learns from (real, fakes); G learns from the new D's opinion of the same
                          fakes. Most ports of the paper do this.
    generator_first       G learns from D's opinion of G(z); D learns from (real, G(z')) with fresh z' and the new G.
                          The authors' order (faces/train_uncond_dcgan.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from dcgan_jax.machine import rng
from dcgan_jax.machine.mesh import AXIS, map_step, mean_over_devices
from dcgan_jax.nets import augment, models, pixels
from dcgan_jax.nets.models import Tree
from dcgan_jax.train_state import AdaptiveGANState, Gan, GANState, Player

Metrics = dict[str, jax.Array]
Batch = dict[str, jax.Array]


def train_step(gan: Gan, state: GANState, batch: Batch, rollbacks: int = 0) -> tuple[GANState, Metrics]:
    """One update of both players.

    Args:
      gan: the networks and what trains them.
      state: before the step.
      batch: this device's 'image' uint8 [batch, height, width, channels] and, for conditional networks, 'label' int32
        [batch].
      rollbacks: how often the run returned to a checkpoint. Each time it draws other noise.

    Returns:
      The state after the step, and metrics of before the update, float32 scalars: d_loss and g_loss; d_real and d_fake,
      the means of sigmoid(logit) over real and generated images; d_grad_norm and g_grad_norm, Euclidean. d_grad_norms
      and g_grad_norms [leaves] are those of the single tensors, in the order of `jax.tree.leaves`. With adaptive
      augmentation d_sign, see `augment.Adaptive`, and augment_probability, as it was in this step.
    """
    real, labels = pixels.to_network(batch["image"], gan.generator.output), batch.get("label")
    probability: ArrayLike = gan.augment_probability
    if isinstance(state, AdaptiveGANState):
        probability = state.adaptive.probability
    draw = Draw(gan.seed, state.step, len(real), rollbacks, probability, noise_at(gan, state.step))
    if gan.flip:
        real = mirrored_at_random(real, draw.keys("flip"))
    g, d = state.generator, state.discriminator

    fakes = generate(gan, g, draw.noise(gan, "z"), labels)
    if gan.generator_first:
        g, g_metrics = generator_step(gan, g, d, fakes, labels, draw)
        fakes = generate(gan, g, draw.noise(gan, "z_discriminator"), labels)
        d, d_metrics = discriminator_step(gan, d, real, fakes, labels, draw)
    else:
        d, d_metrics = discriminator_step(gan, d, real, fakes, labels, draw)
        g, g_metrics = generator_step(gan, g, d, fakes, labels, draw)
    g = g.with_statistics(fakes.batch_stats, gan.shares_statistics)  # of the fakes that D saw

    ema = None if state.ema is None else optax.incremental_update(g.params, state.ema, 1.0 - gan.ema_decay)
    metrics = mean_over_devices(d_metrics | g_metrics)
    if isinstance(state, AdaptiveGANState):
        state, metrics = with_probability_adjusted(gan, state, len(real), metrics)
    return state.replace(step=state.step + 1, generator=g, discriminator=d, ema=ema), metrics


def with_probability_adjusted(
    gan: Gan, state: AdaptiveGANState, local_batch: int, metrics: Metrics
) -> tuple[AdaptiveGANState, Metrics]:
    """The state with the probability of augmentation after a step of `local_batch` images on each device.

    Returns:
      It, and the metrics with d_sign as a mean instead of a sum, and with augment_probability, as it was before.
    """
    devices = lax.axis_size(AXIS)
    signs, batch_size = jnp.round(metrics["d_sign"] * devices), local_batch * devices
    after = state.adaptive.after(state.step, signs, batch_size, gan.augment_target, gan.augment_ramp_images)
    said = {"d_sign": signs / batch_size, "augment_probability": state.adaptive.probability}
    return state.replace(adaptive=after), metrics | said


@dataclass(frozen=True)
class Draw:
    """The random numbers of one step for this device's examples.

    Each is a function of (seed, name, step, position in the global batch) alone. `augment_probability` is that with
    which each augmentation is applied in this step, `instance_noise` the standard deviation of what is added to images.
    """

    seed: int
    step: jax.Array
    local_batch: int
    rollbacks: int
    augment_probability: ArrayLike
    instance_noise: ArrayLike

    def keys(self, name: str) -> jax.Array:
        """Keys [local_batch] of the stream `name`."""
        if self.rollbacks:
            name = f"{name} after rollback {self.rollbacks}"
        first = lax.axis_index(AXIS) * self.local_batch
        return rng.example_keys(rng.stream(self.seed, name, self.step), first, self.local_batch)

    def noise(self, gan: Gan, name: str) -> jax.Array:
        """Noise float32 [local_batch, z_dim] of the stream `name`."""
        shape, distribution = (gan.generator.z_dim,), gan.generator.z_distribution
        return jax.vmap(lambda key: models.sample_noise(key, shape, distribution))(self.keys(name))


def noise_at(gan: Gan, step: jax.Array) -> ArrayLike:
    """Standard deviation of the instance noise of a step, 0 for the first; it falls linearly and is 0 at num_steps."""
    return gan.instance_noise * jnp.maximum(0.0, 1.0 - step / gan.num_steps) if gan.instance_noise else 0.0


def mirrored_at_random(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Images [batch, height, width, channels], each with its columns reversed if the bit of its key says so."""
    chosen = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def shown(gan: Gan, draw: Draw, images: jax.Array, *names: str) -> jax.Array:
    """Images [batch, height, width, channels] in the networks' range as the discriminator is to see them.

    `names`: of the streams' ends, each for as many images as a step has: 'real', 'fake_d', 'fake_g'.
    """

    def keys(stream: str) -> jax.Array:
        return jnp.concatenate([draw.keys(f"{stream}_{name}") for name in names])

    scale, zero = (2.0, -1.0) if gan.generator.output == "sigmoid" else (1.0, 0.0)
    if gan.augmentations:
        seen = augment.augmented(images * scale + zero, keys("augment"), gan.augmentations, draw.augment_probability)
        images = (seen - zero) / scale
    if gan.instance_noise:
        noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys("instance_noise"))
        images = images + noise * (draw.instance_noise / scale)
    return images


class Fakes(NamedTuple):
    """What the generator draws in a step.

    Attributes:
      images: float32 [batch, height, width, channels], in the networks' range.
      batch_stats: the running averages after these images.
      pull_back: from gradients of the images to a tuple with gradients of the generator's parameters.
    """

    images: jax.Array
    batch_stats: Tree
    pull_back: Callable[[jax.Array], tuple[Tree]]


def generate(gan: Gan, player: Player, z: jax.Array, labels: jax.Array | None) -> Fakes:
    """Images of noise [batch, z_dim], with the statistics of their batch."""

    def forward(params: Tree) -> tuple[jax.Array, Tree]:
        variables = player.replace(params=params).variables
        (images, _), updates = gan.generator.apply(variables, z, labels, train=True, mutable=["batch_stats"])
        return images, updates.get("batch_stats", {})

    images, pull_back, batch_stats = jax.vjp(forward, player.params, has_aux=True)
    return Fakes(images, batch_stats, pull_back)


def discriminator_step(
    gan: Gan, player: Player, real: jax.Array, fakes: Fakes, labels: jax.Array | None, draw: Draw
) -> tuple[Player, Metrics]:
    """Updates the discriminator on real [batch, height, width, channels] and generated images in the networks' range.

    Both halves run as one batch of 2B with batch statistics per half: the same numbers as two passes, in half as many
    and twice as large convolutions.
    """
    images = shown(gan, draw, jnp.concatenate([real, lax.stop_gradient(fakes.images)]), "real", "fake_d")
    both_labels = None if labels is None else jnp.concatenate([labels, labels])
    dropout_keys = None
    if gan.discriminator.dropout:
        dropout_keys = jnp.concatenate([draw.keys("dropout_real"), draw.keys("dropout_fake_d")])

    def objective(params: Tree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Tree]]:
        (logits, _), updates = gan.discriminator.apply(
            player.replace(params=params).variables,
            images,
            both_labels,
            train=True,
            groups=2,
            dropout_keys=dropout_keys,
            mutable=["batch_stats"],
        )
        real_logits, fake_logits = jnp.split(logits, 2)
        loss = gan.loss.discriminator(real_logits, fake_logits)
        return loss, (real_logits, fake_logits, updates.get("batch_stats", {}))

    (loss, outputs), gradients = jax.value_and_grad(objective, has_aux=True)(player.params)
    real_logits, fake_logits, batch_stats = outputs
    if gan.r1:
        penalty = r1_gradients(gan, player, images[: len(real)], labels, dropout_keys, draw.step)
        gradients = jax.tree.map(jnp.add, gradients, penalty)
    gradients = gan.average(gradients)
    metrics = {
        "d_loss": loss,
        "d_real": jax.nn.sigmoid(real_logits).mean(),
        "d_fake": jax.nn.sigmoid(fake_logits).mean(),
        **_norms("d", gradients),
    }
    if gan.augment_target:
        metrics["d_sign"] = jnp.sign(real_logits - gan.loss.boundary).sum()
    player = player.updated(gradients, gan.discriminator_optimizer, gan.frozen)
    return player.with_statistics(batch_stats, gan.shares_statistics), metrics


def r1_gradients(
    gan: Gan, player: Player, real: jax.Array, labels: jax.Array | None, dropout_keys: jax.Array | None, step: jax.Array
) -> Tree:
    """Gradients of the penalty r1 / 2 mean(|dD/dx|^2) on real images, with respect to D's parameters.

    Mescheder, Geiger, Nowozin 2018 (https://arxiv.org/abs/1801.04406), equation 9. D is its logit. It is taken every
    r1_every steps, times r1_every, and is 0 between them ("lazily", Karras et al. 2020, https://arxiv.org/abs/1912.04958,
    appendix B). With batch normalisation a logit depends on the other images too; dD/dx is the gradient of all logits.

    Args:
      gan, player: the discriminator's.
      real: [batch, height, width, channels], as D sees them.
      labels: int32 [batch] or None.
      dropout_keys: those of the real images come first; or None.
      step: int32, the steps before.
    """

    def penalty(params: Tree) -> jax.Array:
        def total(images: jax.Array) -> jax.Array:
            (logits, _), _ = gan.discriminator.apply(
                player.replace(params=params).variables,
                images,
                labels,
                train=True,
                dropout_keys=None if dropout_keys is None else dropout_keys[: len(real)],
                mutable=["batch_stats"],
            )
            return logits.sum()

        slopes = jax.grad(total)(real)
        return 0.5 * gan.r1 * gan.r1_every * jnp.square(slopes).sum((1, 2, 3)).mean()

    def none(params: Tree) -> Tree:
        return jax.tree.map(jnp.zeros_like, params)

    return lax.cond(step % gan.r1_every == 0, jax.grad(penalty), none, player.params)


def generator_step(
    gan: Gan, player: Player, critic: Player, fakes: Fakes, labels: jax.Array | None, draw: Draw
) -> tuple[Player, Metrics]:
    """Updates the generator from the opinion of `critic`, the discriminator's player, on its fakes.

    The loss is differentiated with respect to the images and pulled back through the generator, so no gradient of the
    discriminator's weights is ever computed here. The critic's running averages stay as they are.
    """

    def objective(images: jax.Array) -> jax.Array:
        images = shown(gan, draw, images, "fake_g")
        (logits, _), _ = gan.discriminator.apply(
            critic.variables,
            images,
            labels,
            train=True,
            dropout_keys=draw.keys("dropout_fake_g"),
            mutable=["batch_stats"],
        )
        return gan.loss.generator(logits)

    loss, image_gradients = jax.value_and_grad(objective)(fakes.images)
    (gradients,) = fakes.pull_back(image_gradients)
    gradients = gan.average(gradients)
    return player.updated(gradients, gan.generator_optimizer), {"g_loss": loss, **_norms("g", gradients)}


def _norms(player: str, gradients: Tree) -> Metrics:
    norms = jnp.stack([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(gradients)])
    return {f"{player}_grad_norm": jnp.linalg.norm(norms), f"{player}_grad_norms": norms}


def make_mapped_step(gan: Gan, mesh: Mesh, mapper: str, rollbacks: int = 0) -> Callable[..., tuple[GANState, Metrics]]:
    """`steps(state, pack, batches) -> (state, metrics)`: `train_step` over batches and devices, compiled.

    See `over_batches` and `mesh.map_step` for the arguments, `train_step` for `rollbacks`.
    """

    def step(state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
        with gan.multiplying():
            return train_step(gan, state, batch, rollbacks)

    return map_step(over_batches(step, gan.generator.image_shape), mesh, mapper)


def over_batches(
    step: Callable[[Any, Batch], tuple[Any, Metrics]], image_shape: tuple[int, int, int]
) -> Callable[..., tuple[Any, Metrics]]:
    """Turns `step(state, batch)` into `steps(state, pack, batches)`: a step per batch [steps, batch, ...].

    If the pack is on the device, batches hold the 'index' of its rows, and images [height, width, channels] are
    restored from them here. Metrics are those of the first step that has one which is not finite, or else of the last.
    """

    def steps(state: Any, pack: Batch, batches: Batch) -> tuple[Any, Metrics]:
        def one(state: Any, batch: Batch) -> tuple[Any, Metrics]:
            if pack:
                batch = {name: values[batch["index"]] for name, values in pack.items()}
                batch["image"] = batch["image"].reshape(-1, *image_shape)
            return step(state, batch)

        count = len(next(iter(batches.values())))
        if count == 1:  # no loop: inside one, XLA's CPU back end uses a single thread for most operations
            return one(state, {name: values[0] for name, values in batches.items()})
        state, metrics = lax.scan(one, state, batches)
        finite = jnp.stack([jnp.isfinite(values).reshape(count, -1).all(axis=1) for values in metrics.values()])
        reported = jnp.argmin(finite.all(axis=0).at[-1].set(False))
        return state, jax.tree.map(lambda values: values[reported], metrics)

    return steps
