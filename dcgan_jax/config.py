"""Values that a config may have, checked before anything expensive happens."""

import json
import math
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import conv
from dcgan_jax.nets.activations import ACTIVATIONS
from dcgan_jax.nets.losses import LOSSES

_CHOICES: dict[str, tuple[Any, ...]] = {
    "conv": conv.METHODS,
    "data.channels": (1, 3),
    "data.placement": ("auto", "device", "host"),
    "loss": tuple(LOSSES),
    "mapper": ("shard_map", "pmap"),
    "model.discriminator.activation": tuple(ACTIVATIONS),
    "model.discriminator.head": ("dense", "pool"),
    "model.generator.activation": tuple(ACTIVATIONS),
    "model.generator.projection_norm": ("unit", "channel"),
    "model.kernel_size": (3, 4, 5),
    "model.norm": ("paper", "all", "none"),
    "model.output": ("tanh", "sigmoid"),
    "model.resampling": ("strided", "pooling"),
    "model.z_distribution": ("uniform", "normal"),
    "on_nonfinite": ("stop", "rollback"),
    "precision": ("float32", "bfloat16"),
    "update_order": ("discriminator_first", "generator_first"),
}
# For the ten parts of an Inception score; and no fewer than the neighbours of precision and recall.
FEWEST_SAMPLES = 10
# Of which config.eval.metrics holds some.
EVAL_METRICS = ("nnd", "features", "inception")
# Intervals between things that happen after a step.
STEP_INTERVALS = ("log_every", "sample_every", "checkpoint_every", "eval_every")
# Steps are counted in int32. With larger layers and images XLA aborts: the sizes of arrays overflow its integers.
_MOST_STEPS, _MOST_FEATURES, _MOST_PIXELS = 2**31, 2**16, 2**13
# Lowest value allowed, and the bound that a value must stay below. A field takes whole numbers if its lowest is one.
_RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, _MOST_STEPS),
    "checkpoint_every": (0, _MOST_STEPS),
    "data.crop_size": (0, math.inf),
    "data.dedup_radius": (0, math.inf),
    "data.image_size": (1, _MOST_PIXELS),
    "data.num_examples": (0, math.inf),
    "ema_decay": (0.0, 1),
    "eval.num_reference": (0, math.inf),
    "eval.num_samples": (FEWEST_SAMPLES, _MOST_STEPS),
    "eval_every": (0, _MOST_STEPS),
    "keep_checkpoints": (1, math.inf),
    "keep_every": (0, _MOST_STEPS),
    "log_every": (0, _MOST_STEPS),
    "max_rollbacks": (1, math.inf),
    "model.discriminator.dropout": (0.0, 1),
    "model.norm_epsilon": (0.0, math.inf),
    "model.norm_momentum": (0.0, 1),
    "model.num_classes": (0, _MOST_FEATURES),
    "model.width": (1e-3, 1e3),
    "model.z_dim": (1, _MOST_FEATURES),
    "num_steps": (1, _MOST_STEPS),
    "optimizer.b1": (0.0, 1),
    "optimizer.b2": (0.0, 1),
    "optimizer.decay_begin": (0, _MOST_STEPS),
    "optimizer.decay_steps": (0, _MOST_STEPS),
    "optimizer.discriminator_learning_rate": (0.0, math.inf),
    "optimizer.eps": (0.0, math.inf),
    "optimizer.generator_learning_rate": (0.0, math.inf),
    "optimizer.l2": (0.0, math.inf),
    "sample_every": (0, _MOST_STEPS),
    "seed": (0, 2**32),
    "steps_per_call": (0, _MOST_STEPS),
}
# Everything else, by type.
_TYPES: dict[str, type] = {
    "data.allow_upsampling": bool,
    "data.cache_dir": str,
    "data.dedup": bool,
    "data.dir": str,
    "data.source": str,
    "data.split": str,
    "eval.source": str,
    "eval.split": str,
    "model.cross_replica_norm": bool,
    "model.norm_affine": bool,
}
_KINDS = {bool: "True or False", str: "text"}


