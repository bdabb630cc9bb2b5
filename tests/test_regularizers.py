"""R1, label smoothing, instance noise, spectral normalisation, decay by fraction: by hand, and against differences."""

import itertools
import signal
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax import train_step, training
from dcgan_jax.config import check_config
from dcgan_jax.machine import mesh, rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import frozen_statistics, layers, models, pixels, spectral_norm
from dcgan_jax.nets.losses import LOSSES, SMOOTHED, smoothed
from dcgan_jax.runs import run_folder
from dcgan_jax.runs.alarms import Alarms
from dcgan_jax.runs.rollbacks import rollbacks
from dcgan_jax.train_state import AdaptiveGANState, GANState, build_gan, make_optimizer
from tests import processes, tiny
from tests.test_collapse import draw_alike

D_FIRST = {"update_order": "discriminator_first"}


# --- R1 ---------------------------------------------------------------------------------------------------------------


def penalty_of(config: Any, params: Any, statistics: Any, real: jax.Array) -> float:
    """mean(|dD/dx|^2) / 2 in float64, dD/dx by central differences of the sum of all logits."""
    network = models.build_discriminator(config)

    @jax.jit
    def total(images: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": statistics}
        (logits, _), _ = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits.sum()

    slopes = np.asarray(jax.grad(total)(real), np.float64)
    for index in np.random.default_rng(0).integers(0, real.shape, (10, 4)):  # the slopes themselves
        step = np.zeros(real.shape, np.float32)
        step[tuple(index)] = 2e-2
        difference = (float(total(real + step)) - float(total(real - step))) / 4e-2
        assert slopes[tuple(index)] == pytest.approx(difference, rel=2e-2, abs=2e-3)
    return float(0.5 * np.square(slopes).sum((1, 2, 3)).mean())


@pytest.mark.parametrize(("norm", "scale"), [("none", 15), ("paper", 5)])  # slopes neither tiny nor saturated
def test_r1_against_finite_differences(norm: str, scale: int) -> None:
    """Along a random direction of the parameters; tanh has no kinks that a difference would step over."""
    changes = {"model.norm": norm, "model.norm_epsilon": 1e-2, "model.discriminator.activation": "tanh"}
    config = tiny.config({**changes, "regularizer.r1": 3.0, "regularizer.r1_every": 2})
    gan, player = build_gan(config), tiny.fresh_state(config).discriminator
    player = player.replace(params=jax.tree.map(lambda leaf: scale * leaf, player.params))
    real = pixels.to_network(jnp.asarray(tiny.images(8)), "tanh")
    found = r1_of(gan, player, real, 4)
    key = jax.random.key(7)
    direction = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape) * jnp.abs(leaf).mean(), player.params)
    size = 1e-2

    def at(factor: float) -> float:
        params = jax.tree.map(lambda leaf, way: leaf + factor * way, player.params, direction)
        return penalty_of(config, params, player.batch_stats, real)

    expected = 3.0 * 2 * (at(size) - at(-size)) / (2 * size)
    along = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(direction), strict=True))
    assert abs(expected) > 0.01
    assert along == pytest.approx(expected, rel=2e-2)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(r1_of(gan, player, real, 5)))  # between


def r1_of(gan: Any, player: Any, real: jax.Array, step: int) -> Any:
    """`r1_gradients` on one device."""
    spec = jax.sharding.PartitionSpec()
    run = jax.shard_map(
        lambda p, x: train_step.r1_gradients(gan, p, x, None, None, jnp.int32(step)),
        mesh=tiny.mesh(1),
        in_specs=(spec, spec),
        out_specs=spec,
        check_vma=False,
    )
    return jax.jit(run)(player, real)


