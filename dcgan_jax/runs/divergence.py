"""What was not finite first, when training diverges."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dcgan_jax.machine.errors import UserError
from dcgan_jax.train_state import GANState

_PLAYERS = {"d": "discriminator", "g": "generator"}
# Layers of both networks by kind, from the input on; D's hidden layers come after its convolutions.
_KINDS = {"g": ("hidden", "projection", "deconv"), "d": ("conv", "hidden", "logit")}


class Diverged(UserError):
    """A loss or gradient was not finite; the state was not saved. Attribute: `step`, at or before which it was."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def first_nonfinite(metrics: Mapping[str, Any], state: GANState, update_order: str) -> str | None:
    """Names the first tensor of a step that was not finite, in the order in which they are computed; None if all are.

    A loss comes before its gradients, and those of the last layer before those of the first.

    Args:
      metrics: of `train_step`, of one step, as NumPy values.
      state: any state of the run; only its structure counts.
      update_order: config.update_order.
    """
    order = ("d", "g") if update_order == "discriminator_first" else ("g", "d")
    for key in order:
        loss = float(metrics[f"{key}_loss"])
        if not math.isfinite(loss):
            return f"the {_PLAYERS[key]}'s loss ({loss})"
        params = state.discriminator.params if key == "d" else state.generator.params
        norms = dict(zip(_names(params), np.asarray(metrics[f"{key}_grad_norms"]), strict=True))
        for name in sorted(norms, key=lambda name: _depth(key, name), reverse=True):
            if not math.isfinite(norms[name]):
                return f"the gradient of the {_PLAYERS[key]}'s {name} (norm {norms[name]})"
    bad = [name for name, value in metrics.items() if not np.isfinite(value).all()]
    return bad[0] if bad else None


def _names(params: Any) -> list[str]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def _depth(player: str, name: str) -> tuple[int, int, bool]:
    """Grows from the input to the output: kind of layer, its number, normalisation behind its weights."""
    layer = name.split("/")[0]
    kind, number = re.match(r"([a-z]+)(\d*)", layer).groups()  # type: ignore[union-attr]  # every string matches
    return _KINDS[player].index(kind), int(number or 0), "_norm" in layer
