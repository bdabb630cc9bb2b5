"""The training step against independent computations: plain gradients, hand-written Adam, other device counts."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dcgan_jax import train_step
from dcgan_jax.machine import mesh, rng
from dcgan_jax.machine.mesh import AXIS
from dcgan_jax.nets import models, pixels
from dcgan_jax.nets.losses import LOSSES
from dcgan_jax.train_state import GANState, build_gan, make_optimizer
from tests import tiny

# Steps on 1 device, on 4, and with pmap round differently; parameters move by about 2e-4 a step.
ROUNDING = 2e-6


def noise(config: Any, name: str, step: int = 0) -> jax.Array:
    """The noise of a step, drawn image by image."""
    key = rng.stream(config.seed, name, step)
    keys = [jax.random.fold_in(key, i) for i in range(config.batch_size)]
    return jnp.stack([jax.random.uniform(key, (config.model.z_dim,), minval=-1, maxval=1) for key in keys])


def reference_step(config: Any, state: GANState, images: np.ndarray) -> dict[str, Any]:
    """Gradients and losses of the first step in the most literal form: one pass per player, batch and loss."""
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    loss = LOSSES[config.loss]
    real = pixels.to_network(jnp.asarray(images), config.model.output)
    g, d = state.generator.params, state.discriminator.params

    def generate(params: Any, z: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": state.generator.batch_stats}
        return generator.apply(variables, z, train=True, mutable=["batch_stats"])[0][0]

    def judge(params: Any, images: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": state.discriminator.batch_stats}
        return discriminator.apply(variables, images, train=True, mutable=["batch_stats"])[0][0]

    def adam(gradients: Any, params: Any, learning_rate: float) -> Any:
        """First Adam step with coupled L2, from the formula: both moments are the gradient's, bias-corrected."""

        def update(gradient: jax.Array, value: jax.Array) -> jax.Array:
            gradient = gradient + config.optimizer.l2 * value
            return value - learning_rate * gradient / (jnp.abs(gradient) + config.optimizer.eps)

        return jax.tree.map(update, gradients, params)

    def learn_d(g: Any, z: jax.Array) -> tuple[jax.Array, Any]:
        fakes = generate(g, z)
        return jax.value_and_grad(lambda d: loss.discriminator(judge(d, real), judge(d, fakes)))(d)

    def learn_g(d: Any) -> tuple[jax.Array, Any]:
        z = noise(config, "z")
        return jax.value_and_grad(lambda g: loss.generator(judge(d, generate(g, z))))(g)

    rates = config.optimizer
    if config.update_order == "discriminator_first":
        d_loss, d_gradients = learn_d(g, noise(config, "z"))
        new_d = adam(d_gradients, d, rates.discriminator_learning_rate)
        g_loss, g_gradients = learn_g(new_d)
        new_g = adam(g_gradients, g, rates.generator_learning_rate)
    else:
        g_loss, g_gradients = learn_g(d)
        new_g = adam(g_gradients, g, rates.generator_learning_rate)
        d_loss, d_gradients = learn_d(new_g, noise(config, "z_discriminator"))
        new_d = adam(d_gradients, d, rates.discriminator_learning_rate)
    return {"d_loss": d_loss, "g_loss": g_loss, "g": new_g, "d": new_d, "g_grad": g_gradients, "d_grad": d_gradients}


def norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.square(np.asarray(leaf)).sum() for leaf in jax.tree.leaves(tree))))


@pytest.mark.parametrize(
    ("order", "loss"),
    [
        ("generator_first", "non_saturating"),
        ("discriminator_first", "hinge"),
    ],
)
def test_step_equals_literal_computation(order: str, loss: str) -> None:
    # A large L2 and a large epsilon, so that both show and that Adam's sign-like first step does not blow up rounding.
    config = tiny.config({"update_order": order, "loss": loss, "optimizer.l2": 0.1, "optimizer.eps": 1e-2})
    config = config.copy_and_resolve_references()
    config.optimizer.generator_learning_rate = 1e-2
    (start, state, _), (metrics, _) = tiny.run_steps(config)
    expected = jax.jit(lambda state: reference_step(config, state, tiny.images(8)))(start)

    assert metrics["d_loss"] == pytest.approx(float(expected["d_loss"]), rel=1e-5)
    assert metrics["g_loss"] == pytest.approx(float(expected["g_loss"]), rel=1e-5)
    assert metrics["d_grad_norm"] == pytest.approx(norm(expected["d_grad"]), rel=1e-4)
    assert metrics["g_grad_norm"] == pytest.approx(norm(expected["g_grad"]), rel=1e-4)
    assert tiny.largest_difference(state.discriminator.params, expected["d"]) < ROUNDING
    assert tiny.largest_difference(state.generator.params, expected["g"]) < 1e-5
    # Both players moved.
    assert tiny.largest_difference(state.generator.params, start.generator.params) > 1e-3
    assert tiny.largest_difference(state.discriminator.params, start.discriminator.params) > 1e-5