@pytest.mark.parametrize("method", ["lax", "winograd", "im2col"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_r1_is_the_same_in_every_formulation(method: str, precision: str) -> None:
    changes = {"regularizer.r1": 10.0, "model.kernel_size": 5, "data.image_size": 16}
    found = {}
    for name in ("lax", method):
        config = tiny.config({**changes, "conv": name, "precision": precision if name == method else "float32"})
        player = tiny.fresh_state(config).discriminator
        real = pixels.to_network(jnp.asarray(tiny.images(8, size=16)), "tanh")
        found[name] = r1_of(build_gan(config), player, real, 0)
    error = norm(jax.tree.map(jnp.subtract, found[method], found["lax"])) / norm(found["lax"])
    assert error < {"float32": 1e-4, "bfloat16": 0.05}[precision]


def norm(tree: Any) -> float:
    return float(jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree))))


def test_the_step_adds_the_penalty_to_the_gradient_of_d() -> None:
    plain, penalised = tiny.config(D_FIRST), tiny.config({**D_FIRST, "regularizer.r1": 10.0, "regularizer.r1_every": 2})
    states, history = tiny.run_steps(penalised)
    plain_states, plain_history = tiny.run_steps(plain)
    assert history[0]["d_loss"] == plain_history[0]["d_loss"]  # the loss is without it
    # Adam's first moment after one step is half of the gradient, as beta1 is 0.5: what differs is the penalty's.
    real = pixels.to_network(jnp.asarray(tiny.images(plain.batch_size, seed=0)), "tanh")
    expected = r1_of(build_gan(penalised), states[0].discriminator, real, 0)
    moments, plain_moments = (one.discriminator.opt_state[1][0].mu for one in (states[1], plain_states[1]))
    difference = jax.tree.map(lambda a, b: 2 * (a - b), moments, plain_moments)
    assert norm(expected) > 1e-3
    assert norm(jax.tree.map(jnp.subtract, difference, expected)) < 1e-3 * norm(expected)
    # The second step, between two penalties, is a plain one.
    step = train_step.make_mapped_step(build_gan(plain), tiny.mesh(1), plain.mapper)
    batch = tiny.shard_batch(plain, tiny.mesh(1), seed=1)
    after, _ = step(mesh.replicate(tiny.mesh(1), states[1]), {}, batch)
    assert tiny.largest_difference(after, states[2]) < 1e-6


# --- Label smoothing --------------------------------------------------------------------------------------------------


def test_smoothed_losses_by_hand() -> None:
    """Target 3/4. sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2."""
    real, fake = jnp.array([log(3)]), jnp.array([0.0])
    cross_entropy = -0.75 * log(0.75) - 0.25 * log(0.25) + log(2)
    for name in ("non_saturating", "minimax"):
        assert float(smoothed(name, 0.25).discriminator(real, fake)) == pytest.approx(cross_entropy, rel=1e-6)
    squares = smoothed("least_squares", 0.25).discriminator(jnp.array([2.0]), jnp.array([1.0]))
    assert float(squares) == pytest.approx((1.25**2 + 1) / 2, rel=1e-6)
    for name in SMOOTHED:
        assert smoothed(name, 0.25).generator is LOSSES[name].generator
        assert smoothed(name, 0.0) is LOSSES[name]


@pytest.mark.parametrize("name", SMOOTHED)
def test_gradients_of_smoothed_losses_against_differences(name: str) -> None:
    """Of each real and each generated logit, the loss itself in float64 by NumPy."""
    real, fake, amount = np.array([-2.0, 0.3, 4.0]), np.array([1.5, -0.7, -3.0]), 0.1

    def by_hand(values: np.ndarray) -> float:
        (r, f), target = values.reshape(2, 3), 1 - amount
        if name == "least_squares":
            return float((np.square(r - target).mean() + np.square(f).mean()) / 2)
        of_real = target * np.log1p(np.exp(-r)) + amount * np.log1p(np.exp(r))
        return float(of_real.mean() + np.log1p(np.exp(f)).mean())

    both, size = np.concatenate([real, fake]), 1e-5
    steps = np.eye(6) * size
    expected = [(by_hand(both + step) - by_hand(both - step)) / (2 * size) for step in steps]
    found = jax.grad(smoothed(name, amount).discriminator, (0, 1))(jnp.asarray(real, jnp.float32), jnp.float32(fake))
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


