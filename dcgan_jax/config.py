"""The table of all config fields: what each may be, what may change on resume, what older runs stand for."""

import difflib
import json
import math
import os
import runpy
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import augment, conv
from dcgan_jax.nets.activations import ACTIVATIONS
from dcgan_jax.nets.losses import LOSSES, SMOOTHED

# Types of fields that hold lists: widths of dense layers, and (maps, stride) of convolutions.
Widths = tuple[int, ...]
Stages = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Field:
    """What is known of a config field.

    Attributes:
      type: of its values: int, float (which takes whole numbers too), bool, str, Widths, Stages, or tuple (of choices).
      low, below: the lowest number allowed, and the bound that a number must stay below.
      most: the highest number allowed.
      fewest: how many values a tuple of choices must hold at least.
      choices: the values allowed; of a tuple, those that it may hold. (): see the other attributes.
      free: whether it may change when a run is resumed: it does not change what is computed, or only from then on.
      interval: whether it counts the steps between things that happen after a step.
      before: the value that stands for what versions without the field did; None: all versions have it.
    """

    type: Any
    low: float = 0
    below: float = math.inf
    most: float = math.inf
    fewest: int = 1
    choices: tuple[Any, ...] = ()
    free: bool = False
    interval: bool = False
    before: Any = None

    def check(self, name: str, value: Any) -> None:
        """Raises UserError, with the value and what is allowed, if the field `name` cannot have this value."""
        if self.type is tuple:
            known = [choice for choice in self.choices if isinstance(value, tuple | list) and choice in value]
            if not isinstance(value, tuple | list) or len(known) != len(value) or len(known) < self.fewest:
                raise UserError(f"config.{name} is {value!r}; choose some of {', '.join(map(repr, self.choices))}.")
        elif self.choices:
            if not any(value == choice and type(value) is type(choice) for choice in self.choices):
                raise UserError(f"config.{name} is {value!r}; choose from {', '.join(map(repr, self.choices))}.")
        elif self.type in (int, float):
            self._check_number(name, value)
        elif self.type == Widths:
            if not isinstance(value, list | tuple) or not all(type(width) is int and width >= 1 for width in value):
                raise UserError(
                    f"config.{name} is {value!r}; it must be a list of widths, whole numbers of at least 1."
                )
        elif self.type == Stages:
            if not isinstance(value, list | tuple) or not all(_is_stage(stage) for stage in value):
                raise UserError(f"config.{name} is {value!r}; it must be a list of (maps, stride) with strides 1 or 2.")
        elif not isinstance(value, self.type):
            words = "True or False" if self.type is bool else "text"
            raise UserError(f"config.{name} is {value!r}; it must be {words}.")

    def _check_number(self, name: str, value: Any) -> None:
        if type(value) not in (int, self.type):
            raise UserError(f"config.{name} is {value!r}; it must be a {'whole ' if self.type is int else ''}number.")
        if not (self.low <= value < self.below and value <= self.most):
            allowed = f"at least {self.low:g}" + (f" and below {self.below:,.10g}" if self.below < math.inf else "")
            allowed += f" and at most {self.most:g}" if self.most < math.inf else ""
            raise UserError(f"config.{name} is {value!r}; it must be {allowed}.")


def _is_stage(stage: Any) -> bool:
    if not isinstance(stage, list | tuple) or len(stage) != 2 or any(type(number) is not int for number in stage):
        return False
    return stage[0] >= 1 and stage[1] in (1, 2)


# Steps are counted in int32. With larger layers and images XLA aborts: the sizes of arrays overflow its integers.
_MOST_STEPS, _MOST_FEATURES, _MOST_PIXELS = 2**31, 2**16, 2**13
# For the ten parts of an Inception score; and no fewer than the neighbours of precision and recall.
FEWEST_SAMPLES = 10

