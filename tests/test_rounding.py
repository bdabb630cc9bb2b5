"""Tests of dcgan_jax.benchmark.rounding."""

import jax
import numpy as np
import pytest

from dcgan_jax.benchmark import rounding
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import replicate
from dcgan_jax.train_state import build_gan
from dcgan_jax.train_step import make_mapped_step
from tests import tiny

CONFIG = {"batch_size": 8, "update_order": "generator_first", "optimizer.l2": 0.1}


def test_the_error_is_relative_and_of_all_parameters() -> None:
    exact = {"a": np.array([[3.0, 0.0]]), "b": np.array([0.0, 4.0])}
    rounded = {"a": np.array([[3.0, 0.3]]), "b": np.array([0.4, 4.0])}
    flat = [rounding._flat(tree) for tree in (exact, rounded)]
    assert rounding._error(*flat) == pytest.approx(0.5 / 5.0)


def test_images_are_smooth_and_repeat() -> None:
    config = tiny.config({"data.image_size": 32, **CONFIG})
    images = rounding.smooth_images(config, seed=3).astype(int)
    assert images.shape == (8, 32, 32, 3) and images.std() > 30
    assert np.abs(np.diff(images, axis=1)).max() < 255 / rounding._BLOCK + 2
    np.testing.assert_array_equal(images, rounding.smooth_images(config, seed=3))
    assert (images != rounding.smooth_images(config, seed=4)).any()


def test_gradients_are_those_of_the_step() -> None:
    """Ours, of a plain step: Adam's first moment after it is (1 - b1) times the gradient, with L2 none."""
    config = tiny.config({**CONFIG, "optimizer.l2": 0.0, "update_order": "discriminator_first"})
    mesh = tiny.mesh(1)
    state = tiny.fresh_state(config)
    (recorded,) = rounding._ours(config, jax.tree.map(np.array, state), 1)
    step = make_mapped_step(build_gan(config), mesh, config.mapper)
    batch = rounding._batch(config, mesh, rounding._UNSEEN)
    after, _ = step(replicate(mesh, state), {}, batch)
    moments = rounding._flat(after.discriminator.opt_state[1][0].mu) / (1 - config.optimizer.b1)
    np.testing.assert_allclose(recorded["discriminator"], moments, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rounding_is_seen(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 against itself has no error; bfloat16, with 8 bits, has one: between 2^-12 and a half here."""
    monkeypatch.setattr(rounding, "PRECISIONS", ("float32", precision))
    errors = rounding.measure(tiny.config(CONFIG), steps=2, draws=2, peer=False)
    values = [value for found in errors["dcgan_jax"].values() for value in found]
    assert list(errors) == ["dcgan_jax"] and len(values) == 4
    if precision == "float32":
        assert max(values) == 0.0
    else:
        assert min(values) > 2**-12 and max(values) < 0.5
        assert "discriminator  dcgan_jax" in rounding.table(errors)


def test_pytorch_has_the_same_gradients() -> None:
    """In float32, to within float32's rounding: so their errors are errors of the same thing."""
    pytest.importorskip("torch")
    config = rounding._in(tiny.config({**CONFIG, "model.kernel_size": 5}), "float32")
    state = jax.tree.map(np.array, tiny.fresh_state(config))
    ours, theirs = rounding._ours(config, state, 2), rounding._torch(config, state, 2)
    for a, b in zip(ours, theirs, strict=True):
        for player in rounding.PLAYERS:
            assert np.linalg.norm(a[player]) == pytest.approx(np.linalg.norm(b[player]), rel=1e-5)


def test_networks_that_pytorch_lacks_are_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(rounding, "create_state", None)
    with pytest.raises(UserError, match=r"config\.model\.norm"):
        rounding.measure(tiny.config({"model.norm": "all"}))