@pytest.mark.parametrize("name", SMOOTHED)
def test_bounds_of_smoothed_losses(name: str) -> None:
    """Against a search: the lowest loss of any logits, the lowest of equal ones, and the logit half way."""
    loss = smoothed(name, 0.1)
    logits = np.linspace(-20, 20, 4001, dtype=np.float32)

    def lowest(values: list[tuple[float, float]]) -> float:
        return min(float(loss.discriminator(jnp.array([r]), jnp.array([f]))) for r, f in values)

    assert loss.lowest == pytest.approx(
        lowest([(r, -20.0 if name != "least_squares" else 0.0) for r in logits]), abs=1e-4
    )
    assert loss.undecided == pytest.approx(lowest([(x, x) for x in logits[1500:2501]]), rel=1e-4)
    assert loss.boundary == {"least_squares": 0.45}.get(name, 0.0)


def test_a_smoothed_discriminator_can_win() -> None:
    """The alarm goes by the way from the lowest loss to that of an undecided one."""
    loss = smoothed("non_saturating", 0.1)
    near, far = Alarms(loss), Alarms(loss)
    part = loss.undecided - loss.lowest
    for step in range(10):
        near_on, _ = near.watch({"step": step, "d_loss": loss.lowest + 0.04 * part})
        far_on, _ = far.watch({"step": step, "d_loss": loss.lowest + 0.06 * part})
    assert near_on == {"alarm_d_wins": 1.0} and far_on == {}


def test_the_step_smooths() -> None:
    config = tiny.config({**D_FIRST, "regularizer.label_smoothing": 0.25})
    plain = tiny.run_steps(tiny.config(D_FIRST))[1][0]
    smooth = tiny.run_steps(config)[1][0]
    assert smooth["d_real"] == plain["d_real"]
    # softplus(x) - softplus(-x) = x: the loss is higher by a quarter of the mean logit of real images.
    state = tiny.run_steps(config)[0][0]
    real = pixels.to_network(jnp.asarray(tiny.images(8)), "tanh")
    (logits, _), _ = models.build_discriminator(config).apply(
        state.discriminator.variables, real, train=True, mutable=["batch_stats"]
    )
    assert smooth["d_loss"] - plain["d_loss"] == pytest.approx(0.25 * float(logits.mean()), abs=1e-6)


def test_hinge_has_no_labels() -> None:
    with pytest.raises(UserError, match="the hinge loss has no labels"):
        check_config(tiny.config({"loss": "hinge", "regularizer.label_smoothing": 0.1}))


# --- Instance noise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["tanh", "sigmoid"])
def test_instance_noise_is_added_and_fades(output: str) -> None:
    """Four steps: 1, 3/4, 1/2, 1/4 of it; of pixels in [0, 1] half as much."""
    config = tiny.config({"regularizer.instance_noise": 0.8, "model.output": output})
    gan = build_gan(config)
    images = jnp.full((8, 8, 8, 3), 0.25)
    spec = jax.sharding.PartitionSpec()

    def shown(step: int) -> np.ndarray:
        draw = train_step.Draw(config.seed, jnp.int32(step), 8, 0, 1.0, train_step.noise_at(gan, jnp.int32(step)))
        mapped = jax.shard_map(
            lambda x: train_step.shown(gan, draw, x, "real"),
            mesh=tiny.mesh(1),
            in_specs=spec,
            out_specs=spec,
            check_vma=False,
        )
        return np.asarray(mapped(images))

    for step, expected in enumerate((0.8, 0.6, 0.4, 0.2, 0.0)):
        noise = shown(step) - 0.25
        scale = expected * (0.5 if output == "sigmoid" else 1.0)
        key = jax.random.fold_in(rng.stream(config.seed, "instance_noise_real", step), 3)
        np.testing.assert_allclose(noise[3], scale * np.asarray(jax.random.normal(key, (8, 8, 3))), atol=1e-6)
    assert (shown(9) == 0.25).all()  # a run that goes on


