"""The discriminator's architecture as a supervised classifier, tuned by random search [paper section 5.2].

The paper's baseline for its features: the same network, trained on the same labels and nothing else, with 64 trials of
a random search. It does not say what was searched. Here: the learning rate of Adam, L2 in the gradient of every
parameter, dropout after every layer; each trial keeps the best of its validations, and the best trial is tested.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from dcgan_jax.datasets import batches
from dcgan_jax.machine import rng
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets import models, pixels
from dcgan_jax.nets.models import Discriminator, Tree
from dcgan_jax.runs.sampler import full_batches

TRIALS = 64  # [paper section 5.2]
_BATCH_SIZE = 128
_VALIDATIONS = 5  # of each trial, at equal distances
_LEARNING_RATES, _L2, _DROPOUT = (1e-4, 1e-2), (1e-6, 1e-2), (0.0, 0.5)  # ranges of the first two are logarithmic


class Trial(NamedTuple):
    """What is searched."""

    learning_rate: float
    l2: float
    dropout: float


def draw_trial(generator: np.random.Generator) -> Trial:
    def between(low: float, high: float) -> float:
        return float(np.exp(generator.uniform(np.log(low), np.log(high))))

    return Trial(between(*_LEARNING_RATES), between(*_L2), float(generator.choice(_DROPOUT)))


def search(
    config: ConfigDict,
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    trials: int,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """Searches with `trials` networks and tests the best.

    Args:
      config: of the discriminator.
      train, held_out, test: uint8 images [count, height, width, channels] and labels int32 [count].
      trials: how many.
      steps: of each, batches of 128 or of all images if they are fewer.
      seed: of the search and, with a trial's number, of its weights and the order of its images.

    Returns:
      accuracy on `test`, held_out: accuracy there, trial: what was best, trials: accuracy on `held_out` of each.
    """
    classes = int(max(labels.max() for _, labels in (train, held_out, test))) + 1
    network = models.build_discriminator(config).copy(outputs=classes)
    output, generator = config.model.output, np.random.default_rng(seed)
    best: tuple[float, Trial, Tree] | None = None
    scores = []
    with tqdm(total=trials * steps, desc="supervised CNN", unit="step", disable=None) as bar:
        for number in range(trials):
            trial = draw_trial(generator)
            score, variables = _run(network, output, trial, train, held_out, steps, (seed, number), bar)
            scores.append(score)
            if best is None or score > best[0]:
                best = score, trial, variables
    if best is None:
        raise ValueError("a search needs at least one trial")
    return {
        "accuracy": _accuracy(network, output, best[2], test),
        "held_out": best[0],
        "trial": best[1]._asdict(),
        "trials": scores,
    }


def _run(
    network: Discriminator,
    output: str,
    trial: Trial,
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    steps: int,
    seed: tuple[int, int],
    bar: tqdm,
) -> tuple[float, Tree]:
    """Best accuracy on `held_out`, and the variables that reached it."""
    network = network.copy(dropout=trial.dropout)
    images, labels = train
    batch_size = min(_BATCH_SIZE, len(images))
    shape = (1, *images.shape[1:])
    variables = network.init(rng.stream(seed[0], "supervised_init", seed[1]), jnp.zeros(shape), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    opt_state = optax.scale_by_adam().init(params)
    dropout_key = rng.stream(seed[0], "supervised_dropout", seed[1])
    chosen = batches.shuffled(np.arange(len(images)), batch_size, np.random.default_rng(seed))
    best: tuple[float, Tree] = (-1.0, variables)
    for i, numbers in enumerate(itertools.islice(chosen, steps)):
        x = pixels.to_network(jnp.asarray(images[numbers]), output)
        params, batch_stats, opt_state = _step(
            network, params, batch_stats, opt_state, x, labels[numbers], jax.random.fold_in(dropout_key, i),
            trial.learning_rate, trial.l2,
        )  # fmt: skip
        bar.update()
        if (i + 1) * _VALIDATIONS // steps > i * _VALIDATIONS // steps:
            variables = {"params": params, "batch_stats": batch_stats}
            score = _accuracy(network, output, variables, held_out)
            if score > best[0]:
                best = score, variables
    return best


@functools.partial(jax.jit, static_argnums=0)
def _step(
    network: Discriminator,
    params: Tree,
    batch_stats: Tree,
    opt_state: Tree,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    learning_rate: float,
    l2: float,
) -> tuple[Tree, Tree, Tree]:
    def loss(params: Tree) -> tuple[jax.Array, Tree]:
        keys = rng.example_keys(key, 0, len(images)) if network.dropout else None
        variables = {"params": params, "batch_stats": batch_stats}
        (logits, _), updates = network.apply(variables, images, train=True, dropout_keys=keys, mutable=["batch_stats"])
        value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return value, updates.get("batch_stats", {})

    gradients, batch_stats = jax.grad(loss, has_aux=True)(params)
    gradients = jax.tree.map(lambda g, p: g + l2 * p, gradients, params)
    updates, opt_state = optax.scale_by_adam().update(gradients, opt_state)
    return jax.tree.map(lambda p, u: p - learning_rate * u, params, updates), batch_stats, opt_state


def _accuracy(network: Discriminator, output: str, variables: Tree, data: tuple[np.ndarray, np.ndarray]) -> float:
    images, labels = data
    found = [
        np.asarray(_classify(network, variables, pixels.to_network(jnp.asarray(batch), output)))[:count]
        for batch, count in full_batches(images)
    ]
    return float((np.concatenate(found) == labels).mean())


@functools.partial(jax.jit, static_argnums=0)
def _classify(network: Discriminator, variables: Tree, images: jax.Array) -> jax.Array:
    outputs: Any = network.apply(variables, images, train=False)
    return outputs[0].argmax(1)
