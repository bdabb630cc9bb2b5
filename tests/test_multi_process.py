"""Several processes here, as on several hosts: equal to one process, stopping together, resuming on others."""

import os
import signal
import time
from pathlib import Path

import pytest

from dcgan_jax.runs import run_folder
from dcgan_jax.runs.rollbacks import rollbacks
from tests import processes, tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps on 20 images in batches of 8, and an evaluation."""
    folder = tmp_path_factory.mktemp("config")
    source = tiny.image_folder(folder / "images", count=20)
    cache = str(folder / "cache")
    return tiny.write_config(
        folder,
        {
            "data.source": source,
            "data.cache_dir": cache,
            "num_steps": 6,
            "sample_every": 3,
            "eval_every": 6,
            "eval.num_samples": 16,
            "eval.metrics": ("features",),
        },
    )


@pytest.fixture(scope="module")
def alone(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with two devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    processes.finish(processes.start(config, workdir, devices=2))
    return workdir


def train_together(count: int, config: Path, workdir: Path, *flags: str, devices: int = 1) -> list[str]:
    started = processes.start_all(count, config, workdir, *flags, devices=devices)
    return [processes.finish(process) for process in started]


def largest_difference(a: Path, b: Path) -> float:
    """Between metrics, relative, over all steps that both have written."""
    rows, others = ({row["step"]: row for row in run_folder.read_metrics(folder)} for folder in (a, b))
    assert max(rows) == max(others)
    assert len(rows.keys() & others.keys()) >= 3
    return max(
        abs(rows[step][name] - others[step][name]) / max(abs(others[step][name]), 1e-6)
        for step in rows.keys() & others.keys()
        for name in ("d_loss", "g_loss", "d_real", "d_fake", "d_grad_norm", "g_grad_norm")
    )


def test_two_processes_are_one_run(config: Path, alone: Path, tmp_path: Path) -> None:
    """Two processes with a device each do exactly what one process with two devices does."""
    outputs = train_together(2, config, tmp_path)
    assert "step 6/6" in outputs[0] and "step" not in outputs[1].replace("step_", "")  # one of them tells
    assert processes.contents(tmp_path) == processes.contents(alone)


@pytest.mark.long
def test_two_processes_begin_with_the_weights_of_another_run(config: Path, alone: Path, tmp_path: Path) -> None:
    """As one process does, here with averaged weights, whose statistics are computed when they are taken."""
    averaged = ["--config.ema_decay=0.9", "--config.num_steps=3"]
    processes.finish(processes.start(config, tmp_path / "other", *averaged, devices=2))
    flags = [f"--init_from={tmp_path}/other", "--config.seed=1", "--config.model.discriminator.freeze=1", *averaged]
    processes.finish(processes.start(config, tmp_path / "one", *flags, devices=2))
    outputs = train_together(2, config, tmp_path / "two", *flags)
    assert "start    generator: 11 of 11 tensors of" in outputs[0]
    assert processes.contents(tmp_path / "two") == processes.contents(tmp_path / "one")
    assert processes.contents(tmp_path / "two")["state"] != processes.contents(tmp_path / "other")["state"]

    own = [[f"--init_from={tmp_path}/other"], [f"--init_from={alone}"]]
    for output in (processes.finish(p, 2) for p in processes.start_all(2, config, tmp_path / "three", own_flags=own)):
        assert "the hosts do not have the same configuration. Give all of them the same command." in output


@pytest.mark.long
@pytest.mark.parametrize(
    "flags",
    [
        ["--config.mapper=pmap"],
        ["--config.data.placement=device"],
        [
            "--config.data.placement=device",
            "--config.steps_per_call=2",
            "--config.log_every=2",
            "--config.sample_every=2",
        ],
        ["--config.model.cross_replica_norm=False"],
    ],
    ids=lambda flags: " ".join(flags).replace("--config.", ""),
)
def test_two_processes_in_every_mode(config: Path, tmp_path: Path, flags: list[str]) -> None:
    train_together(2, config, tmp_path / "two", *flags)
    processes.finish(processes.start(config, tmp_path / "one", *flags, devices=2))
    assert largest_difference(tmp_path / "two", tmp_path / "one") < 1e-4


@pytest.mark.long
def test_four_processes_and_a_resume_on_two_and_one(config: Path, alone: Path, tmp_path: Path) -> None:
    """Each number of processes goes on from the checkpoint of another, up to float rounding."""
    for count, steps in ((4, 2), (2, 4), (1, 6)):
        train_together(count, config, tmp_path, f"--config.num_steps={steps}", devices=1 if count > 1 else 2)
    assert [row["step"] for row in run_folder.read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert largest_difference(tmp_path, alone) < 1e-3


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.long)])
def test_when_one_process_is_killed_the_others_stop(config: Path, tmp_path: Path, killed: int) -> None:
    flags = ("--config.num_steps=100000", "--config.checkpoint_every=20", "--config.eval_every=0")
    started = processes.start_all(2, config, tmp_path, *flags)
    processes.wait_for(lambda: run_folder.latest_step(tmp_path) is not None)
    os.kill(started[killed].pid, signal.SIGKILL)
    begin = time.monotonic()
    other = started[1 - killed]
    output = processes.finish(other, 76, -signal.SIGABRT, timeout=60)
    # The first line is ours, the second that of JAX's runtime, which ends the process itself when it is faster.
    if "another process of this run is gone" in output:
        assert other.returncode == 76
        assert "Traceback" in output  # in case it was something else
    else:
        assert "another task died" in output and other.returncode == -signal.SIGABRT, output
    print(f"stopped after {time.monotonic() - begin:.1f} s")
    step = run_folder.latest_step(tmp_path)
    assert step is not None
    output = processes.finish(processes.start(config, tmp_path, f"--config.num_steps={step + 3}"))
    assert f"resumed at step {step}" in output


@pytest.mark.parametrize("moment", ["stepping", pytest.param("compiling", marks=pytest.mark.long)])
def test_sigterm_to_one_process_stops_all_after_the_same_step(config: Path, tmp_path: Path, moment: str) -> None:
    started = processes.start_all(2, config, tmp_path, "--config.num_steps=100000")
    if moment == "stepping":
        processes.wait_for(lambda: len(run_folder.read_metrics(tmp_path)) >= 5)
    else:
        processes.wait_for(lambda: "running  from the start" in started[0].output())
    started[1].terminate()
    outputs = [processes.finish(process, 75) for process in started]
    step = run_folder.latest_step(tmp_path)
    assert step is not None
    assert step > 5 if moment == "stepping" else step == 1
    assert all(f"stopped by SIGTERM; step {step} is saved" in output for output in outputs)
    assert run_folder.read_metrics(tmp_path)[-1]["step"] == step


def test_processes_that_cannot_be_joined(config: Path, tmp_path: Path) -> None:
    output = processes.finish(processes.start(config, tmp_path, "--num_processes=2"), 2)
    assert "error: --coordinator, --num_processes and --process_id go together: give all three, or none." in output


def test_processes_with_other_configs_are_refused(config: Path, tmp_path: Path) -> None:
    flags = ("--config.seed=1",), ("--config.seed=2",)
    outputs = [processes.finish(process, 2) for process in processes.start_all(2, config, tmp_path, own_flags=flags)]
    for output in outputs:
        assert "error: the hosts do not have the same configuration. Give all of them the same command." in output


@pytest.mark.long
def test_two_processes_go_back_together(config: Path, tmp_path: Path) -> None:
    """They do exactly what one process with two devices does that diverges at the same step."""
    flags = ["--config.checkpoint_every=2", "--config.on_nonfinite=rollback"]
    started = processes.start_all(2, config, tmp_path / "two", *flags, fault="diverging once")
    outputs = [processes.finish(process) for process in started]
    assert "Going back, rollback 1 of 3." in outputs[0]
    processes.finish(processes.start(config, tmp_path / "one", *flags, devices=2, fault="diverging once"))
    assert processes.contents(tmp_path / "two") == processes.contents(tmp_path / "one")
    assert [rollback["back_to"] for rollback in rollbacks(tmp_path / "two")] == [2]


@pytest.mark.long
def test_two_processes_go_back_together_after_a_collapse(config: Path, tmp_path: Path) -> None:
    """Only the first has seen the sheets."""
    flags = ["--config.checkpoint_every=2", "--config.sample_every=1", "--config.on_collapse=rollback"]
    started = processes.start_all(2, config, tmp_path / "two", *flags, fault="collapsing once")
    outputs = [processes.finish(process) for process in started]
    assert "Going back to step 2, rollback 1 of 3." in outputs[0]
    processes.finish(processes.start(config, tmp_path / "one", *flags, devices=2, fault="collapsing once"))
    assert processes.contents(tmp_path / "two") == processes.contents(tmp_path / "one")
    assert [(noted["kind"], noted["back_to"]) for noted in rollbacks(tmp_path / "two")] == [("collapse", 2)]