@pytest.mark.parametrize("output", ["tanh", "sigmoid"])
def test_gradients_pass_through_the_noise_unchanged(output: str) -> None:
    """Of sum(seen^3) / 3 by the images, seen^2, against differences of single pixels."""
    gan = build_gan(tiny.config({"regularizer.instance_noise": 0.8, "model.output": output}))
    draw = train_step.Draw(0, jnp.int32(0), 2, 0, 1.0, train_step.noise_at(gan, jnp.int32(0)))
    spec = jax.sharding.PartitionSpec()

    def look(images: jax.Array) -> jax.Array:
        return train_step.shown(gan, draw, images, "fake_g")

    seen = jax.shard_map(look, mesh=tiny.mesh(1), in_specs=spec, out_specs=spec, check_vma=False)
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    gradient = np.asarray(jax.grad(lambda x: (seen(x) ** 3).sum() / 3)(images))
    np.testing.assert_allclose(gradient, np.square(seen(images)), rtol=1e-5, atol=1e-6)
    for index in ((0, 1, 2, 0), (1, 7, 7, 2)):
        step = jnp.zeros_like(images).at[index].set(1e-2)
        cubes = [np.asarray(seen(images + sign * step), np.float64)[index] ** 3 / 3 for sign in (1, -1)]
        assert gradient[index] == pytest.approx((cubes[0] - cubes[1]) / 2e-2, rel=1e-2, abs=1e-3)


def test_both_players_see_noise() -> None:
    noisy = tiny.run_steps(tiny.config({**D_FIRST, "regularizer.instance_noise": 0.5}))[1][0]
    plain = tiny.run_steps(tiny.config(D_FIRST))[1][0]
    assert noisy["d_real"] != plain["d_real"] and noisy["d_fake"] != plain["d_fake"]
    first = {"regularizer.instance_noise": 0.5, "update_order": "generator_first"}
    assert tiny.run_steps(tiny.config(first))[1][0]["g_loss"] != tiny.run_steps(tiny.config())[1][0]["g_loss"]


# --- Spectral normalisation -------------------------------------------------------------------------------------------


def test_the_norm_is_the_largest_singular_value() -> None:
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
    expected = np.linalg.svd(np.asarray(kernel).reshape(-1, 6), compute_uv=False)[0]
    u = jax.random.normal(jax.random.key(1), (6,))
    u, seen = u / jnp.linalg.norm(u), []
    for _ in range(60):
        value, u = spectral_norm.norm_of(kernel, u)
        seen.append(float(value))
    assert seen[-1] == pytest.approx(expected, rel=1e-5)
    assert all(a <= b + 1e-5 for a, b in pairwise(seen)) and seen[0] < 0.99 * expected


def test_the_gradient_of_the_norm_is_that_of_the_singular_value() -> None:
    """d sigma / dW = u v^T [Miyato et al. 2018, section 2.1]."""
    kernel = jax.random.normal(jax.random.key(0), (5, 4))
    left, _, right = np.linalg.svd(np.asarray(kernel))
    gradient = jax.grad(lambda k: spectral_norm.norm_of(k, jnp.asarray(right[0]))[0])(kernel)
    np.testing.assert_allclose(gradient, np.outer(left[:, 0], right[0]), atol=1e-5)


SPECTRAL = {"model.discriminator.spectral_norm": True, "model.norm": "none"}


def test_every_kernel_of_d_has_norm_1_and_no_other() -> None:
    config = tiny.config({**SPECTRAL, "model.discriminator.hidden": (5,)})
    (_, _, state), _ = tiny.run_steps(config)
    assert "batch_stats" not in state.generator.variables or not jax.tree.leaves(state.generator.batch_stats)
    network, variables = models.build_discriminator(config), state.discriminator.variables
    for _ in range(100):  # as in training, until the vectors have converged
        _, updates = network.apply(variables, jnp.zeros((2, 8, 8, 3)), train=True, mutable=["batch_stats"])
        variables = {**variables, **updates}
    found = {layer.name: layer.kernel for layer in layers.discriminator_layers(network, variables)}
    assert set(found) == {"conv1", "conv2", "hidden1", "logit"}
    for name, kernel in found.items():
        assert np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0] == pytest.approx(1, rel=1e-4), (
            name
        )