# Every field of a config, in the order of configs/default.py, which explains them.
FIELDS: dict[str, Field] = {
    "seed": Field(int, 0, 2**32),
    "num_steps": Field(int, 1, _MOST_STEPS, free=True),
    "batch_size": Field(int, 1, _MOST_STEPS),
    "log_every": Field(int, 0, _MOST_STEPS, free=True, interval=True),
    "sample_every": Field(int, 0, _MOST_STEPS, free=True, interval=True),
    "checkpoint_every": Field(int, 0, _MOST_STEPS, free=True, interval=True),
    "eval_every": Field(int, 0, _MOST_STEPS, free=True, interval=True, before=0),
    "keep_checkpoints": Field(int, 1, free=True),
    "keep_every": Field(int, 0, _MOST_STEPS, free=True, before=0),
    "on_nonfinite": Field(str, choices=("stop", "rollback"), free=True, before="stop"),
    "on_collapse": Field(str, choices=("warn", "stop", "rollback"), free=True, before="warn"),
    "max_rollbacks": Field(int, 1, free=True, before=3),
    # Data
    "data.source": Field(str, free=True),  # data.json tells whether the images are the same
    "data.split": Field(str),
    "data.dir": Field(str, free=True),
    "data.cache_dir": Field(str, free=True),
    "data.image_size": Field(int, 1, _MOST_PIXELS),
    "data.image_width": Field(int, 0, _MOST_PIXELS, before=0),
    "data.channels": Field(int, choices=(1, 3)),
    "data.fit": Field(str, choices=("crop", "squeeze", "pad"), before="crop"),
    "data.crop_size": Field(int, 0),
    "data.allow_upsampling": Field(bool),
    "data.small_images": Field(str, choices=("refuse", "skip"), free=True, before="refuse"),
    "data.num_examples": Field(int, 0),
    "data.held_out": Field(int, 0, before=0),
    "data.dedup": Field(bool, before=False),
    "data.dedup_radius": Field(int, 0, before=0),
    "data.duplicates": Field(str, free=True, before=""),
    "data.flip": Field(str, choices=("none", "x"), before="none"),
    "data.placement": Field(str, choices=("auto", "device", "host"), free=True),
    # Networks
    "model.z_dim": Field(int, 1, _MOST_FEATURES),
    "model.z_distribution": Field(str, choices=("uniform", "normal")),
    "model.kernel_size": Field(int, choices=(3, 4, 5)),
    "model.output": Field(str, choices=("tanh", "sigmoid")),
    "model.num_classes": Field(int, 0, _MOST_FEATURES),
    "model.resampling": Field(str, choices=("strided", "pooling"), before="strided"),
    "model.width": Field(float, 0, 1e3),
    "model.norm": Field(str, choices=("paper", "all", "none")),
    "model.norm_epsilon": Field(float, 0),
    "model.norm_affine": Field(bool),
    "model.norm_momentum": Field(float, 0, 1),
    "model.cross_replica_norm": Field(bool),
    "model.generator.stages": Field(Stages),
    "model.generator.hidden": Field(Widths),
    "model.generator.activation": Field(str, choices=tuple(ACTIVATIONS), before="relu"),
    "model.generator.projection_norm": Field(str, choices=("unit", "channel")),
    "model.discriminator.stages": Field(Stages),
    "model.discriminator.hidden": Field(Widths),
    "model.discriminator.activation": Field(str, choices=tuple(ACTIVATIONS), before="leaky_relu"),
    "model.discriminator.head": Field(str, choices=("dense", "pool")),
    "model.discriminator.dropout": Field(float, 0, 1),
    "model.discriminator.spectral_norm": Field(bool, before=False),
    "model.discriminator.freeze": Field(int, 0, free=True, before=0),
    # Training step
    "loss": Field(str, choices=tuple(LOSSES)),
    "update_order": Field(str, choices=("discriminator_first", "generator_first")),
    "optimizer.generator_learning_rate": Field(float, 0),
    "optimizer.discriminator_learning_rate": Field(float, 0),
    "optimizer.b1": Field(float, 0, 1),
    "optimizer.b2": Field(float, 0, 1),
    "optimizer.eps": Field(float, 0),
    "optimizer.l2": Field(float, 0),
    "optimizer.decay_begin": Field(int, 0, _MOST_STEPS, free=True),
    "optimizer.decay_steps": Field(int, 0, _MOST_STEPS, free=True),
    "optimizer.decay_fraction": Field(float, 0, most=1, free=True, before=0.0),
    "ema_decay": Field(float, 0, 1),
    "augment.operations": Field(tuple, choices=tuple(augment.OPERATIONS), fewest=0, before=()),
    "augment.probability": Field(float, 0, most=1, before=1.0),
    "augment.target": Field(float, 0, 1, before=0.0),
    "augment.ramp_images": Field(int, 1, _MOST_STEPS, before=500_000),
    "regularizer.r1": Field(float, 0, before=0.0),
    "regularizer.r1_every": Field(int, 1, _MOST_STEPS, before=16),
    "regularizer.label_smoothing": Field(float, 0, 1, before=0.0),
    "regularizer.instance_noise": Field(float, 0, before=0.0),
    # Evaluation during training
    "eval.num_samples": Field(int, FEWEST_SAMPLES, _MOST_STEPS, free=True, before=10_000),
    "eval.num_reference": Field(int, 0, free=True, before=0),
    "eval.metrics": Field(tuple, choices=("nnd", "features", "inception"), free=True, before=("nnd",)),
    "eval.split": Field(str, free=True, before=""),
    "eval.source": Field(str, free=True, before=""),
    # Machine
    "mapper": Field(str, choices=("shard_map", "pmap"), free=True),
    "steps_per_call": Field(int, 0, _MOST_STEPS, free=True),
    "conv": Field(str, choices=conv.METHODS, free=True),
    "precision": Field(str, choices=("float32", "bfloat16", "auto")),
    "matmul_precision": Field(str, choices=("default", "high", "highest"), free=True, before="default"),
    "reduce_precision": Field(str, choices=("float32", "bfloat16"), free=True, before="float32"),
}
STEP_INTERVALS = tuple(name for name, field in FIELDS.items() if field.interval)


