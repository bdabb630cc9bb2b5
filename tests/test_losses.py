"""Losses: hand-worked numbers, behaviour at the ends, directions of the gradients."""

from math import log

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.nets.losses import LOSSES

LN2, LN3 = log(2), log(3)
LOGISTIC = ("non_saturating", "minimax")


def test_names() -> None:
    assert set(LOSSES) == {"non_saturating", "minimax", "least_squares", "hinge"}


@pytest.mark.parametrize("name", LOSSES)
def test_undecided_is_the_best_that_equal_logits_reach(name: str) -> None:
    logits = np.linspace(-3, 3, 601, dtype=np.float32)
    best = min(float(LOSSES[name].discriminator(jnp.array([x]), jnp.array([x]))) for x in logits)
    assert best == pytest.approx(LOSSES[name].undecided, rel=1e-5)


# sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4.
@pytest.mark.parametrize(
    ("name", "real", "fake", "expected"),
    [
        # -(ln 1/2 + ln 3/4) / 2 - (ln(1 - 1/2) + ln(1 - 1/4)) / 2
        ("non_saturating", [0, LN3], [0, -LN3], log(8 / 3)),
        ("minimax", [0, LN3], [0, -LN3], log(8 / 3)),
        # Terms are means over their own halves, summed: (ln 2) + (ln 4 + ln 4 + ln 2 + ln 2) / 4.
        ("non_saturating", [0, 0], [LN3, LN3, 0, 0], 2.5 * LN2),
        # ((0-1)^2 + (3-1)^2) / 2 / 2 + (2^2 + (-4)^2) / 2 / 2
        ("least_squares", [0, 3], [2, -4], 6.25),
        # (0 + 1) / 2 + (0 + 2) / 2
        ("hinge", [2, 0], [-2, 1], 1.5),
    ],
)
def test_discriminator(name: str, real: list[float], fake: list[float], expected: float) -> None:
    value = LOSSES[name].discriminator(jnp.array(real, jnp.float32), jnp.array(fake, jnp.float32))
    assert value.shape == ()
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "fake", "expected"),
    [
        ("non_saturating", [0, -LN3], 1.5 * LN2),  # -(ln 1/2 + ln 1/4) / 2
        ("minimax", [0, LN3], -1.5 * LN2),  # (ln(1 - 1/2) + ln(1 - 3/4)) / 2
        ("least_squares", [1, -3], 4.0),  # (0 + 16) / 2 / 2
        ("hinge", [-2, 1], 0.5),
    ],
)
def test_generator(name: str, fake: list[float], expected: float) -> None:
    value = LOSSES[name].generator(jnp.array(fake, jnp.float32))
    assert value.shape == ()
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOGISTIC)
def test_discriminator_at_large_logits(name: str) -> None:
    """-log sigmoid(-1e4) = 1e4 and -log sigmoid(1e4) = 0, with slopes of -1 and 0."""
    value_and_gradients = jax.value_and_grad(LOSSES[name].discriminator, argnums=(0, 1))
    wrong, right = jnp.array([-1e4]), jnp.array([1e4])
    value, gradients = value_and_gradients(wrong, right)
    assert float(value) == 2e4
    np.testing.assert_array_equal(gradients, [[-1], [1]])
    value, gradients = value_and_gradients(right, wrong)
    assert float(value) == 0
    np.testing.assert_array_equal(gradients, [[0], [0]])


def test_generators_at_large_logits() -> None:
    """Where D is sure of a fake, the non-saturating loss keeps its gradient and the minimax loss loses it."""
    found_out, believed = jnp.array([-1e4]), jnp.array([1e4])
    for name, logits, value, gradient in (
        ("non_saturating", found_out, 1e4, -1),
        ("non_saturating", believed, 0, 0),
        ("minimax", found_out, 0, 0),
        ("minimax", believed, -1e4, -1),
    ):
        got, slope = jax.value_and_grad(LOSSES[name].generator)(logits)
        assert (float(got), float(slope[0])) == (value, gradient), name


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_directions(name: str) -> None:
    """D raises real and lowers fake logits, G raises them, each by its share of a mean."""
    logits = jnp.array([0.5, 0.25])
    real, fake = jax.grad(LOSSES[name].discriminator, argnums=(0, 1))(logits, logits)
    generator = jax.grad(LOSSES[name].generator)(logits)
    assert (real < 0).all() and (fake > 0).all() and (generator < 0).all()


def test_slopes_at_zero() -> None:
    """The sigmoid's half, over a batch of two."""
    zeros = jnp.zeros(2)
    real, fake = jax.grad(LOSSES["non_saturating"].discriminator, argnums=(0, 1))(zeros, zeros)
    np.testing.assert_allclose(real, [-0.25, -0.25])
    np.testing.assert_allclose(fake, [0.25, 0.25])
    np.testing.assert_allclose(jax.grad(LOSSES["non_saturating"].generator)(zeros), [-0.25, -0.25])
    np.testing.assert_allclose(jax.grad(LOSSES["minimax"].generator)(zeros), [-0.25, -0.25])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_logits_with_another_shape(name: str) -> None:
    """[batch, 1] and [batch] would broadcast to a matrix and train on nonsense."""
    good, column = jnp.zeros(4), jnp.zeros((4, 1))
    loss, message = LOSSES[name], r"logits must have shape \[batch\], not \(4, 1\)"
    for call in (
        lambda: loss.discriminator(column, good),
        lambda: loss.discriminator(good, column),
        lambda: loss.generator(column),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"not \(\)"):
        loss.generator(jnp.zeros(()))