def test_one_iteration_a_step_and_none_in_evaluation() -> None:
    config = tiny.config(SPECTRAL)
    (start, one, _), _ = tiny.run_steps(config)
    kernel, u = start.discriminator.params["conv1"], start.discriminator.batch_stats["conv1_spectral_norm"]["u"]
    assert float(jnp.linalg.norm(u)) == pytest.approx(1, rel=1e-5)
    _, expected = spectral_norm.norm_of(jnp.asarray(kernel), jnp.asarray(u))
    np.testing.assert_allclose(one.discriminator.batch_stats["conv1_spectral_norm"]["u"], expected, atol=1e-5)
    network = models.build_discriminator(config)
    logits, _ = network.apply(start.discriminator.variables, jnp.ones((2, 8, 8, 3)), train=False)
    plain, _ = layers.apply(
        layers.discriminator_layers(network, start.discriminator.variables), np.ones((2, 8, 8, 3), np.float32)
    )
    np.testing.assert_allclose(plain[:, 0], logits, atol=1e-5)


def test_frozen_statistics_keep_the_vectors() -> None:
    config = tiny.config({"model.discriminator.spectral_norm": True})
    state = tiny.run_steps(config)[0][-1]
    network = models.build_discriminator(config).copy(axis_name=None)
    estimate = frozen_statistics.make_estimate(network)
    player, batches = state.discriminator, [(jnp.asarray(tiny.images(8) / 127.5 - 1, jnp.float32), None)] * 2
    found = estimate(player.params, player.batch_stats, batches)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    before, after = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (player.batch_stats, found))
    vectors = [path for path in before if path[-1].key == "u"]
    assert len(vectors) == 3 and set(before) == set(after)
    for path in vectors:
        np.testing.assert_array_equal(after[path], before[path])


# --- Decay ------------------------------------------------------------------------------------------------------------


def test_decay_by_fraction_by_hand() -> None:
    """Half of 8 steps: as decay_begin 4 and decay_steps 4."""
    config = tiny.config({"optimizer.decay_fraction": 0.5, "num_steps": 8})
    optimizer = make_optimizer(config.optimizer, 1e-3, config.num_steps)
    params = {"w": jnp.ones(())}
    state, sizes = optimizer.init(params), []
    for _ in range(8):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
        sizes.append(-float(updates["w"]))
    np.testing.assert_allclose(sizes, 1e-3 * np.array([1, 1, 1, 1, 1, 0.75, 0.5, 0.25]), rtol=1e-4)


def test_decay_is_given_once() -> None:
    both = {"optimizer.decay_fraction": 0.5, "optimizer.decay_steps": 2, "optimizer.decay_begin": 2}
    with pytest.raises(UserError, match="both say when the learning rates fall"):
        check_config(tiny.config(both))


# --- All together -----------------------------------------------------------------------------------------------------

EVERYTHING = {
    "data.flip": "x",
    "augment.operations": ("color", "translation", "cutout"),
    "augment.target": 0.05,
    "augment.probability": 0.5,
    "augment.ramp_images": 64,
    "regularizer.r1": 1.0,
    "regularizer.r1_every": 2,
    "regularizer.label_smoothing": 0.1,
    "regularizer.instance_noise": 0.1,
    "optimizer.decay_fraction": 0.5,
    "model.discriminator.spectral_norm": True,
    "ema_decay": 0.9,
}


def after_six_steps(config: Any, devices: int) -> GANState:
    devices_mesh = tiny.mesh(devices)
    step = train_step.make_mapped_step(build_gan(config), devices_mesh, config.mapper)
    state = mesh.replicate(devices_mesh, tiny.fresh_state(config))
    for i in range(6):
        state, _ = step(state, {}, tiny.shard_batch(config, devices_mesh, seed=i))
    return jax.tree.map(np.array, state)


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
def test_all_of_them_on_several_devices(mapper: str) -> None:
    config = tiny.config({**EVERYTHING, "mapper": mapper})
    one = after_six_steps(config, 1)
    for devices in (2, 4):
        other = after_six_steps(config, devices)
        assert tiny.largest_difference(one.discriminator.params, other.discriminator.params) < 2e-4
        assert tiny.largest_difference(one.generator.params, other.generator.params) < 2e-4
        assert isinstance(one, AdaptiveGANState) and isinstance(other, AdaptiveGANState)
        assert tiny.largest_difference(one.adaptive, other.adaptive) == 0.0