SMALL = {
    "data.image_size": 16,
    "model.kernel_size": 5,
    "model.generator.stages": ((32, 2), (24, 2)),
    "model.discriminator.stages": ((24, 2), (32, 2)),
}
QUARTER_OF_THE_PAPER = {
    "data.image_size": 64,
    "model.kernel_size": 5,
    "model.generator.stages": ((256, 2), (128, 2), (64, 2), (32, 2)),
    "model.discriminator.stages": ((32, 2), (64, 2), (128, 2), (256, 2)),
}


@pytest.mark.parametrize("changes", [SMALL, pytest.param(QUARTER_OF_THE_PAPER, marks=pytest.mark.long)])
def test_the_step_that_cpu_users_run(changes: dict[str, Any]) -> None:
    """Winograd and im2col under XLA's optimisations, against plain convolutions without any."""
    # With an epsilon far above the gradients, Adam's step does not turn the rounding of tiny ones into signs.
    changes = {**changes, "optimizer.eps": 100.0}
    (start, plain, _), (history, _) = tiny.run_steps(tiny.config(changes))
    config = tiny.config({**changes, "conv": "winograd"})
    step = train_step.make_mapped_step(build_gan(config), tiny.mesh(), "shard_map")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        optimised, metrics = step(start, {}, tiny.shard_batch(config, tiny.mesh(), seed=0))
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    for name in ("d_loss", "g_loss", "d_real", "d_fake"):
        assert float(metrics[name]) == pytest.approx(history[name], rel=1e-4), name
    for network in ("discriminator", "generator"):
        one, other = getattr(optimised, network), getattr(plain, network)
        assert relative_difference(one.batch_stats, other.batch_stats) < 1e-4
        # The moments of Adam's first step are the gradients. One activation that rounding puts on the other side of a
        # ReLU's kink changes them by up to a percent here.
        assert relative_difference(one.opt_state, other.opt_state) < 2e-2


