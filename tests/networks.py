"""Networks of a config with variables and inputs, and ways to run them, for the tests of dcgan_jax.nets.models."""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dcgan_jax.nets import models
from dcgan_jax.nets.models import Discriminator, Generator
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.runs import weights_file
from dcgan_jax.runs.weights_file import Weights
from tests import tiny

Variables = dict[str, Any]


def generator_of(config: ConfigDict, batch: int = 4) -> tuple[Generator, Variables, jax.Array]:
    """A generator, its variables, and noise [batch, z_dim]."""
    generator = models.build_generator(config)
    z = models.sample_noise(jax.random.key(0), (batch, config.model.z_dim), "normal")
    return generator, initial_variables(generator, z.shape), z


def discriminator_of(config: ConfigDict, batch: int = 4) -> tuple[Discriminator, Variables, jax.Array]:
    """A discriminator, its variables, and images in its range."""
    discriminator = models.build_discriminator(config)
    shape = (batch, *image_shape(config.data))
    images = jax.random.uniform(jax.random.key(0), shape, minval=-1.0)
    return discriminator, initial_variables(discriminator, shape), images


def initialise(network: Generator | Discriminator, shape: tuple[int, ...]) -> Variables:
    labels = jnp.zeros(shape[:1], jnp.int32) if network.num_classes else None
    return dict(network.init(jax.random.key(1), jnp.zeros(shape), labels, train=False))


_compiled = cache(jax.jit(initialise, static_argnums=(0, 1)))


def initial_variables(network: Generator | Discriminator, shape: tuple[int, ...]) -> Variables:
    """Computed once per network; the caller may change the dictionaries."""
    return jax.tree.map(lambda leaf: leaf, _compiled(network, shape))


def abstract_variables(config: ConfigDict) -> tuple[Variables, Variables]:
    """Shapes of both networks' variables, without computing anything."""
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    images = (1, *image_shape(config.data))
    return (
        jax.eval_shape(lambda: initialise(generator, (1, config.model.z_dim))),
        jax.eval_shape(lambda: initialise(discriminator, images)),
    )


@partial(jax.jit, static_argnums=0, static_argnames="groups")
def train(network: Generator | Discriminator, variables: Variables, inputs: jax.Array, **options: Any) -> Any:
    """Result and taps in training mode; the updated running averages are dropped."""
    return network.apply(variables, inputs, train=True, mutable=["batch_stats"], **options)[0]


@partial(jax.jit, static_argnums=0)
def evaluate(network: Generator | Discriminator, variables: Variables, *inputs: jax.Array) -> Any:
    """Result and taps in evaluation mode."""
    return network.apply(variables, *inputs, train=False)


def abstract_taps(network: Generator | Discriminator, *inputs: jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the taps, in order, without computing anything."""
    names: list[str] = []

    def run(*inputs: jax.Array) -> models.Taps:
        (_, taps), _ = network.init_with_output(jax.random.key(0), *inputs, train=False)
        names.extend(taps)  # eval_shape itself would sort them
        return taps

    taps = jax.eval_shape(run, *inputs)
    return {name: taps[name].shape for name in names}


def shapes(variables: Variables) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def normalised(x: np.ndarray, axes: int | tuple[int, ...], epsilon: float) -> np.ndarray:
    """Zero mean and unit variance over `axes`, in float64."""
    x = np.asarray(x, np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def of_a_trained_network(variables: Variables) -> Any:
    """The same tree with values of a trained network's size, none of them 0 or 1."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.Array) -> np.ndarray:
        low, high = (0.5, 2.0) if path[-1].key in ("var", "gain") else (-0.6, 0.6)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


def trained_file(
    folder: Path, changes: Mapping[str, Any] = {}, class_names: list[str] | None = None, discriminator: bool = True
) -> Path:
    """Writes a weights file of step 7 with the networks of `tiny.config(changes)`, as if trained; returns its path."""
    config = tiny.config(changes)
    generator, discriminator_variables = (
        of_a_trained_network(part(config)[1]) for part in (generator_of, discriminator_of)
    )
    weights = Weights(config, 7, generator, discriminator_variables if discriminator else None, class_names)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / weights_file.FILE).write_bytes(weights_file.encode(weights))
    return folder / weights_file.FILE
