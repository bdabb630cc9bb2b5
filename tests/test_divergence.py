"""Which tensor is named when a run diverges."""

from typing import Any

import jax
import numpy as np
import pytest

from dcgan_jax.runs.divergence import first_nonfinite
from dcgan_jax.train_state import GANState
from tests import tiny


@pytest.fixture(scope="module")
def state() -> GANState:
    config = tiny.config({"model.generator.hidden": (4,), "model.discriminator.hidden": (4,)})
    return jax.eval_shape(lambda: tiny.fresh_state(config))


def metrics(state: GANState, bad: dict[str, list[str]], **scalars: float) -> dict[str, Any]:
    """Metrics in which only the norms of the `bad` parameters, by player, and the given scalars are not 1."""
    found: dict[str, Any] = {name: 1.0 for name in ("d_loss", "g_loss", "d_real", "d_fake")} | scalars
    for key, player in (("d", state.discriminator), ("g", state.generator)):
        names = [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_flatten_with_path(player.params)[0]
        ]
        assert set(bad.get(key, [])) <= set(names)
        found[f"{key}_grad_norms"] = np.array([np.nan if name in bad.get(key, []) else 1.0 for name in names])
    return found


def test_nothing_is_named_when_all_is_finite(state: GANState) -> None:
    assert first_nonfinite(metrics(state, {}), state, "generator_first") is None


@pytest.mark.parametrize(
    ("bad", "order", "named"),
    [
        # Backward: from the logit towards the image, then from the image towards the noise.
        ({"d": ["conv1", "conv2", "conv2_norm/gain"]}, "discriminator_first", "discriminator's conv2_norm/gain"),
        ({"d": ["conv1", "conv2"]}, "discriminator_first", "discriminator's conv2"),
        ({"d": ["conv1", "hidden1/kernel"]}, "discriminator_first", "discriminator's hidden1/kernel"),
        ({"g": ["hidden1/kernel", "projection/kernel", "deconv1"]}, "generator_first", "generator's deconv1"),
        ({"g": ["hidden1/kernel", "projection/kernel"]}, "generator_first", "generator's projection/kernel"),
        ({"g": ["deconv1"], "d": ["conv1"]}, "discriminator_first", "discriminator's conv1"),
        ({"g": ["deconv1"], "d": ["conv1"]}, "generator_first", "generator's deconv1"),
    ],
)
def test_the_gradient_that_is_computed_first_is_named(
    state: GANState, bad: dict[str, list[str]], order: str, named: str
) -> None:
    assert first_nonfinite(metrics(state, bad), state, order) == f"the gradient of the {named} (norm nan)"


def test_a_loss_comes_before_its_gradients(state: GANState) -> None:
    found = metrics(state, {"d": ["logit/kernel"]}, d_loss=float("inf"), g_loss=float("nan"))
    assert first_nonfinite(found, state, "discriminator_first") == "the discriminator's loss (inf)"
    assert first_nonfinite(found, state, "generator_first") == "the generator's loss (nan)"


def test_another_number_is_named_by_itself(state: GANState) -> None:
    assert first_nonfinite(metrics(state, {}, d_real=float("nan")), state, "generator_first") == "d_real"