def load_config(file: str | Path, changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """The config of a file such as configs/lsun.py, locked, as `--config=FILE --config.NAME=VALUE ...` gives it.

    Args:
      file: Python code with a function get_config().
      changes: values that replace the file's, by dotted name: {"data.image_size": 32}.

    Raises:
      UserError: the file cannot be used, there is no such field, or a run with this config cannot work.
    """
    config, values = run_file(file), {name: with_tuples(value) for name, value in (changes or {}).items()}
    check_names(values, FIELDS)
    _check_fields(config)
    for name, value in values.items():
        FIELDS[name].check(name, value)
    config.update_from_flattened_dict(values)
    check_config(config)
    return config.lock()


def run_file(file: str | Path) -> ConfigDict:
    """What a config file's get_config() returns, with FILE:ARGUMENT what get_config(ARGUMENT) does.

    Raises:
      UserError: there is no such file, or it gives no config.
    """
    file, colon, argument = str(file).partition(".py:")
    file += ".py" if colon else ""
    if not os.path.isfile(file):
        raise UserError(f"there is no config file {file}; the configs are in configs/.")
    # Config files import configs/default.py, wherever the command is given: that of the package's checkout, or, where
    # the package was copied out of it, that of the file's.
    for root in (Path(__file__).parents[1], Path(file).absolute().parent.parent):
        if (root / "configs" / "default.py").is_file() and str(root) not in sys.path:
            sys.path.append(str(root))
    try:
        module = runpy.run_path(file)
        arguments = (argument,) if colon else ()
        config = module["get_config"](*arguments) if "get_config" in module else None
    except UserError:
        raise
    except Exception as error:  # whatever the user's code raises
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        where = f"line {lines[-1]}: " if lines else ""
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the config file {file} cannot be used: {where}{reason}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file} is not a config file: it needs a function get_config() that returns a ConfigDict.")
    return config


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError, with the nearest of the `known` fields, for each of the names that is not among them."""
    known = list(known)
    lines = [f"there is no field config.{name}; {_hint(name, known)}." for name in names if name not in known]
    if lines:
        raise UserError("\n".join(lines))


# What other programs call some of the fields.
_OTHER_NAMES = {
    "lr": "optimizer.generator_learning_rate and config.optimizer.discriminator_learning_rate",
    "learning_rate": "optimizer.generator_learning_rate and config.optimizer.discriminator_learning_rate",
    "optimizer": "optimizer.b1, with b2 and eps: Adam's settings; there is no other optimizer",
    "epochs": "num_steps; an epoch is as many steps as there are images over config.batch_size",
    "dataset": "data.source",
    "data_dir": "data.source",
}


def _hint(name: str, known: list[str]) -> str:
    if meant := _OTHER_NAMES.get(name.split(".")[-1]):
        return f"it may be config.{meant}"
    return f"the nearest is config.{max(known, key=partial(_similarity, name))}"


def _similarity(name: str, field: str) -> float:
    whole, last = (
        difflib.SequenceMatcher(None, a, b).ratio()
        for a, b in ((name, field), (name.split(".")[-1], field.split(".")[-1]))
    )
    return whole + last


def check_config(config: ConfigDict) -> None:
    """Raises UserError, naming the field, its value and what is allowed, if a run with this config cannot work."""
    _check_fields(config)
    for name, value in flatten(config).items():
        FIELDS[name].check(name, value)
    if 0 < config.model.width < 1e-3:
        raise UserError(f"config.model.width is {config.model.width:g}; it must be at least 0.001, or 0.")
    for player in ("generator", "discriminator"):
        hidden, stages = config.model[player].hidden, config.model[player].stages
        width = config.model.width or 1.0  # the most that it is decided to be
        _check_features(f"config.model.{player}.hidden", hidden, width)
        _check_features(f"config.model.{player}.stages", (maps for maps, _ in stages), width)
        for side in ("image_size", *(["image_width"] if config.data.image_width else [])):
            _check_side(f"config.model.{player}.stages", stages, side, config.data[side])
    frozen, convolutions = config.model.discriminator.freeze, len(config.model.discriminator.stages)
    if frozen > convolutions:
        raise UserError(
            f"config.model.discriminator.freeze is {frozen}, but the discriminator has {convolutions} convolutions: "
            f"give {convolutions} or less."
        )
    if config.batch_size == 1 and config.model.norm != "none":
        raise UserError(
            "config.batch_size is 1, but batch normalisation makes all batches of one image the same: give 2 or more, "
            "or --config.model.norm=none."
        )
    for name in STEP_INTERVALS:
        if config.steps_per_call > 1 and config[name] % config.steps_per_call:
            raise UserError(
                f"config.{name} is {config[name]}, not a multiple of config.steps_per_call {config.steps_per_call}: "
                "change one of them, or set --config.steps_per_call=1."
            )
    if config.checkpoint_every and config.eval_every:
        few, many = sorted((config.checkpoint_every, config.eval_every))
        if many % few:
            raise UserError(
                f"config.eval_every is {config.eval_every} and config.checkpoint_every {config.checkpoint_every}, and "
                "neither is a multiple of the other: the best checkpoint is chosen among those that are evaluated."
            )
    if config.augment.target and not config.augment.operations:
        raise UserError(
            f"config.augment.target is {config.augment.target}, but there is nothing to adjust: give "
            "config.augment.operations as well, for example ('color', 'translation', 'cutout')."
        )
    if config.regularizer.label_smoothing and config.loss not in SMOOTHED:
        raise UserError(
            f"config.regularizer.label_smoothing is {config.regularizer.label_smoothing}, but the {config.loss} loss "
            f"has no labels: set it to 0, or choose a --config.loss from {', '.join(SMOOTHED)}."
        )
    decay = config.optimizer
    if decay.decay_fraction and decay.decay_steps:
        raise UserError(
            f"config.optimizer.decay_fraction {decay.decay_fraction:g} and decay_steps {decay.decay_steps} both say "
            "when the learning rates fall: give one of them, and 0 for the other."
        )
    if decay.decay_steps and config.num_steps > decay.decay_begin + decay.decay_steps:
        raise UserError(
            f"config.num_steps is {config.num_steps}, but the learning rates are zero from step "
            f"{decay.decay_begin + decay.decay_steps} on: give config.optimizer.decay_begin or decay_steps another "
            "value as well; a run that is resumed may change them."
        )


def need_decided(config: ConfigDict) -> None:
    """Raises UserError for a precision of 'auto' and a width of 0, which only the start of a run decides."""
    for name, value, instead in (
        ("precision", config.precision, "float32 or bfloat16"),
        ("model.width", config.model.width, "a number, such as 0.25 or 1"),
    ):
        if value in ("auto", 0):
            raise UserError(
                f"config.{name} is {value!r}, which is decided when a run starts and then kept: give {instead}."
            )


def need_convolutions(config: ConfigDict, network: str) -> None:
    """Raises UserError if `network`, 'generator' or 'discriminator', has dense layers only."""
    if not config.model[network].stages:
        raise UserError(f"the {network} has no convolutions (config.model.{network}.stages is empty); this needs some.")


def _check_fields(config: ConfigDict) -> None:
    """Raises UserError unless the config has the fields of the table, and no others."""
    if not isinstance(config, ConfigDict):
        raise UserError(f"the config is {config!r}; it must be a ConfigDict, see configs/default.py.")
    names = flatten(config).keys()
    for name in FIELDS:
        if name not in names:
            raise UserError(f"config.{name} is missing: this config was made by another version of dcgan_jax.")
    check_names(names, FIELDS)


def _check_features(name: str, features: Iterable[int], scale: float) -> None:
    if max(features, default=0) >= _MOST_FEATURES / scale:
        raise UserError(
            f"{name}, times config.model.width {scale:g}, has a layer with too many features; they must be below "
            f"{_MOST_FEATURES:,}."
        )


def _check_side(name: str, stages: Stages, side: str, pixels: int) -> None:
    """`side`: image_size or image_width."""
    factor = math.prod(stride for _, stride in stages)
    if pixels % factor:
        below = pixels // factor * factor
        nearest = " or ".join(str(size) for size in (below, below + factor) if size)
        raise UserError(
            f"{side} {pixels} does not fit {name} {tuple(stages)}, which change its size {factor}-fold. Sizes "
            f"that fit are the multiples of {factor}: set --config.data.{side} to {nearest}, or change the stages."
        )


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
