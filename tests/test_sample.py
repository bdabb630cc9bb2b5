"""Drawing from a generator: statistics of batch normalisation, files, and runs that are not there."""

import json
import shutil
import subprocess
import sys
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
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import checkpoint, run_folder, sampler, trained, weights_file
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


@pytest.mark.parametrize("norm", ["running", "frozen"])
def test_numbered_images_are_those_of_a_longer_row(norm: str) -> None:
    """Also where the numbers fill more than a batch, and where the same is asked for twice."""
    config = tiny.config()
    state, drawing = tiny.fresh_state(config), Sampler(build_gan(config), norm)
    everything = drawing.images(state, 300, seed=1)
    numbers = [299, 4, 4, *range(130)]
    np.testing.assert_array_equal(drawing.images(state, numbers, seed=1), everything[numbers])
    assert drawing.images(state, [], seed=1).shape == (0, 8, 8, 3)


def test_numbered_images_have_the_class_of_their_number() -> None:
    """5 % 3 is 2; of classes 2 and 0 in turn, image 5 has the second."""
    config = tiny.config({"model.num_classes": 3})
    state, drawing = tiny.fresh_state(config), Sampler(build_gan(config))
    np.testing.assert_array_equal(drawing.labels_of(np.array([5, 0, 4])), [2, 0, 1])
    np.testing.assert_array_equal(drawing.labels_of(np.array([5, 0, 4]), [2, 0]), [0, 2, 2])
    np.testing.assert_array_equal(drawing.images(state, [5, 4], 0), drawing.images(state, 6, 0)[[5, 4]])
    only_0, only_2 = (drawing.images(state, 6, 0, [label]) for label in (0, 2))
    expected = np.stack([only_0[5], only_2[4]])
    np.testing.assert_array_equal(drawing.images(state, [5, 4], 0, [2, 0]), expected)
    assert not np.array_equal(only_0[5], only_2[5])


def test_whole_batches_keep_their_statistics() -> None:
    """With norm=batch the first images are the same however many are drawn; single ones cannot be had."""
    config = tiny.config()
    state, drawing = tiny.fresh_state(config), Sampler(build_gan(config), "batch")
    np.testing.assert_array_equal(drawing.images(state, 3, 0), drawing.images(state, 128, 0)[:3])
    with pytest.raises(UserError, match="with --norm=batch an image depends on those that are drawn beside it"):
        drawing.images(state, [4], 0)


@pytest.mark.parametrize("numbers", [[-1], [2**31], [0.5], [[1]]])
def test_numbers_that_no_image_has(numbers: Any) -> None:
    with pytest.raises(UserError, match="numbers of images must be whole numbers from 0 on"):
        sampler.image_numbers(numbers)


