"""Values that a config may have, checked before anything expensive happens."""

import math
from typing import Any

from ml_collections import ConfigDict

from dcgan_jax import conv
from dcgan_jax.activations import ACTIVATIONS
from dcgan_jax.errors import UserError
from dcgan_jax.losses import LOSSES

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
# Intervals between things that happen after a step.
STEP_INTERVALS = ("log_every", "sample_every", "checkpoint_every", "eval_every")
# Lowest value allowed, and the bound that a value must stay below.
_RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, math.inf),
    "checkpoint_every": (0, math.inf),
    "data.image_size": (1, math.inf),
    "ema_decay": (0, 1),
    "eval.num_samples": (1, math.inf),
    "eval_every": (0, math.inf),
    "keep_checkpoints": (1, math.inf),
    "keep_every": (0, math.inf),
    "log_every": (0, math.inf),
    "max_rollbacks": (1, math.inf),
    "model.discriminator.dropout": (0, 1),
    "model.norm_epsilon": (0, math.inf),
    "model.norm_momentum": (0, 1),
    "model.num_classes": (0, math.inf),
    "model.width": (1e-3, math.inf),
    "model.z_dim": (1, math.inf),
    "num_steps": (1, math.inf),
    "optimizer.b1": (0, 1),
    "optimizer.b2": (0, 1),
    "optimizer.decay_begin": (0, math.inf),
    "optimizer.decay_steps": (0, math.inf),
    "optimizer.discriminator_learning_rate": (0, math.inf),
    "optimizer.eps": (0, math.inf),
    "optimizer.generator_learning_rate": (0, math.inf),
    "optimizer.l2": (0, math.inf),
    "sample_every": (0, math.inf),
    "seed": (0, 2**32),
    "steps_per_call": (0, math.inf),
}


def check_config(config: ConfigDict) -> None:
    """Raises UserError, naming the field, its value and what is allowed, if a run with this config cannot work."""
    for name, choices in _CHOICES.items():
        value = _field(config, name)
        if value not in choices:
            raise UserError(f"config.{name} is {value!r}; choose from {', '.join(map(repr, choices))}.")
    for name, (low, high) in _RANGES.items():
        value = _field(config, name)
        if not low <= value < high:
            allowed = f"at least {low:g}" + (f" and below {high:g}" if high < math.inf else "")
            raise UserError(f"config.{name} is {value!r}; it must be {allowed}.")
    for player in ("generator", "discriminator"):
        _check_stages(f"config.model.{player}.stages", config.model[player].stages, config.data.image_size)
    for name in STEP_INTERVALS:
        if config.steps_per_call > 1 and config[name] % config.steps_per_call:
            raise UserError(
                f"config.{name} is {config[name]}, not a multiple of config.steps_per_call {config.steps_per_call}: "
                "change one of them, or set --config.steps_per_call=1."
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
        if part not in value:
            raise UserError(f"config.{name} is missing: this config was made by another version of dcgan_jax.")
        value = value[part]
    return value


def _check_stages(name: str, stages: Any, image_size: int) -> None:
    if any(len(stage) != 2 or stage[0] < 1 or stage[1] not in (1, 2) for stage in stages):
        raise UserError(f"{name} is {stages!r}; it must be a list of (maps, stride) with strides 1 or 2.")
    factor = math.prod(stride for _, stride in stages)
    if image_size % factor:
        below = image_size // factor * factor
        nearest = " or ".join(str(size) for size in (below, below + factor) if size)
        raise UserError(
            f"image_size {image_size} does not fit {name} {tuple(stages)}, which change its size {factor}-fold. Sizes "
            f"that fit are the multiples of {factor}: set --config.data.image_size to {nearest}, or change the stages."
        )
