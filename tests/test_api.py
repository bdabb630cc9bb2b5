"""The public face: a run held in Python, trained, loaded, drawn from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import dcgan_jax
from dcgan_jax import main, training
from dcgan_jax.config import check_config
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models, pixels
from dcgan_jax.runs import trained
from dcgan_jax.runs.trained import Run
from tests import tiny


@pytest.fixture(scope="module")
def run(trained_run: Path) -> Run:
    return dcgan_jax.load(trained_run)


def test_nothing_heavy_is_imported_before_it_is_asked_for() -> None:
    program = (
        "import sys, dcgan_jax\n"
        "assert dcgan_jax.__version__ and 'jax' not in sys.modules\n"
        "dcgan_jax.grid\n"
        "assert 'jax' not in sys.modules and 'PIL' in sys.modules\n"
        "assert callable(dcgan_jax.train) and 'dcgan_jax.training' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1], timeout=120)


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sample_everything'"):
        dcgan_jax.sample_everything  # noqa: B018


def test_generate_draws_what_sample_draws(run: Run) -> None:
    """131 images: a whole batch and a part of one."""
    images = run.sample(131, seed=3)
    assert images.shape == (131, 8, 8, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(run.generate(run.noise(131, seed=3)), images)
    np.testing.assert_array_equal(run.generate(run.noise(2, seed=3, first=129)), images[129:])
    assert run.noise(4).dtype == np.float32 and run.noise(4).shape == (4, 5)


def test_a_count_may_be_of_numpy(run: Run, trained_run: Path) -> None:
    """A list of numbers it is not, which --norm=batch refuses."""
    in_batches = dcgan_jax.load(trained_run, norm="batch")
    np.testing.assert_array_equal(in_batches.sample(np.int64(2)), in_batches.sample(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(run.sample(np.int64(2)), run.sample(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(run.noise(np.int32(2)), run.noise(2))  # type: ignore[arg-type]


def test_a_folder_may_be_a_string(trained_run: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(dcgan_jax.load(str(trained_run)).sample(2), run.sample(2))
    monkeypatch.setenv("HOME", str(trained_run.parent))
    assert dcgan_jax.load(f"~/{trained_run.name}").step == 1


def test_classes_in_turn_or_one_of_them(conditional_run: Path) -> None:
    run = dcgan_jax.load(conditional_run)
    in_turn, only_1 = run.sample(5, seed=2), run.sample(5, seed=2, label=1)
    np.testing.assert_array_equal(in_turn[1::2], only_1[1::2])
    z = run.noise(5, seed=2)
    np.testing.assert_array_equal(run.generate(z), in_turn)
    np.testing.assert_array_equal(run.generate(z, label=1), only_1)
    assert (run.one_label(None), run.one_label(1)) == (0, 1)
    with pytest.raises(UserError, match=r"--label=2 is not one of the run's classes \(0 to 1\)"):
        run.sample(1, label=2)
    assert run.class_names == ["class0", "class1"]
    np.testing.assert_array_equal(run.sample(5, seed=2, label="class1"), only_1)
    with pytest.raises(UserError, match=r"there is no class 'class2'; the classes are: 0 class0, 1 class1"):
        run.sample(1, label="class2")


def test_a_name_that_is_a_number_is_a_name(conditional_run: Path, tmp_path: Path) -> None:
    """Folders 10 and 2 are classes 0 and 1: label '2' is the folder of that name, label 1 is the number."""
    shutil.copytree(conditional_run, tmp_path / "run")
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    (tmp_path / "run" / "data.json").write_text(json.dumps({**data, "class_names": ["10", "2"]}))
    run = dcgan_jax.load(tmp_path / "run")
    assert (run.find_label("2"), run.find_label("10"), run.find_label(1), run.find_label("0")) == (1, 0, 1, 0)
    with pytest.raises(UserError, match="there is no class '3'; the classes are: 0 10, 1 2"):
        run.find_label("3")


def test_discriminate_gives_logits_and_every_activation(run: Run) -> None:
    images = tiny.images(131)
    logits, taps = run.discriminate(images)
    assert logits.shape == (131,) and list(taps) == ["conv1", "conv2", "logit"]
    assert {name: values.shape for name, values in taps.items()} == {
        "conv1": (131, 4, 4, 4),
        "conv2": (131, 2, 2, 6),
        "logit": (131,),
    }
    network = models.build_discriminator(run.config)
    variables = run.state.discriminator.variables
    expected, _ = network.apply(variables, pixels.to_network(jnp.asarray(images), "tanh"), train=False)  # type: ignore[misc]
    np.testing.assert_allclose(logits, np.asarray(expected), atol=1e-6)


def test_discriminate_takes_labels_where_the_network_does(conditional_run: Path) -> None:
    run, images = dcgan_jax.load(conditional_run), tiny.images(3)
    zeros, ones = (run.discriminate(images, np.full(3, label))[0] for label in (0, 1))
    assert not np.allclose(zeros, ones)
    np.testing.assert_array_equal(run.discriminate(images, np.array([0, 1, 0]))[0], [zeros[0], ones[1], zeros[2]])
    with pytest.raises(UserError, match="labels are needed by conditional networks"):
        run.discriminate(images)
    with pytest.raises(UserError, match="labels must be 3 numbers from 0 to 1"):
        run.discriminate(images, np.array([0, 1, 2]))


@pytest.mark.parametrize("images", [tiny.images(2).astype(np.float32), tiny.images(2, size=4), tiny.images(2)[0]])
def test_images_of_another_kind(run: Run, images: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"they must be uint8 \[count, 8, 8, 3\]"):
        run.discriminate(images)


def test_noise_of_another_kind(run: Run) -> None:
    with pytest.raises(UserError, match=r"z has shape \[2, 4\]; it must be \[count, 5\]"):
        run.generate(np.zeros((2, 4)))


def test_what_cannot_be_loaded(trained_run: Path, tmp_path: Path) -> None:
    for step, norm, message in (
        (7, "running", "no checkpoint of step 7"),
        ("best", "running", "no checkpoint that was evaluated"),
        ("newest", "running", "step is 'newest'; it must be a number of steps or 'best'"),
        (None, "mean", "norm is 'mean'; choose from 'running', 'frozen', 'batch'"),
    ):
        with pytest.raises(UserError, match=message):
            dcgan_jax.load(trained_run, step, norm)
    with pytest.raises(UserError, match="is not a run's folder"):
        dcgan_jax.load(tmp_path / "nothing")


def test_training_returns_the_run_and_builds_everything_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `main` does, too: it calls the same function."""
    assert dcgan_jax.train is training.train and main.training is training
    counts = {"check": 0, "generator": 0, "discriminator": 0}

    def counted(name: str, function: object) -> object:
        def call(*args: object) -> object:
            counts[name] += 1
            return function(*args)  # type: ignore[operator]

        return call

    monkeypatch.setattr(training, "check_config", counted("check", check_config))
    monkeypatch.setattr(trained, "check_config", counted("check", check_config))
    from dcgan_jax import train_state

    monkeypatch.setattr(train_state, "build_generator", counted("generator", models.build_generator))
    monkeypatch.setattr(train_state, "build_discriminator", counted("discriminator", models.build_discriminator))
    monkeypatch.setattr(models, "build_generator", counted("generator", models.build_generator))
    monkeypatch.setattr(models, "build_discriminator", counted("discriminator", models.build_discriminator))

    source = tiny.image_folder(tmp_path / "images")
    changes = {"num_steps": 2, "sample_every": 1, "eval_every": 2, "eval.num_samples": 16, "data.source": source}
    run = dcgan_jax.train(tiny.config(changes), str(tmp_path / "run"))
    assert counts == {"check": 1, "generator": 1, "discriminator": 1}
    assert run.step == 2 and run.workdir == tmp_path / "run"
    loaded = dcgan_jax.load(tmp_path / "run")
    assert counts == {"check": 2, "generator": 2, "discriminator": 2}
    assert tiny.largest_difference(run.state, loaded.state) == 0
    np.testing.assert_array_equal(run.sample(3), loaded.sample(3))


