"""Statistics of batch normalisation that are estimated once and then constant.

The authors evaluate their SVHN discriminator so (svhn/svhn_semisup_analysis.py): moments of every minibatch, averaged
over the data. Weights that training averages, and networks on other data than they were trained on, need the same.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from dcgan_jax.nets.models import Discriminator, Generator, Tree


def _map_moments(function: Callable[..., jax.Array], first: Tree, *others: Tree) -> Tree:
    """`jax.tree.map` over means and variances; the vectors of spectral norms are those of the first tree."""

    def of(path: Any, leaf: jax.Array, *more: jax.Array) -> jax.Array:
        return leaf if path[-1].key == "u" else function(leaf, *more)

    mapped: Tree = jax.tree_util.tree_map_with_path(of, first, *others)
    return mapped


def make_estimate(network: Generator | Discriminator) -> Callable[[Tree, Tree, Iterable[tuple]], Tree]:
    """`estimate(params, batch_stats, batches) -> batch_stats`.

    Means over the batches of each layer's mean and variance, every layer seeing its input normalised with that batch's
    statistics. `batches` gives the network's arguments, (input, labels or None); `batch_stats` the structure, and the
    vectors of spectral norms, which stay. There is no dropout.
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
        start = _map_moments(jnp.zeros_like, batch_stats)
        total, count = start, 0
        for inputs, labels in batches:
            total = _map_moments(jnp.add, total, moments(params, start, inputs, labels))
            count += 1
        return _map_moments(lambda leaf: leaf / count, total)

    return estimate
