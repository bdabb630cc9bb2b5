"""An encoder: a network that guesses z from an image, trained on a generator's own samples, whose z is known.

It has the layers of the run's discriminator with z_dim outputs, and sees no real image: on these its guess is only a
place where a search may begin.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcgan_jax.analysis.latent_search import into_prior
from dcgan_jax.machine import rng
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets import models, pixels
from dcgan_jax.nets.models import Tree
from dcgan_jax.runs.sampler import full_batches
from dcgan_jax.runs.trained import Run

STEPS = 400
_BATCH_SIZE = 64
_RATE = 1e-3


def train(run: Run, steps: int = STEPS) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Trains an encoder on fresh samples.

    Args:
      run: a trained run; of a conditional network the classes are drawn in turn.
      steps: of Adam, with 64 samples each; the rate falls to 0 as half a cosine.

    Returns:
      A function of uint8 images [count, height, width, channels] and int32 labels [count] or None: noise float32
      [count, z_dim] in the prior.
    """
    generator, sampler = run.generator, run.sampler
    network = models.build_discriminator(run.config).copy(outputs=generator.z_dim, dropout=0.0)
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))
    labels = sampler.labels(0, _BATCH_SIZE)
    shape = (_BATCH_SIZE, *generator.image_shape)
    key = rng.stream(run.config.seed, "encoder")
    variables = jax.jit(lambda: network.init(key, jnp.zeros(shape), labels, train=False))()
    params, statistics = variables["params"], variables.get("batch_stats", {})

    @jax.jit
    def step(params: Tree, statistics: Tree, state: Tree, drawn: Tree, i: jax.Array) -> tuple[Tree, Tree, Tree]:
        z = models.sample_noise(
            rng.stream(run.config.seed, "encoder_noise", i), (_BATCH_SIZE, generator.z_dim), generator.z_distribution
        )
        with run.gan.multiplying():
            images, _ = generator.apply(drawn, z, labels, train=False)

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            held = {"params": params, "batch_stats": statistics}
            (guess, _), updates = network.apply(held, images, labels, train=True, mutable=["batch_stats"])
            return jnp.square(guess - z).mean(), updates.get("batch_stats", {})

        gradient, statistics = jax.grad(loss, has_aux=True)(params)
        update, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, update), statistics, state

    state = optimizer.init(params)
    for i in tqdm(range(steps), desc="encoder", unit="step", disable=None):
        params, statistics, state = step(params, statistics, state, run.variables, jnp.int32(i))
    trained = {"params": params, "batch_stats": statistics}

    @jax.jit
    def guess(images: jax.Array, labels: jax.Array | None) -> jax.Array:
        found, _ = network.apply(trained, pixels.to_network(images, generator.output), labels, train=False)
        return into_prior(found, generator.z_distribution)

    def encode(images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        found, done = [], 0
        for batch, count in full_batches(images):
            of_batch = None if labels is None else jnp.asarray(np.resize(labels[done : done + count], len(batch)))
            found.append(np.asarray(guess(jnp.asarray(batch), of_batch))[:count])
            done += count
        return np.concatenate(found)

    return encode