def check_config(config: ConfigDict) -> None:
    """Raises UserError, naming the field, its value and what is allowed, if a run with this config cannot work."""
    for name, choices in _CHOICES.items():
        value = _field(config, name)
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise UserError(f"config.{name} is {value!r}; choose from {', '.join(map(repr, choices))}.")
    for name, kind in _TYPES.items():
        value = _field(config, name)
        if not isinstance(value, kind):
            raise UserError(f"config.{name} is {value!r}; it must be {_KINDS[kind]}.")
    for name, (low, high) in _RANGES.items():
        _check_number(f"config.{name}", _field(config, name), low, high)
    for player in ("generator", "discriminator"):
        _check_hidden(f"config.model.{player}.hidden", _field(config, f"model.{player}.hidden"), config.model.width)
        stages = _field(config, f"model.{player}.stages")
        _check_stages(f"config.model.{player}.stages", stages, config.data.image_size, config.model.width)
    for name in STEP_INTERVALS:
        if config.steps_per_call > 1 and config[name] % config.steps_per_call:
            raise UserError(
                f"config.{name} is {config[name]}, not a multiple of config.steps_per_call {config.steps_per_call}: "
                "change one of them, or set --config.steps_per_call=1."
            )
    metrics = _field(config, "eval.metrics")
    chosen = [name for name in EVAL_METRICS if isinstance(metrics, tuple | list) and name in metrics]
    if not chosen or len(chosen) != len(metrics):
        raise UserError(f"config.eval.metrics is {metrics!r}; choose some of {', '.join(map(repr, EVAL_METRICS))}.")
    if config.checkpoint_every and config.eval_every:
        few, many = sorted((config.checkpoint_every, config.eval_every))
        if many % few:
            raise UserError(
                f"config.eval_every is {config.eval_every} and config.checkpoint_every {config.checkpoint_every}, and "
                "neither is a multiple of the other: the best checkpoint is chosen among those that are evaluated."
            )
    decay = config.optimizer
    if decay.decay_steps and config.num_steps > decay.decay_begin + decay.decay_steps:
        raise UserError(
            f"config.num_steps is {config.num_steps}, but the learning rates are zero from step "
            f"{decay.decay_begin + decay.decay_steps} on: change config.optimizer.decay_begin or decay_steps with it."
        )


def need_convolutions(config: ConfigDict, network: str) -> None:
    """Raises UserError if `network`, 'generator' or 'discriminator', has dense layers only."""
    if not config.model[network].stages:
        raise UserError(f"the {network} has no convolutions (config.model.{network}.stages is empty); this needs some.")


def _field(config: ConfigDict, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            raise UserError(f"config.{name} is missing: this config was made by another version of dcgan_jax.")
        value = value[part]
    return value


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    kinds = (int,) if type(low) is int else (int, float)
    if type(value) not in kinds:
        raise UserError(f"{name} is {value!r}; it must be a {'whole ' if kinds == (int,) else ''}number.")
    if not low <= value < high:
        allowed = f"at least {low:g}" + (f" and below {high:,.10g}" if high < math.inf else "")
        raise UserError(f"{name} is {value!r}; it must be {allowed}.")


def _check_hidden(name: str, widths: Any, scale: float) -> None:
    if not isinstance(widths, list | tuple) or not all(type(width) is int and width >= 1 for width in widths):
        raise UserError(f"{name} is {widths!r}; it must be a list of widths, whole numbers of at least 1.")
    _check_features(name, widths, scale)


def _check_features(name: str, features: Iterable[int], scale: float) -> None:
    if max(features, default=0) >= _MOST_FEATURES / scale:
        raise UserError(
            f"{name}, times config.model.width {scale:g}, has a layer with too many features; they must be below "
            f"{_MOST_FEATURES:,}."
        )


def _check_stages(name: str, stages: Any, image_size: int, scale: float) -> None:
    if not isinstance(stages, list | tuple) or not all(_is_stage(stage) for stage in stages):
        raise UserError(f"{name} is {stages!r}; it must be a list of (maps, stride) with strides 1 or 2.")
    _check_features(name, (maps for maps, _ in stages), scale)
    factor = math.prod(stride for _, stride in stages)
    if image_size % factor:
        below = image_size // factor * factor
        nearest = " or ".join(str(size) for size in (below, below + factor) if size)
        raise UserError(
            f"image_size {image_size} does not fit {name} {tuple(stages)}, which change its size {factor}-fold. Sizes "
            f"that fit are the multiples of {factor}: set --config.data.image_size to {nearest}, or change the stages."
        )


def _is_stage(stage: Any) -> bool:
    if not isinstance(stage, list | tuple) or len(stage) != 2 or any(type(number) is not int for number in stage):
        return False
    return stage[0] >= 1 and stage[1] in (1, 2)


# Fields that may change when a run is resumed: they do not change what is computed, or only how long.
FREE_FIELDS = {
    "num_steps",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "eval_every",
    "eval.num_reference",
    "eval.num_samples",
    "eval.source",
    "eval.split",
    "eval.metrics",
    "keep_checkpoints",
    "keep_every",
    "on_nonfinite",
    "max_rollbacks",
    "data.dir",
    "data.cache_dir",
    "data.placement",
    "mapper",
    "conv",
    "steps_per_call",
}

# Fields that earlier versions did not have, with the value that stands for what they did.
ADDED_FIELDS = {
    "data.dedup": False,
    "data.dedup_radius": 0,
    "eval_every": 0,
    "eval.num_reference": 0,
    "eval.num_samples": 10_000,
    "eval.source": "",
    "eval.split": "",
    "eval.metrics": ("nnd",),
    "keep_every": 0,
    "max_rollbacks": 3,
    "on_nonfinite": "stop",
    "model.resampling": "strided",
    "model.generator.activation": "relu",
    "model.discriminator.activation": "leaky_relu",
}


def from_json(text: str) -> ConfigDict:
    """Inverse of `ConfigDict.to_json`. JSON knows only lists; those of a config (stages, hidden) are tuples."""
    return ConfigDict(with_tuples(json.loads(text)))


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{'data.source': ..., ...}, with lists as tuples."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()})
        else:
            flat[name] = with_tuples(value)
    return flat


def with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: with_tuples(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(with_tuples(inner) for inner in value)
    return value
