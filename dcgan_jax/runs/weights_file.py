"""The networks of a run in one file, `model.safetensors`, that holds everything needed to draw from them.

Tensors are named as the networks' parameters are: 'generator.projection.kernel', 'generator.projection_norm.mean',
'discriminator.conv1'. Kernels are float16; gains, shifts and statistics of batch normalisation are float32. The
generator is stored as it draws: averaged weights, if the run keeps them, with their frozen statistics. The file's
metadata holds the config, the step, the names of classes, and the aspect of images that were squeezed. Optimizers are
left out: a run cannot be resumed from it.

safetensors (Hugging Face) is a header in JSON and plain arrays: nothing in a file is executed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from safetensors import safe_open
from safetensors.numpy import save

from dcgan_jax.config import check_config
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.models import Tree, build_discriminator, build_generator
from dcgan_jax.runs import run_folder

FILE = "model.safetensors"
_FORMAT = {"format": "dcgan_jax", "version": "1"}
PLAYERS = ("generator", "discriminator")
_STATISTICS = ("mean", "var", "u")  # last names of tensors that are no parameters; u: nets/spectral_norm.py
# Every pretrained network that comes with the package is a folder here, named as `load` takes it.
_PRETRAINED = Path(__file__).parents[1] / "pretrained"


@dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
      config: of the run, without paths of the machine that it was trained on.
      step: training steps that the networks have seen.
      generator: its variables, 'params' and 'batch_stats', float32.
      discriminator: the same, or None.
      class_names: of labels 0, 1, ..., or None.
      aspect: width over height that squeezed training images had, see config.data.fit; None for all others.
    """

    config: ConfigDict
    step: int
    generator: dict[str, Tree]
    discriminator: dict[str, Tree] | None
    class_names: list[str] | None
    aspect: float | None = None


def encode(weights: Weights) -> bytes:
    """The content of a file.

    Raises:
      UserError: a number is not finite, or a weight is beyond float16's largest, 65,504.
    """
    players = {"generator": weights.generator, "discriminator": weights.discriminator}
    tensors: dict[str, np.ndarray] = {}
    for player, variables in players.items():
        for name, leaf in flat(player, variables or {}):
            value = np.asarray(leaf, np.float16 if np.ndim(leaf) > 1 else np.float32)
            if not np.isfinite(value).all():
                raise UserError(f"{name} has values that are not finite in {value.dtype}: export another --step.")
            tensors[name] = value
    metadata = {
        **_FORMAT,
        "config": shared_config(weights.config).to_json(),
        "step": str(weights.step),
        "class_names": json.dumps(weights.class_names),
        **({} if weights.aspect is None else {"aspect": json.dumps(weights.aspect)}),
    }
    return save(tensors, metadata)


def shared_config(config: ConfigDict) -> ConfigDict:
    """The config without this machine's paths: of 'folder:/home/me/faces' remains 'folder:faces'.

    A set of the Hugging Face hub, 'hf:owner/name', keeps its name.
    """
    config = ConfigDict(config.to_dict())
    for group in (config.data, config.eval):
        kind, colon, path = group.source.partition(":")
        if colon and (kind not in ("hf", "tfds") or Path(path).is_absolute()):
            group.source = f"{kind}:{Path(path).name}"
    for name in ("dir", "cache_dir", "duplicates"):
        config.data[name] = ""
    return config


def read(path: Path) -> Weights:
    """The weights of a file.

    Raises:
      UserError: the file is missing, damaged or foreign, or its tensors are not those of its config's networks.
    """
    with files.reading(path), safe_open(path, framework="numpy") as opened:
        return _read(path, opened)


