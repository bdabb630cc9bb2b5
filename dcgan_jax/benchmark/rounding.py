"""How far bfloat16 moves the gradients of a training step from float32's, here and in PyTorch.

    python -m dcgan_jax.benchmark.rounding --config=configs/svhn.py --batch_size=64

trains in float32 for --steps steps on smooth random images. Then it takes the gradients of both networks at these
weights, from the same images and noise, in float32 and in bfloat16: with this package's step, and with PyTorch's from
the same weights (`torch.autocast`). The figure is

    |bfloat16's gradient - float32's| / |float32's|,   Euclidean norms over all parameters of a network

each system against its own float32. Both networks are differentiated before either is updated.
"""

import dataclasses
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line
from dcgan_jax.benchmark.variants import PRECISIONS
from dcgan_jax.config import check_config
from dcgan_jax.machine import files, rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import make_mesh, replicate, shard_batches
from dcgan_jax.nets import models
from dcgan_jax.nets.models import Tree
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.train_state import Gan, GANState, build_gan, create_state
from dcgan_jax.train_step import make_mapped_step

PLAYERS = ("discriminator", "generator")
_UNSEEN = 1_000_000  # seed of the first batch of images that was not trained on
_BLOCK = 8  # pixels between the random values that a smooth image interpolates

Gradients = dict[str, np.ndarray]
Errors = dict[str, dict[str, list[float]]]


def measure(config: ConfigDict, steps: int = 20, draws: int = 4, peer: bool = True) -> Errors:
    """Relative errors of bfloat16's gradients.

    Args:
      config: see configs/default.py; its precision and update order are not used.
      steps: of training in float32 before.
      draws: batches at which gradients are taken, each with noise of its own.
      peer: measure PyTorch, too.

    Returns:
      By system, 'dcgan_jax' and 'torch', and by network, 'discriminator' and 'generator': the error of each draw.

    Raises:
      UserError: PyTorch is not installed, or the peer does not know this config's networks.
    """
    if peer:
        _torch_peer().check_peer(config)
    mesh = make_mesh(config.batch_size)
    gan = build_gan(_in(config, "float32"))
    state = replicate(mesh, jax.jit(lambda: create_state(gan))())
    step = make_mapped_step(gan, mesh, config.mapper)
    for i in range(steps):
        state, _ = step(state, {}, _batch(config, mesh, i))
    state = jax.tree.map(np.array, state)  # the steps below take over what they are given
    systems = {"dcgan_jax": _ours, "torch": _torch} if peer else {"dcgan_jax": _ours}
    errors = {}
    for system, gradients in systems.items():
        exact, rounded = (gradients(_in(config, precision), state, draws) for precision in PRECISIONS)
        pairs = list(zip(exact, rounded, strict=True))
        errors[system] = {player: [_error(a[player], b[player]) for a, b in pairs] for player in PLAYERS}
    return errors


def table(errors: Errors) -> str:
    """The result of `measure` for people: means over the draws, and the range."""
    lines = []
    for player in PLAYERS:
        for system, found in errors.items():
            values = found[player]
            mean = f"{statistics.mean(values):.2%}"
            lines.append(f"{player:14} {system:10} {mean:>8} ({min(values):.2%} to {max(values):.2%})")
    return "\n".join(lines)


def _in(config: ConfigDict, precision: str) -> ConfigDict:
    """The config in a precision, D first: then both systems draw one batch of fakes."""
    copy = config.copy_and_resolve_references()
    copy.precision, copy.update_order = precision, "discriminator_first"
    return copy