def test_files(tmp_path: Path) -> None:
    images = tiny.images(5)
    (tmp_path / "npz").mkdir()
    names = sample.names(range(5), by_number=False)
    sample.write_pngs(tmp_path / "png", names, iter(images))
    for i, image in enumerate(images):
        with Image.open(tmp_path / "png" / f"{i:06d}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), image)
    sample.write_npz(tmp_path / "npz", iter(images))
    with np.load(tmp_path / "npz" / "samples.npz") as file:
        np.testing.assert_array_equal(file["images"], images)
    assert [path.name for path in (tmp_path / "npz").iterdir()] == ["samples.npz"]


def test_names_of_numbered_files_sort_like_their_numbers() -> None:
    assert sample.names([4, 0], by_number=True) == ["seed0004", "seed0000"]
    assert sample.names([4, 123456], by_number=True) == ["seed000004", "seed123456"]


def draw(workdir: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dcgan_jax.sample", f"--workdir={workdir}", f"--out={out}", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300)


def pngs(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.iterdir()):
        with Image.open(path) as file:
            found[path.name] = np.asarray(file)
    return found


def test_the_command_draws_images_by_number(trained_run: Path, tmp_path: Path) -> None:
    """And draws them again from the noise that it saved. Their sheet has 4 columns of 56 pixels, the numbers on it."""
    process = draw(trained_run, tmp_path / "seeds", "--seeds=4,2-3,130", "--save_z", "--scale_z=0.5", "--grid=4x1")
    assert process.returncode == 0, process.stderr
    found = pngs(tmp_path / "seeds")
    assert list(found) == ["seed0002.png", "seed0003.png", "seed0004.png", "seed0130.png"]
    run = trained.load(trained_run)
    expected = run.generate(0.5 * run.noise(131)[[4, 2, 3, 130]])
    np.testing.assert_array_equal(
        [found[f"seed{i:04d}.png"] for i in (4, 2, 3, 130)], expected, "scaled images of `sample`"
    )
    z = np.load(tmp_path / "seeds_z.npy")
    np.testing.assert_array_equal(z, 0.5 * run.noise([4, 2, 3, 130]))
    with Image.open(tmp_path / "seeds_sheet.png") as sheet:
        assert sheet.size == (4 * 56, 56)
        corners = np.asarray(sheet)[:12, ::56]
    assert (corners[0] == 255).all()  # where the numbers stand

    process = draw(trained_run, tmp_path / "again", f"--z={tmp_path}/seeds_z.npy", "--format=npz", "--grid=2x1")
    assert process.returncode == 0, process.stderr
    with np.load(tmp_path / "again" / "samples.npz") as file:
        np.testing.assert_array_equal(file["images"], expected)
    with Image.open(tmp_path / "again_sheet.png") as sheet:  # the first two, nothing written on them
        np.testing.assert_array_equal(np.asarray(sheet), np.concatenate([expected[0], expected[1]], 1))


def test_the_command_draws_classes_in_turn(conditional_run: Path, tmp_path: Path) -> None:
    process = draw(conditional_run, tmp_path / "out", "--num=3", "--classes=class1,0,1", "--save_z")
    assert process.returncode == 0, process.stderr
    run = trained.load(conditional_run)
    expected = [run.sample(3, label=label)[i] for i, label in enumerate([1, 0, 1])]
    np.testing.assert_array_equal(list(pngs(tmp_path / "out").values()), expected)
    assert "class 1 class1, 0 class0, 1 class1" in process.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "out_z.npy"), run.noise(3))
    np.testing.assert_array_equal(run.sample(3, label=["class1", 0, 1]), expected)
    np.testing.assert_array_equal(run.sample([2, 1], label=["class1", 0, 1]), [expected[2], expected[1]])
    np.testing.assert_array_equal(run.generate(run.noise(3), label=[1, 0, 1]), expected)
    with pytest.raises(UserError, match="the list of classes is empty"):
        run.sample(1, label=[])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds=4", "--norm=batch"], "with --norm=batch an image depends on those that are drawn beside it"),
        (["--seeds=4", "--num=5"], "At most one of (num, seeds, z)"),
        (["--seeds=20-10"], "the range 20-10 runs backwards: write 10-20."),
        (["--grid=8"], "write 8x4 for 8 columns, 4 rows"),
    ],
)
def test_the_command_refuses(flags: list[str], message: str, trained_run: Path, tmp_path: Path) -> None:
    process = draw(trained_run, tmp_path / "out", *flags)
    assert (process.returncode, process.stdout) == (2, "")
    assert message in process.stderr and "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()


def test_samples_of_squeezed_images_are_stretched(trained_run: Path, tmp_path: Path) -> None:
    """PNG files and the sheet, 8 x 8 pixels to 16 x 8; not samples.npz."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**data, "aspect": 2.0}))
    for format in ("png", "npz"):
        process = draw(run, tmp_path / format, "--num=2", f"--format={format}", "--grid=2x1")
        assert process.returncode == 0, process.stderr
        with Image.open(tmp_path / f"{format}_sheet.png") as sheet:
            assert sheet.size == (32, 8)
    images = trained.load(run).sample(2)
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / weights_file.FILE).write_bytes(weights_file.encode(trained.load(run).weights))
    assert trained.load(exported).aspect == 2.0 and draw(exported, tmp_path / "again", "--num=1").returncode == 0
    with Image.open(tmp_path / "again" / "000000.png") as drawn:
        assert drawn.size == (16, 8)
    with Image.open(tmp_path / "png" / "000001.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), image_grid.stretched(images[1], 2.0))
    with np.load(tmp_path / "npz" / "samples.npz") as content:
        np.testing.assert_array_equal(content["images"], images)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (
            np.zeros((2, 4)),
            r"float64 of shape \[2, 4\]; it must be finite floating-point numbers of shape \[count, 5\]",
        ),
        (np.zeros(5), r"of shape \[5\]"),
        (np.zeros((0, 5)), r"of shape \[0, 5\]"),
        (np.zeros((2, 5), int), "int64"),
        (np.full((2, 5), np.nan), "must be finite"),
    ],
)
def test_noise_of_another_kind_in_a_file(z: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", z)
    with pytest.raises(UserError, match=message):
        sample.read_z(tmp_path / "z.npy", 5)


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
