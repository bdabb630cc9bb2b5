"""Statistics of batch normalisation that are estimated once and then constant.

The authors evaluate their SVHN discriminator so (svhn/svhn_semisup_analysis.py): moments of every minibatch, averaged
over the data. Weights that training averages, and networks on other data than they were trained on, need the same.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from dcgan_jax.nets.models import Discriminator, Generator, Tree


def make_estimate(network: Generator | Discriminator) -> Callable[[Tree, Tree, Iterable[tuple]], Tree]:
    """`estimate(params, batch_stats, batches) -> batch_stats`.

    Means over the batches of each layer's mean and variance, every layer seeing its input normalised with that batch's
    statistics. `batches` gives the network's arguments, (input, labels or None); `batch_stats` the structure only.
    There is no dropout.
    """
    network = network.copy(norm_momentum=0.0)  # the running averages are then the last batch's moments
    if isinstance(network, Discriminator):
        network = network.copy(dropout=0.0)

    @jax.jit
    def moments(params: Tree, batch_stats: Tree, inputs: jax.Array, labels: jax.Array | None) -> Tree:
        variables = {"params": params, "batch_stats": batch_stats}
        _, updates = network.apply(variables, inputs, labels, train=True, mutable=["batch_stats"])
        return updates.get("batch_stats", {})

    def estimate(params: Tree, batch_stats: Tree, batches: Iterable[tuple]) -> Tree:
        zeros = jax.tree.map(jnp.zeros_like, batch_stats)
        total, count = zeros, 0
        for inputs, labels in batches:
            total = jax.tree.map(jnp.add, total, moments(params, zeros, inputs, labels))
            count += 1
        return jax.tree.map(lambda leaf: leaf / count, total)

    return estimate