def smooth_images(config: ConfigDict, seed: int) -> np.ndarray:
    """Random images uint8 [batch, height, width, channels] without sharp edges, as photographs have few."""
    height, width, channels = image_shape(config.data)
    blocks = (config.batch_size, -(-height // _BLOCK), -(-width // _BLOCK), channels)
    values = np.random.default_rng(seed).uniform(0, 255, blocks)
    shape = (config.batch_size, height, width, channels)
    return np.asarray(jax.image.resize(jnp.asarray(values, jnp.float32), shape, "linear")).astype(np.uint8)


def _batch(config: ConfigDict, mesh: Mesh, seed: int) -> Any:
    batch = {"image": smooth_images(config, seed)[None]}
    if config.model.num_classes:
        batch["label"] = np.arange(config.batch_size, dtype=np.int32)[None] % config.model.num_classes
    return shard_batches(mesh, config.mapper, batch)


def _ours(config: ConfigDict, state: GANState, draws: int) -> list[Gradients]:
    """Gradients of each network at the state's weights, flat, for each draw."""
    mesh, gan = make_mesh(config.batch_size), _recording(build_gan(config))
    step = make_mapped_step(gan, mesh, config.mapper)
    players = {name: getattr(state, name) for name in PLAYERS}
    recording = state.replace(**{name: player.replace(opt_state=player.params) for name, player in players.items()})
    found = []
    for draw in range(draws):
        fresh = replicate(mesh, recording.replace(step=np.int32(draw)))  # which decides the noise
        after, _ = step(fresh, {}, _batch(config, mesh, _UNSEEN + draw))
        found.append({name: _flat(getattr(after, name).opt_state) for name in PLAYERS})
    return found


def _recording(gan: Gan) -> Gan:
    """Its step changes no parameter and leaves the gradients where the optimizers' states are."""

    def keep(gradients: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return jax.tree.map(jnp.zeros_like, gradients), gradients

    record = optax.GradientTransformation(init=lambda params: params, update=keep)
    return dataclasses.replace(gan, generator_optimizer=record, discriminator_optimizer=record)


def _torch(config: ConfigDict, state: GANState, draws: int) -> list[Gradients]:
    """The same with PyTorch."""
    torch_peer = _torch_peer()
    trainer = torch_peer.TorchTrainer(config)
    torch_peer.load(trainer, state, config)
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    noise = partial(models.sample_noise, shape=(config.model.z_dim,), distribution=config.model.z_distribution)
    found = []
    for draw in range(draws):
        keys = rng.example_keys(rng.stream(config.seed, "z", draw), 0, config.batch_size)
        z = torch_peer.torch.tensor(np.array(jax.vmap(noise)(keys)))
        images = torch_peer.torch.tensor(smooth_images(config, _UNSEEN + draw).transpose(0, 3, 1, 2))
        trainer.step(images, z, z)
        found.append({name: _flat([p.grad.numpy() for p in getattr(trainer, name).parameters()]) for name in PLAYERS})
    return found


def _torch_peer() -> Any:
    """The module that needs PyTorch."""
    try:
        from dcgan_jax.benchmark import torch_peer
    except ImportError as error:
        raise UserError(f"--peer=torch needs PyTorch ({error}): pip install -e '.[bench]'.") from error
    return torch_peer


def _flat(gradients: Tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(gradients)])


def _error(reference: np.ndarray, rounded: np.ndarray) -> float:
    return float(np.linalg.norm(rounded - reference) / np.linalg.norm(reference))


def main() -> None:
    config = _CONFIG.value
    if _BATCH_SIZE.value:
        config.batch_size = _BATCH_SIZE.value
    check_config(config)
    errors = measure(config, _STEPS.value, _DRAWS.value, peer=_PEER.value == "torch")
    print(table(errors))
    if _OUTPUT.value:
        result = {"config": _CONFIG.name, "batch_size": config.batch_size, "steps": _STEPS.value, "errors": errors}
        files.write_atomically(Path(_OUTPUT.value), (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "File with the run's configuration.", lock_config=True)
    _BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images per step; default: the config's.", lower_bound=1)
    _STEPS = flags.DEFINE_integer("steps", 20, "Of training in float32 before.", lower_bound=0)
    _DRAWS = flags.DEFINE_integer("draws", 4, "Batches at which gradients are taken.", lower_bound=1)
    _PEER = flags.DEFINE_enum("peer", None, ["torch"], "A system to measure beside ours.")
    _OUTPUT = command_line.define_path("output", None, "JSON file for the result.")
    flags.mark_flag_as_required("config")
    command_line.run(main)
