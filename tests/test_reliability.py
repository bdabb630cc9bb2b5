"""Runs that are killed, damaged or out of disk: the same command must end where a run without faults ends.

docs/reliability.md has what was measured, with the commands.
"""

import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from dcgan_jax.runs import run_folder
from tests import processes, tiny
from tests.test_checkpoint import flip_a_bit


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps on 20 images in batches of 8, with a save, a sheet and an evaluation now and then."""
    folder = tmp_path_factory.mktemp("config")
    source = tiny.image_folder(folder / "images", count=20)
    return tiny.write_config(
        folder,
        {
            "data.source": source,
            "data.cache_dir": str(folder / "cache"),
            "num_steps": 12,
            "checkpoint_every": 4,
            "sample_every": 5,
            "keep_checkpoints": 2,
            "ema_decay": 0.9,
            "eval_every": 8,
            "eval.num_samples": 16,
            "eval.metrics": ("features",),
        },
    )


@pytest.fixture(scope="module")
def straight_workdir(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run without faults was."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    processes.finish(processes.start(config, workdir))
    return workdir


@pytest.fixture(scope="module")
def straight(straight_workdir: Path) -> dict[str, Any]:
    """What it leaves behind."""
    left = processes.contents(straight_workdir)
    assert [row["step"] for row in left["metrics"]] == list(range(1, 13))
    assert (len(left["sheets"]), left["checkpoints"]) == (3, ["12", "8"])
    return left


_QUICK = "checkpoint before its name"  # stands for the others, which take as long each


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault == _QUICK else pytest.mark.long) for fault in processes.DEATHS]
)
def test_killed_at_the_worst_moment(config: Path, straight: dict[str, Any], tmp_path: Path, fault: str) -> None:
    flags = [f"--config.data.cache_dir={tmp_path / 'cache'}"] if fault == "packing" else []
    processes.finish(processes.start(config, tmp_path / "run", *flags, fault=fault), -signal.SIGKILL)
    processes.finish(processes.start(config, tmp_path / "run", *flags))
    assert processes.contents(tmp_path / "run") == straight
    if flags:
        assert [path.suffix for path in (tmp_path / "cache").rglob("*") if path.suffix == ".building"] == []


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    config: Path, straight_workdir: Path, straight: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(straight_workdir, tmp_path, dirs_exist_ok=True)
    flip_a_bit(run_folder.checkpoint(tmp_path, 12))
    output = processes.finish(processes.start(config, tmp_path))
    assert "WARNING: the checkpoint of step 12 is damaged" in output
    assert "resumed at step 8" in output
    left = processes.contents(tmp_path)
    assert left.pop("checkpoints") == ["12", "12.damaged", "8"]
    assert left == {name: straight[name] for name in left}


def test_sigterm_saves_and_asks_to_be_started_again(config: Path, straight: dict[str, Any], tmp_path: Path) -> None:
    process = processes.start(config, tmp_path, "--config.num_steps=100000")
    processes.wait_for(lambda: len(run_folder.read_metrics(tmp_path)) >= 3)
    process.terminate()
    output = processes.finish(process, 75)
    step = run_folder.latest_step(tmp_path)
    assert f"stopped by SIGTERM; step {step} is saved. The same command continues the run." in output
    assert len(run_folder.read_metrics(tmp_path)) == step


def test_two_runs_in_one_folder_are_refused(config: Path, tmp_path: Path) -> None:
    with run_folder.lock(tmp_path):
        output = processes.finish(processes.start(config, tmp_path), 2)
    assert output.endswith(
        f"error: another process is training in {tmp_path}: wait for it, stop it, or choose another --workdir.\n"
    )


@pytest.mark.long
def test_a_full_disk_ends_the_run_after_three_saves_and_loses_nothing(config: Path, tmp_path: Path) -> None:
    """A limit on the size of files makes the system refuse to write, as a full disk does."""
    flags = ["--config.num_steps=1000", "--config.checkpoint_every=50", "--config.eval_every=0"]
    process = processes.start(config, tmp_path / "full", *flags)
    processes.wait_for(lambda: run_folder.latest_step(tmp_path / "full") is not None)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, hard))
    output = processes.finish(process, 2)
    assert output.count("could not be saved") >= 3
    assert "training continues" in output
    assert "ERROR:absl" not in output  # Orbax's
    assert "error: 3 saves in a row have failed" in output
    kept = run_folder.latest_step(tmp_path / "full")
    assert kept is not None
    assert f"the checkpoint of step {kept} is kept" in output

    output = processes.finish(processes.start(config, tmp_path / "full", *flags))
    assert f"resumed at step {kept}" in output
    processes.finish(processes.start(config, tmp_path / "straight", *flags))
    assert processes.contents(tmp_path / "full") == processes.contents(tmp_path / "straight")


@pytest.mark.long
def test_killed_at_twenty_random_moments(config: Path, tmp_path: Path) -> None:
    """A longer run with saves and sheets all the time. Moments are spread over starting, compiling and stepping."""
    flags = ["--config.num_steps=3000", "--config.checkpoint_every=15", "--config.sample_every=10"]
    flags += ["--config.eval_every=300"]
    processes.finish(processes.start(config, tmp_path / "straight", *flags))
    rng, kills, lost = random.Random(0), 0, []
    while kills < 20:
        process = processes.start(config, tmp_path / "killed", *flags)
        first = run_folder.latest_step(tmp_path / "killed") or 0
        begin, moment = time.monotonic(), rng.uniform(0, 10)
        while time.monotonic() < begin + moment and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, processes.finish(process)  # ended by itself: the run is too short
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        rows = run_folder.read_metrics(tmp_path / "killed")
        reached, saved = max([0, *(row["step"] for row in rows)]), run_folder.latest_step(tmp_path / "killed") or 0
        lost.append(max(0, reached - max(saved, first)))
        print(f"kill {kills} after {moment:.1f} s: at step {reached}, checkpoint {saved}")
    processes.finish(processes.start(config, tmp_path / "killed", *flags))
    assert processes.contents(tmp_path / "killed") == processes.contents(tmp_path / "straight")
    print(f"steps to be made again: at most {max(lost)}")