def test_other_checkpoints_of_a_run(tmp_path: Path) -> None:
    source = tiny.image_folder(tmp_path / "images")
    config = tiny.config({"num_steps": 2, "checkpoint_every": 1, "keep_checkpoints": 2, "data.source": source})
    run = dcgan_jax.train(config, tmp_path / "run")
    first = run.at(1)
    assert (first.step, run.step, run.at(None).step) == (1, 2, 2)
    assert first.sampler is run.sampler  # compiled once
    assert not np.array_equal(first.sample(4), run.sample(4)) or tiny.largest_difference(first.state, run.state) > 0
    np.testing.assert_array_equal(first.sample(4), dcgan_jax.load(tmp_path / "run", step=1).sample(4))


def test_a_grid_is_a_picture() -> None:
    images = tiny.images(5)
    picture = dcgan_jax.grid(images, columns=3)
    assert picture.size == (24, 16)
    np.testing.assert_array_equal(np.asarray(picture)[:8, 8:16], images[1])
    assert dcgan_jax.grid(images[..., :1]).mode == "L"
    with pytest.raises(UserError, match=r"they must be uint8 \[count, height, width, 1 or 3\]"):
        dcgan_jax.grid(images / 255)


def test_setting_up_late_says_what_is_lost() -> None:
    program = (
        "import warnings, jax, jax.numpy as jnp\n"
        "jnp.zeros(2).block_until_ready()\n"
        "from dcgan_jax import machine\n"
        "with warnings.catch_warnings(record=True) as late:\n"
        "    warnings.simplefilter('always')\n"
        "    machine.set_up()\n"
        "    machine.set_up()\n"
        "assert len(late) == 1 and 'JAX was used in this process before' in str(late[0].message), late\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1], timeout=120)


def test_setting_up_in_time_is_silent_and_keeps_a_cache_folder_that_is_set(tmp_path: Path) -> None:
    program = (
        "import warnings; warnings.simplefilter('error')\n"
        "import jax\n"
        f"jax.config.update('jax_compilation_cache_dir', {str(tmp_path)!r})\n"
        "from dcgan_jax import machine\n"
        "machine.set_up()\n"
        f"assert jax.config.jax_compilation_cache_dir == {str(tmp_path)!r}\n"
        "from dcgan_jax.machine import allocator\n"
        "import platform\n"
        "kept = platform.libc_ver()[0] == 'glibc'\n"
        "assert ('stay in the process' in allocator.description()) == kept\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1], timeout=120)