def test_all_of_them_in_bfloat16() -> None:
    state = after_six_steps(tiny.config({**EVERYTHING, "precision": "bfloat16"}), 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.discriminator.params)} == {np.dtype("float32")}


@pytest.mark.long
def test_all_of_them_go_back_on_several_devices_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that collapses at step 8 and goes back to 3 ends on 1, 2 and 4 devices alike.

    On two it is interrupted, without a save, before and after its return, and ends with the same bits.
    """
    source = tiny.image_folder(tmp_path / "images", count=16)
    changes: dict[str, Any] = {"num_steps": 12, "checkpoint_every": 3, "sample_every": 1, "keep_checkpoints": 99}
    changes |= {"data.source": source, "on_collapse": "rollback", "regularizer.r1_every": 4}
    config = tiny.config({**EVERYTHING, **changes})
    draw_alike(monkeypatch, 6)
    ends = {}
    for devices in (1, 2, 4):
        monkeypatch.setattr(training, "make_mesh", lambda batch_size, number=devices: tiny.mesh(number))
        state = training.train(config, tmp_path / f"on {devices}").state
        (noted,) = rollbacks(tmp_path / f"on {devices}")
        assert (noted["collapsed_at"], noted["back_to"]) == (8, 3)
        assert isinstance(state, AdaptiveGANState) and int(state.step) == 12
        ends[devices] = state
    for devices in (2, 4):
        assert tiny.largest_difference(ends[1].discriminator.params, ends[devices].discriminator.params) < 5e-4
        assert tiny.largest_difference(ends[1].generator.params, ends[devices].generator.params) < 5e-4
        assert tiny.largest_difference(ends[1].adaptive, ends[devices].adaptive) == 0.0

    monkeypatch.setattr(training, "make_mesh", lambda batch_size: tiny.mesh(2))
    make_step, calls = training.make_mapped_step, itertools.count(1)

    def make_failing(*args: Any) -> Any:
        step = make_step(*args)

        def call(*arguments: Any) -> Any:
            if next(calls) in (5, 12):  # step 5; and, from step 3 on, 8, the return to 3, and step 5 again
                raise KeyboardInterrupt
            return step(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(training, "make_mapped_step", make_failing)
        for returns in (0, 1):
            with pytest.raises(KeyboardInterrupt):
                training.train(config, tmp_path / "interrupted")
            assert (run_folder.latest_step(tmp_path / "interrupted"), len(rollbacks(tmp_path / "interrupted"))) == (
                3,
                returns,
            )
    state = training.train(config, tmp_path / "interrupted").state
    jax.tree.map(np.testing.assert_array_equal, state, ends[2])


@pytest.mark.long
def test_all_of_them_killed_and_resumed(tmp_path: Path) -> None:
    """Killed while an old checkpoint is deleted, the same command ends bit for bit where a run without a fault does.

    It resumes at step 6: between two penalties, and between two adjustments of the probability.
    """
    changes = {"data.source": tiny.image_folder(tmp_path / "images", count=20), "num_steps": 12, "checkpoint_every": 3}
    changes |= {"keep_checkpoints": 1, "regularizer.r1_every": 4}
    config = tiny.write_config(tmp_path, {**EVERYTHING, **changes, "data.cache_dir": str(tmp_path / "cache")})
    processes.finish(processes.start(config, tmp_path / "straight"))
    processes.finish(processes.start(config, tmp_path / "killed", fault="old checkpoint half deleted"), -signal.SIGKILL)
    assert "resumed at step 6" in processes.finish(processes.start(config, tmp_path / "killed"))
    straight = processes.contents(tmp_path / "straight")
    assert processes.contents(tmp_path / "killed") == straight
    assert {row["augment_probability"] for row in straight["metrics"]} > {0.5}  # it moved
