"""One training step of both players, as a pure function of one device's share of the batch.

It runs inside a mapped axis (`mesh.AXIS`): each device sees its slice of the global batch, gradients and
metrics are averaged over devices, and noise is a function of (seed, step, position in the global batch). So a run does
not depend on the number of devices, up to float rounding, as long as batch statistics are shared between them.

Update orders (config.update_order):

    discriminator_first   fakes = G(z); D learns from (real, fakes); G learns from the new D's opinion of the same
                          fakes. Most ports of the paper do this.
    generator_first       G learns from D's opinion of G(z); D learns from (real, G(z')) with fresh z' and the new G.
                          The authors' order (faces/train_uncond_dcgan.py).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

from dcgan_jax.machine import rng
from dcgan_jax.machine.mesh import AXIS, mean_over_devices
from dcgan_jax.nets import models, pixels
from dcgan_jax.nets.losses import LOSSES, Loss
from dcgan_jax.nets.models import Discriminator, Generator, Tree
from dcgan_jax.train_state import GANState, Player, make_optimizers

Metrics = dict[str, jax.Array]
Batch = dict[str, jax.Array]
TrainStep = Callable[[GANState, Batch], tuple[GANState, Metrics]]


def make_train_step(config: ConfigDict, rollbacks: int = 0) -> TrainStep:
    """Builds `step(state, batch) -> (state, metrics)`.

    `batch` holds this device's 'image' uint8 [batch, height, width, channels] and, for conditional networks, 'label'
    int32 [batch]. Metrics are float32 scalars of before the update: d_loss and g_loss; d_real and d_fake, the means of
    sigmoid(logit) over real and generated images; d_grad_norm and g_grad_norm, Euclidean. d_grad_norms and
    g_grad_norms [leaves] are those of the single tensors, in the order of `jax.tree.leaves`.

    `rollbacks`: how often the run went back after it diverged. Each time it goes on with other random draws.

    Raises:
      UserError: see `config.check_config`.
    """
    generator, discriminator = models.build_models(config, AXIS)
    generator_optimizer, discriminator_optimizer = make_optimizers(config)
    loss = LOSSES[config.loss]

    def step(state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
        real = pixels.to_network(batch["image"], config.model.output)
        labels = batch["label"] if config.model.num_classes else None
        keys = partial(_example_keys, config.seed, state.step, len(real), rollbacks)

        def noise(name: str) -> jax.Array:
            draw = partial(models.sample_noise, shape=(config.model.z_dim,), distribution=config.model.z_distribution)
            return jax.vmap(lambda key: draw(key))(keys(name))

        update_discriminator = partial(
            discriminator_step, discriminator, discriminator_optimizer, loss, real=real, labels=labels, keys=keys
        )
        update_generator = partial(
            generator_step, discriminator, generator_optimizer, loss, labels=labels, dropout_keys=keys("dropout_fake_g")
        )

        fakes, batch_stats, pull_back = _generate(generator, state.generator, noise("z"), labels)
        if config.update_order == "discriminator_first":
            new_discriminator, d_metrics = update_discriminator(state.discriminator, fakes=fakes)
            new_generator, g_metrics = update_generator(new_discriminator, state.generator, fakes, pull_back)
        else:
            new_generator, g_metrics = update_generator(state.discriminator, state.generator, fakes, pull_back)
            fakes, batch_stats, _ = _generate(generator, new_generator, noise("z_discriminator"), labels)
            new_discriminator, d_metrics = update_discriminator(state.discriminator, fakes=fakes)
        # Either way the running averages follow the fakes that the discriminator saw.
        new_generator = new_generator.replace(batch_stats=mean_over_devices(batch_stats))

        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(new_generator.params, ema, 1.0 - config.ema_decay)
        metrics = mean_over_devices({**d_metrics, **g_metrics})
        return GANState(step=state.step + 1, generator=new_generator, discriminator=new_discriminator, ema=ema), metrics

    return step


def discriminator_step(
    discriminator: Discriminator,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    player: Player,
    *,
    real: jax.Array,
    fakes: jax.Array,
    labels: jax.Array | None,
    keys: Callable[[str], jax.Array],
) -> tuple[Player, Metrics]:
    """Updates the discriminator on real and generated images [batch, height, width, channels] in the networks' range.

    Both halves run as one batch of 2B with batch statistics per half: the same numbers as two passes, in half as many
    and twice as large convolutions.
    """
    images = jnp.concatenate([real, lax.stop_gradient(fakes)])
    both_labels = None if labels is None else jnp.concatenate([labels, labels])
    dropout_keys = None
    if discriminator.dropout:
        dropout_keys = jnp.concatenate([keys("dropout_real"), keys("dropout_fake_d")])

    def objective(params: Tree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Tree]]:
        (logits, _), updates = discriminator.apply(
            {"params": params, "batch_stats": player.batch_stats},
            images,
            both_labels,
            train=True,
            groups=2,
            dropout_keys=dropout_keys,
            mutable=["batch_stats"],
        )
        real_logits, fake_logits = jnp.split(logits, 2)
        return loss.discriminator(real_logits, fake_logits), (real_logits, fake_logits, updates.get("batch_stats", {}))

    (value, (real_logits, fake_logits, batch_stats)), gradients = jax.value_and_grad(objective, has_aux=True)(
        player.params
    )
    gradients, batch_stats = mean_over_devices((gradients, batch_stats))
    metrics = {
        "d_loss": value,
        "d_real": jax.nn.sigmoid(real_logits).mean(),
        "d_fake": jax.nn.sigmoid(fake_logits).mean(),
        **_norms("d", gradients),
    }
    return _update(player, gradients, optimizer).replace(batch_stats=batch_stats), metrics


def generator_step(
    discriminator: Discriminator,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    critic: Player,
    player: Player,
    fakes: jax.Array,
    pull_back: Callable[[jax.Array], tuple[Tree]],
    *,
    labels: jax.Array | None,
    dropout_keys: jax.Array,
) -> tuple[Player, Metrics]:
    """Updates the generator from the opinion of `critic`, the discriminator's player, on `fakes`.

    The loss is differentiated with respect to the images and pulled back through the generator, so no gradient of the
    discriminator's weights is ever computed here. The critic's running averages stay as they are.
    """

    def objective(images: jax.Array) -> jax.Array:
        (logits, _), _ = discriminator.apply(
            {"params": critic.params, "batch_stats": critic.batch_stats},
            images,
            labels,
            train=True,
            dropout_keys=dropout_keys,
            mutable=["batch_stats"],
        )
        return loss.generator(logits)

    value, image_gradients = jax.value_and_grad(objective)(fakes)
    (gradients,) = pull_back(image_gradients)
    gradients = mean_over_devices(gradients)
    return _update(player, gradients, optimizer), {"g_loss": value, **_norms("g", gradients)}


def _generate(
    generator: Generator, player: Player, z: jax.Array, labels: jax.Array | None
) -> tuple[jax.Array, Tree, Callable[[jax.Array], tuple[Tree]]]:
    """Fakes, updated running averages, and the function from gradients of the fakes to gradients of the params."""

    def forward(params: Tree) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": player.batch_stats}
        (images, _), updates = generator.apply(variables, z, labels, train=True, mutable=["batch_stats"])
        return images, updates.get("batch_stats", {})

    fakes, pull_back, batch_stats = jax.vjp(forward, player.params, has_aux=True)
    return fakes, batch_stats, pull_back


def _norms(player: str, gradients: Tree) -> Metrics:
    norms = jnp.stack([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(gradients)])
    return {f"{player}_grad_norm": jnp.linalg.norm(norms), f"{player}_grad_norms": norms}


def _update(player: Player, gradients: Tree, optimizer: optax.GradientTransformation) -> Player:
    updates, opt_state = optimizer.update(gradients, player.opt_state, player.params)
    return player.replace(params=optax.apply_updates(player.params, updates), opt_state=opt_state)


def _example_keys(seed: int, step: jax.Array, local_batch: int, rollbacks: int, name: str) -> jax.Array:
    """Keys [local_batch] of this device's examples: functions of (seed, name, step, position in the global batch)."""
    first = lax.axis_index(AXIS) * local_batch
    if rollbacks:
        name = f"{name} after rollback {rollbacks}"
    return rng.example_keys(rng.stream(seed, name, step), first, local_batch)


def over_batches(step: Callable[..., Any]) -> Callable[..., Any]:
    """Turns `step(state, batch)` into `steps(state, pack, batches)`: a step per batch [steps, batch, ...].

    Gathers on the device if the pack is there. Metrics are those of the first step that has one which is not finite,
    or else of the last.
    """

    def steps(state: Any, pack: dict[str, jax.Array], batches: dict[str, jax.Array]) -> Any:
        def one(state: Any, batch: dict[str, jax.Array]) -> Any:
            if pack:
                batch = {name: values[batch["index"]] for name, values in pack.items()}
            return step(state, batch)

        count = len(next(iter(batches.values())))
        if count == 1:  # no loop: inside one, XLA's CPU back end uses a single thread for most operations
            return one(state, {name: values[0] for name, values in batches.items()})
        state, metrics = lax.scan(one, state, batches)
        finite = jnp.stack([jnp.isfinite(values).reshape(count, -1).all(axis=1) for values in metrics.values()])
        told = jnp.argmin(finite.all(axis=0).at[-1].set(False))
        return state, jax.tree.map(lambda values: values[told], metrics)

    return steps
