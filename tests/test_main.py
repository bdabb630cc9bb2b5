"""The command line as a user meets it: exit status and message, no traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from dcgan_jax.runs import run_folder
from tests import tiny

ROOT = Path(__file__).parents[1]
TINY = [
    "--config=configs/default.py",
    "--config.conv=lax",
    "--config.data.image_size=8",
    "--config.batch_size=4",
    "--config.model.width=0.005",
    "--config.model.generator.stages=((512,2),(512,2))",
    "--config.model.discriminator.stages=((512,2),(512,2))",
]


def run(
    *flags: str, module: str = "main", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"dcgan_jax.{module}", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.batchsize=3"], "there is no field config.batchsize; the nearest is config.batch_size."),
        (["--config.data.sourc=x"], "there is no field config.data.sourc; the nearest is config.data.source."),
        (["--config=configs/nothing.py"], "there is no config file configs/nothing.py"),
        (["--config", "configs/nothing.py"], "there is no config file configs/nothing.py"),
        (["--config.data.source=zip:x"], "data.source 'zip:x' is not one of"),
    ],
)
def test_mistakes_are_told_in_one_line(flags: list[str], message: str, tmp_path: Path) -> None:
    if "configs/nothing.py" not in flags[-1]:
        flags = ["--config=configs/default.py", *flags]
    result = run(*flags, f"--workdir={tmp_path}/my-config.v2")
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_while_packing_leave_nothing(signum: signal.Signals, status: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dcgan_jax.main", "--config=configs/toy_bedrooms.py", f"--workdir={tmp_path}/run"]
    command += [f"--config.data.cache_dir={tmp_path}/cache", "--config.data.num_examples=1000000"]
    # A shell that runs the tests in the background lets them, and what they start, ignore Ctrl-C.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        deadline = time.monotonic() + 120
        # Until the first images are on disk: all workers have started then.
        while sum(path.stat().st_size for path in tmp_path.glob("cache/*.building/images.npy")) < 10**6:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("cache/*.building"))


def test_train_sample_and_tensorboard(tmp_path: Path) -> None:
    """From images in a folder to samples in another, with TensorBoard files on the way."""
    source = tiny.image_folder(tmp_path / "images", count=8)
    workdir = tmp_path / "run"
    result = run(*TINY, f"--workdir={workdir}", f"--config.data.source={source}", "--config.num_steps=2")
    assert result.returncode == 0, result.stderr
    assert "step 2/2" in result.stdout
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 4
    (events,) = workdir.glob("events.out.tfevents.*")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(events), {"images": 0, "tensors": 0}).Reload()
    assert {"d_loss", "g_loss", "d_real", "d_fake", "samples"} <= set(accumulator.Tags()["tensors"])

    result = run(f"--workdir={workdir}", f"--out={tmp_path}/png", "--num=3", module="sample")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
    result = run(f"--workdir={workdir}", f"--out={tmp_path}/out", "--label=1", module="sample")
    assert result.returncode == 2
    assert "--label=1 is not one of the run's classes (none: the network is unconditional)" in result.stderr


def test_train_and_sample_without_what_training_can_do_without(tmp_path: Path) -> None:
    """Jax with what it brings, flax, optax, orbax, ml_collections, absl, numpy and Pillow are enough."""
    absent = (
        "array_record", "clu", "grain", "importlib_resources", "lmdb", "matplotlib", "pyarrow", "tensorboard",
        "tensorflow", "tensorflow_datasets", "tqdm",
    )  # fmt: skip
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {absent}: sys.modules[name] = None\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    source = tiny.image_folder(tmp_path / "images", count=8)
    train = [*TINY, f"--workdir={tmp_path}/run", f"--config.data.source={source}", "--config.num_steps=2"]
    result = run(*train, environment=environment)
    assert result.returncode == 0, result.stderr
    assert "Generator\nTotal: " in result.stdout and "step 2/2" in result.stdout
    result = run(
        f"--workdir={tmp_path}/run", f"--out={tmp_path}/png", "--num=1", module="sample", environment=environment
    )
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "png").iterdir())) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this disk that is always full")
def test_a_log_on_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    source = tiny.image_folder(tmp_path / "images", count=8)
    command = [*TINY, f"--workdir={tmp_path}/run", f"--config.data.source={source}", "--config.num_steps=3"]
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "dcgan_jax.main", *command], stdout=full, stderr=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1], timeout=300,
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "warning: stdout cannot be written (No space left on device); its lines are dropped." in process.stderr
    assert [row["step"] for row in run_folder.read_metrics(tmp_path / "run")][-1] == 3
    assert run_folder.latest_step(tmp_path / "run") == 3


def test_a_flag_that_is_a_field(tmp_path: Path) -> None:
    result = run("--config=configs/faces.py", f"--workdir={tmp_path}", "--batch_size=16")
    assert result.returncode == 2
    assert "Unknown command line flag 'batch_size'. Did you mean --config.batch_size?" in result.stderr


def test_a_config_outside_the_repository(tmp_path: Path) -> None:
    """It imports configs/default.py, and the command is given elsewhere."""
    shutil.copy(Path(__file__).parents[1] / "configs" / "faces.py", tmp_path / "mine.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    program = "import dcgan_jax; print(dcgan_jax.load_config('mine.py').batch_size)"
    process = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    assert process.returncode == 0 and process.stdout.strip() == "128", process.stderr


def test_deterministic_keeps_the_flags_that_are_set_and_gives_xla_none_that_it_does_not_know() -> None:
    """XLA ends a process with an unknown flag when JAX is first used."""
    code = (
        "import os; from dcgan_jax import machine; machine.repeat_exactly(); import jax; "
        "print(jax.device_count(), os.environ['XLA_FLAGS'])"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    devices, *flags = process.stdout.split()
    assert devices == "3" and "--xla_gpu_exclude_nondeterministic_ops=true" in flags