def relative_difference(a: Any, b: Any) -> float:
    """Largest ratio, over the arrays of two trees, of the norm of the difference to the norm of the second."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.linalg.norm(np.asarray(x) - y) / np.linalg.norm(y)) for x, y in pairs if np.any(y))


def test_two_steps_in_one_call_are_two_steps() -> None:
    config = tiny.config()
    (start, _, two), (_, metrics) = tiny.run_steps(config)
    step = train_step.make_mapped_step(build_gan(config), tiny.mesh(), "shard_map")
    batches = [tiny.shard_batch(config, tiny.mesh(), seed=i)["image"] for i in (0, 1)]
    state, last = step(start, {}, {"image": np.concatenate(batches)})
    assert tiny.largest_difference(state, two) < 1e-6
    assert {name: float(value) for name, value in last.items() if value.ndim == 0} == pytest.approx(metrics, rel=1e-6)


def test_bfloat16_keeps_parameters_and_statistics_in_float32() -> None:
    (*_, full), history = tiny.run_steps(tiny.config())
    (*_, half), other = tiny.run_steps(tiny.config({"precision": "bfloat16"}))
    assert {leaf.dtype for leaf in jax.tree.leaves((half.generator, half.discriminator))} <= {
        np.dtype("float32"),
        np.dtype("int32"),
    }
    # bfloat16 keeps 8 bits: losses agree to a percent, but not to float32's rounding.
    assert other[0]["d_loss"] == pytest.approx(history[0]["d_loss"], rel=2e-2)
    assert other[0]["d_loss"] != history[0]["d_loss"]
    assert tiny.largest_difference(half.generator.params, full.generator.params) < 2e-3


def test_eager_and_compiled_steps_agree() -> None:
    """The same per-device step, op by op and as one program."""
    config = tiny.config()
    (start, compiled, _), _ = tiny.run_steps(config)
    step = partial(train_step.train_step, build_gan(config))
    with jax.disable_jit():
        eager, _ = jax.vmap(step, axis_name="data")(
            jax.tree.map(lambda leaf: leaf[None], start), {"image": jnp.asarray(tiny.images(8))[None]}
        )
    assert tiny.largest_difference(jax.tree.map(lambda leaf: leaf[0], eager), compiled) < ROUNDING


def test_images_that_are_not_square_on_one_and_four_devices() -> None:
    """They give the same numbers, with everything in the step that knows the sides, and both players learn."""
    operations = ("translation", "cutout")
    config = tiny.config({"data.image_width": 12, "data.flip": "x", "augment.operations": operations})
    (start, _, one), _ = tiny.run_steps(config, devices=1)
    (*_, four), _ = tiny.run_steps(config, devices=4)
    assert tiny.largest_difference(one, four) < ROUNDING
    assert one.generator.params["projection"]["kernel"].shape == (5, 2 * 3 * 6)
    for player in ("generator", "discriminator"):
        before, after = (getattr(state, player).params for state in (start, one))
        assert tiny.largest_difference(before, after) > 1e-4, player


def test_number_of_devices_and_mapper_do_not_matter() -> None:
    changes = {
        "model.num_classes": 3,
        "model.discriminator.dropout": 0.5,
        "ema_decay": 0.9,
        "model.output": "sigmoid",
        "data.flip": "x",
        "augment.operations": ("color", "translation", "cutout"),
        "augment.probability": 0.6,
    }
    (*_, one), history = tiny.run_steps(tiny.config(changes), devices=1)
    for mapper in ("shard_map", "pmap"):
        (*_, several), other = tiny.run_steps(tiny.config({**changes, "mapper": mapper}), devices=4)
        assert tiny.largest_difference(one, several) < ROUNDING, mapper
        assert other[1]["g_loss"] == pytest.approx(history[1]["g_loss"], rel=1e-5)


def test_flips_are_a_bit_for_each_image_and_step() -> None:
    """A step that mirrors is a plain one on images that were mirrored by hand. Step 1 draws other bits than step 0."""
    plain, flipping = tiny.config(), tiny.config({"data.flip": "x"})
    states, history = tiny.run_steps(flipping)
    step = train_step.make_mapped_step(build_gan(plain), tiny.mesh(1), plain.mapper)
    drawn = []
    for i in (0, 1):
        key = rng.stream(plain.seed, "flip", i)
        bits = [bool(jax.random.bernoulli(jax.random.fold_in(key, n))) for n in range(plain.batch_size)]
        images = tiny.images(plain.batch_size, seed=i)
        by_hand = np.stack([image[:, ::-1] if bit else image for image, bit in zip(images, bits, strict=True)])
        batch = mesh.shard_batches(tiny.mesh(1), plain.mapper, {"image": by_hand[None]})
        state, metrics = step(mesh.replicate(tiny.mesh(1), states[i]), {}, batch)
        assert tiny.largest_difference(state, states[i + 1]) == 0.0
        assert float(metrics["d_loss"]) == history[i]["d_loss"]
        drawn.append(bits)
    assert drawn[0] != drawn[1] and 0 < sum(map(sum, drawn)) < 2 * plain.batch_size
    assert tiny.run_steps(plain)[1][0]["d_loss"] != history[0]["d_loss"]


def test_half_of_the_images_are_mirrored() -> None:
    keys = rng.example_keys(rng.stream(0, "flip", 5), 0, 4000)
    images = jnp.tile(jnp.arange(3.0)[None, None, :, None], (4000, 2, 1, 1))
    mirrored = train_step.mirrored_at_random(images, keys)
    share = float((mirrored[:, 0, 0, 0] == 2).mean())
    assert abs(share - 0.5) < 4 * 0.5 / 4000**0.5
    assert (mirrored[:, :, 1] == 1).all() and (mirrored.sum(2) == 3).all()


def test_local_statistics_depend_on_the_number_of_devices() -> None:
    changes = {"model.cross_replica_norm": False}
    (*_, one), _ = tiny.run_steps(tiny.config(changes), devices=1)
    (*_, four), _ = tiny.run_steps(tiny.config(changes), devices=4)
    assert tiny.largest_difference(one, four) > 10 * ROUNDING


def test_running_averages_follow_real_images_in_d_and_the_last_fakes_in_g() -> None:
    config = tiny.config({"model.norm_momentum": 0.0, "model.norm": "all"})
    (start, state, _), _ = tiny.run_steps(config)
    discriminator = models.build_discriminator(config)
    real = pixels.to_network(jnp.asarray(tiny.images(8)), "tanh")
    variables = {"params": start.discriminator.params, "batch_stats": start.discriminator.batch_stats}
    _, updates = discriminator.apply(variables, real, train=True, mutable=["batch_stats"])
    assert tiny.largest_difference(state.discriminator.batch_stats, updates["batch_stats"]) < 1e-5

    # generator_first: the discriminator saw fakes of the updated generator, on the second noise.
    generator = models.build_generator(config)
    variables = {"params": state.generator.params, "batch_stats": start.generator.batch_stats}
    z = noise(config, "z_discriminator")
    _, updates = generator.apply(variables, z, train=True, mutable=["batch_stats"])
    assert tiny.largest_difference(state.generator.batch_stats, updates["batch_stats"]) < 1e-5


def test_ema_is_the_recursive_average_of_parameters() -> None:
    config = tiny.config({"ema_decay": 0.75})
    (start, one, two), _ = tiny.run_steps(config)
    average = jax.tree.map(
        lambda a, b, c: 0.75 * (0.75 * a + 0.25 * b) + 0.25 * c,
        start.generator.params,
        one.generator.params,
        two.generator.params,
    )
    assert tiny.largest_difference(two.ema, average) < 1e-6


@pytest.mark.parametrize("order", ["generator_first", "discriminator_first"])
@pytest.mark.parametrize(("freeze", "frozen"), [(1, {"conv1"}), (2, {"conv1", "conv2", "conv2_norm"})])
def test_frozen_layers_keep_their_parameters(order: str, freeze: int, frozen: set[str]) -> None:
    """L2 leaves them alone, too. All else is as without: moments, running averages, the gradients of images."""
    changes = {"update_order": order, "optimizer.l2": 0.1}
    (start, one, two), (metrics, _) = tiny.run_steps(tiny.config({**changes, "model.discriminator.freeze": freeze}))
    (_, usual, _), (usual_metrics, _) = tiny.run_steps(tiny.config(changes))
    before, after = start.discriminator.params, two.discriminator.params
    assert before.keys() == {"conv1", "conv2", "conv2_norm", "logit"}
    for name in before:
        for leaf, moved in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True):
            assert np.array_equal(leaf, moved) == (name in frozen), name
            assert name in frozen or np.abs(leaf - moved).min() > 0
    updated = before.keys() - frozen
    assert all(
        tiny.largest_difference(one.discriminator.params[name], usual.discriminator.params[name]) < ROUNDING
        for name in updated
    )
    assert tiny.largest_difference(one.discriminator.opt_state, usual.discriminator.opt_state) < ROUNDING
    assert tiny.largest_difference(one.discriminator.batch_stats, usual.discriminator.batch_stats) < ROUNDING
    jax.tree.map(lambda *_: None, one, usual)  # which raises if their structures differ
    assert metrics["d_grad_norm"] == pytest.approx(usual_metrics["d_grad_norm"], rel=1e-5)
    assert metrics["g_grad_norm"] > 1e-4
    moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.generator.params, two.generator.params)
    assert min(jax.tree.leaves(moves)) > 1e-5


def test_learning_rate_decays_linearly_to_zero() -> None:
    config = tiny.config({"optimizer.decay_begin": 2, "optimizer.decay_steps": 4})
    optimizer = make_optimizer(config.optimizer, config.optimizer.generator_learning_rate, config.num_steps)
    params = {"w": jnp.ones(())}
    state = optimizer.init(params)
    sizes = []
    for _ in range(8):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
        sizes.append(-float(updates["w"]))
    # A constant gradient makes every Adam step as long as the learning rate.
    expected = 2e-4 * np.array([1, 1, 1, 0.75, 0.5, 0.25, 0, 0])
    np.testing.assert_allclose(sizes, expected, rtol=1e-4, atol=1e-12)


def test_noise_differs_between_steps_and_uses() -> None:
    config = tiny.config()
    draws = [noise(config, "z"), noise(config, "z", 1), noise(config, "z_discriminator")]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert not np.allclose(a, b)


def test_gradients_are_averaged_in_bfloat16_if_the_config_says_so() -> None:
    """Two devices with 1 and 2^-9 more: float32 keeps half the difference, bfloat16, of 8 bits, rounds it away."""
    values = jnp.array([1.0, 1.0 + 2.0**-9])
    for precision, expected in (("float32", 1.0 + 2.0**-10), ("bfloat16", 1.0)):
        gan = build_gan(tiny.config({"reduce_precision": precision}))
        mapped = jax.shard_map(
            lambda x, gan=gan: gan.average({"kernel": x})["kernel"],
            mesh=tiny.mesh(2),
            in_specs=P(AXIS),
            out_specs=P(),
            check_vma=False,
        )
        averaged = jax.jit(mapped)(values)
        assert averaged.dtype == jnp.float32 and averaged.tolist() == [expected]


def test_means_over_devices_of_small_and_large_arrays() -> None:
    """Small ones share a collective, so each must come back in its place and shape; a large one has its own."""
    shapes = {"a": (2, 3), "b": (), "large": (mesh._SMALL + 1,), "z": (4,)}
    tree = {name: jnp.arange(2.0 * math.prod(shape)).reshape(2, *shape) for name, shape in shapes.items()}
    mapped = jax.shard_map(
        lambda tree: mesh.mean_over_devices(jax.tree.map(lambda leaf: leaf[0], tree)),
        mesh=tiny.mesh(2),
        in_specs=P(AXIS),
        out_specs=P(),
        check_vma=False,
    )
    for name, mean in jax.jit(mapped)(tree).items():
        np.testing.assert_array_equal(mean, tree[name].mean(0))