def _read(path: Path, opened: Any) -> Weights:
    metadata = opened.metadata() or {}
    if metadata.get("format") != _FORMAT["format"]:
        raise UserError(f"{path} was not exported by dcgan_jax: it holds tensors, but no config.")
    if metadata.get("version") != _FORMAT["version"]:
        raise UserError(f"{path} has version {metadata.get('version')}, which a newer dcgan_jax wrote: upgrade.")
    try:
        config = run_folder.config_of(json.loads(metadata["config"]), path)
        step, class_names = int(metadata["step"]), json.loads(metadata["class_names"])
        aspect = json.loads(metadata.get("aspect", "null"))
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata: {error!r}.") from error
    check_config(config)
    if class_names is not None and not (
        isinstance(class_names, list) and all(isinstance(name, str) for name in class_names)
    ):
        raise UserError(f"{path} has damaged metadata: class_names is {class_names!r}, not a list of names.")
    if aspect is not None and not run_folder.is_aspect(aspect):
        raise UserError(f"{path} has damaged metadata: aspect is {aspect!r}, not a positive number.")
    names = set(opened.keys())
    expected = dict(_expected(config))
    if not any(name.startswith("discriminator.") for name in names):
        expected = {name: shape for name, shape in expected.items() if name.startswith("generator.")}
    for name in [*expected, *sorted(names)]:
        if name not in names:
            raise UserError(f"{path} lacks {name}, which the network of its config has.")
        if name not in expected:
            raise UserError(f"{path} holds {name}, which the network of its config does not have.")
        part = opened.get_slice(name)
        if tuple(part.get_shape()) != expected[name] or part.get_dtype() not in ("F16", "F32"):
            found = f"{part.get_dtype()} {list(part.get_shape())}"
            raise UserError(f"{path}: {name} is {found}; the network of its config has {list(expected[name])}.")
    tensors = {name: opened.get_tensor(name).astype(np.float32) for name in expected}
    players = [_nested(player, tensors) for player in PLAYERS]
    return Weights(config, step, players[0] or {}, players[1], class_names, aspect)


def _expected(config: ConfigDict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors of a config's networks, without computing anything."""
    generator, discriminator = build_generator(config), build_discriminator(config)
    labels = jnp.zeros(1, jnp.int32) if config.model.num_classes else None
    inputs = (jnp.zeros((1, config.model.z_dim)), jnp.zeros((1, *generator.image_shape)))
    for player, network, x in zip(PLAYERS, (generator, discriminator), inputs, strict=True):
        initialise = partial(network.copy(conv_method="lax").init, labels=labels, train=False)
        for name, leaf in flat(player, jax.eval_shape(initialise, jax.random.key(0), x)):
            yield name, leaf.shape


def flat(player: str, variables: Mapping[str, Tree]) -> Iterator[tuple[str, Any]]:
    """(name, leaf) of both collections; parameters and statistics of a layer have different names."""
    for collection in variables.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(collection):
            yield tensor_name(player, path), leaf


def tensor_name(player: str, path: Sequence[Any]) -> str:
    """How a tensor is named in a file; `path`: the keys that lead to it in its collection."""
    return ".".join([player, *(key.key for key in path)])


def _nested(player: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Tree] | None:
    """Inverse of `flat`."""
    variables: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    found = False
    for name, value in tensors.items():
        owner, *layers, last = name.split(".")
        if owner != player:
            continue
        found = True
        node = variables["batch_stats" if last in _STATISTICS else "params"]
        for layer in layers:
            node = node.setdefault(layer, {})
        node[last] = value
    return variables if found else None


def find(workdir: Path) -> Path | None:
    """The weights file that `workdir` names: itself, the one in it, or that of a pretrained network of this name.

    None if it is a run's folder, or nothing of all that.
    """
    if run_folder.checkpoints(workdir).exists():
        return None
    if workdir.is_file():
        return workdir
    if (workdir / FILE).exists():
        return workdir / FILE
    packaged = _PRETRAINED / workdir / FILE
    return packaged if str(workdir) in pretrained() else None


def pretrained() -> list[str]:
    """Names of the networks that come with the package."""
    return sorted(file.parent.name for file in _PRETRAINED.glob(f"*/{FILE}"))
