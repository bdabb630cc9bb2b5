"""Drawing from a generator: statistics of batch normalisation, files, and runs that are not there."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from dcgan_jax import sample
from dcgan_jax.machine import rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import frozen_statistics, models, pixels
from dcgan_jax.runs import checkpoint, run_folder, sampler, trained
from dcgan_jax.runs.sampler import Sampler
from dcgan_jax.train_state import build_gan
from tests import tiny


def test_frozen_statistics_are_means_over_fresh_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against batches computed one by one with NumPy moments of the first normalised layer."""
    monkeypatch.setattr(sampler, "STATISTICS_BATCHES", 3)
    config = tiny.config()
    state = tiny.fresh_state(config).generator
    estimated = sampler.make_estimate_statistics(build_gan(config))(state.params, state.batch_stats)
    kernel = np.asarray(state.params["projection"]["kernel"], np.float64)
    means, variances = [], []
    for i in range(3):
        key = rng.stream(config.seed, "statistics", i)
        units = np.asarray(models.sample_noise(key, (sampler.BATCH_SIZE, 5), "uniform"), np.float64) @ kernel
        means.append(units.mean(0))
        variances.append(units.var(0))
    np.testing.assert_allclose(estimated["projection_norm"]["mean"], np.mean(means, 0), atol=1e-6)
    np.testing.assert_allclose(estimated["projection_norm"]["var"], np.mean(variances, 0), rtol=1e-4)
    assert estimated.keys() == state.batch_stats.keys()


def test_norm_modes_use_their_own_statistics() -> None:
    config = tiny.config()
    state = tiny.fresh_state(config)
    generator = models.build_generator(config)
    player = state.generator
    z = Sampler(build_gan(config)).noise(1, 0, sampler.BATCH_SIZE)

    @partial(jax.jit, static_argnums=1)
    def expected(batch_stats: object, train: bool) -> jax.Array:
        variables = {"params": player.params, "batch_stats": batch_stats}
        (images, _), _ = generator.apply(variables, z, train=train, mutable=["batch_stats"])
        return pixels.to_uint8(images, "tanh")

    frozen = sampler.make_estimate_statistics(build_gan(config))(player.params, player.batch_stats)
    for norm, images in {
        "running": expected(player.batch_stats, False),
        "batch": expected(player.batch_stats, True),
        "frozen": expected(frozen, False),
    }.items():
        drawn = Sampler(build_gan(config), norm).images(state, sampler.BATCH_SIZE, seed=1)
        # Two programs may round a level differently.
        assert np.abs(drawn.astype(int) - np.asarray(images).astype(int)).max() <= 1, norm


def test_labels_are_drawn_in_turn_or_as_asked() -> None:
    config = tiny.config({"model.num_classes": 3})
    state = tiny.fresh_state(config)
    drawing = Sampler(build_gan(config))
    in_turn, only_1 = drawing.images(state, 6, seed=0), drawing.images(state, 6, seed=0, label=1)
    np.testing.assert_array_equal(in_turn[1::3], only_1[1::3])
    assert not np.array_equal(in_turn[0], only_1[0])


def test_noise_of_an_image_depends_on_its_number_only() -> None:
    config = tiny.config({"model.z_distribution": "normal"})
    drawing = Sampler(build_gan(config))
    np.testing.assert_array_equal(drawing.noise(3, 0, 10)[4:6], drawing.noise(3, 4, 2))


def test_files(tmp_path: Path) -> None:
    images = tiny.images(5)
    (tmp_path / "npz").mkdir()
    sample.write_pngs(tmp_path / "png", iter([images[:3], images[3:]]))
    for i, image in enumerate(images):
        with Image.open(tmp_path / "png" / f"{i:06d}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), image)
    sample.write_npz(tmp_path / "npz", iter([images[:3], images[3:]]))
    with np.load(tmp_path / "npz" / "samples.npz") as file:
        np.testing.assert_array_equal(file["images"], images)
    with Image.open(tmp_path / "npz_sheet.png") as sheet:
        assert sheet.size == (80, 8)


def test_runs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json"):
        trained.load(tmp_path)
    run_folder.record(tmp_path, tiny.config(), {})
    with pytest.raises(UserError, match="has no checkpoint yet"):
        trained.load(tmp_path)


def test_checkpoints_come_back_on_any_number_of_devices(tmp_path: Path) -> None:
    config = tiny.config()
    run_folder.record(tmp_path, config, {})
    state = tiny.fresh_state(config)
    with checkpoint.Checkpoints(tmp_path, keep_latest=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state.replace(step=jax.numpy.int32(step)))
    with pytest.raises(UserError, match=r"no checkpoint of step 1 \(available steps: 2, 3\)"):
        checkpoint.restore(tmp_path, 1, jax.eval_shape(lambda: state), tiny.mesh(4))
    restored = checkpoint.restore(tmp_path, 2, jax.eval_shape(lambda: state), tiny.mesh(4))
    assert int(restored.step) == 2
    assert len(restored.generator.params["deconv1"].sharding.device_set) == 4
    assert tiny.largest_difference(restored.generator, state.generator) == 0
    loaded = trained.load(tmp_path).state
    assert int(loaded.step) == 3
    assert tiny.largest_difference(loaded.discriminator, state.discriminator) == 0
    with pytest.raises(UserError, match=r"no checkpoint that was evaluated"):
        trained.load(tmp_path, run_folder.BEST)
    run_folder.metrics(tmp_path).write_text('{"step": 2, "nnd": 1.0}\n{"step": 3, "nnd": 2.0}\n')
    assert trained.load(tmp_path, run_folder.BEST).step == 2


@pytest.mark.parametrize("moment", ["verified", "read"])
def test_a_checkpoint_that_a_run_deletes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The newest one that is there then is used."""
    config = tiny.config()
    run_folder.record(tmp_path, config, {})
    state = tiny.fresh_state(config)
    with checkpoint.Checkpoints(tmp_path, keep_latest=9) as checkpoints:
        checkpoints.save(state.replace(step=jax.numpy.int32(1)))
    name = {"verified": "find_damage", "read": "restore"}[moment]
    function = getattr(checkpoint, name)

    def delete_before(*args: Any) -> Any:
        folder = run_folder.checkpoint(tmp_path, 1)
        if folder.exists():
            folder.rename(run_folder.checkpoint(tmp_path, 2))  # as if 2 had been saved, and 1 deleted
        return function(*args)

    monkeypatch.setattr(checkpoint, name, delete_before)
    trained.load(tmp_path)
    assert run_folder.steps(tmp_path) == [2]
    with pytest.raises(UserError, match=r"no checkpoint of step 1 \(available steps: 2\)"):
        trained.load(tmp_path, 1)


@pytest.mark.parametrize(("matmul_precision", "expected"), [("default", None), ("highest", "highest")])
def test_frozen_statistics_multiply_as_training_does(
    matmul_precision: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def make_estimate(network: Any) -> Any:
        return lambda *arguments: seen.append(jax.config.values["jax_default_matmul_precision"])

    monkeypatch.setattr(frozen_statistics, "make_estimate", make_estimate)
    gan = build_gan(tiny.config({"matmul_precision": matmul_precision}))
    sampler.make_estimate_statistics(gan)({}, {})
    assert seen == [expected]
