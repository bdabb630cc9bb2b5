"""Runs of dcgan_jax.main in processes of their own, which tests kill; and runs that kill themselves at a chosen moment.

python -m tests.processes FAULT --config=... --workdir=...     FAULT is one of FAULTS

They write no TensorBoard files: TensorFlow takes longer to import than all the rest.
"""

import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp

from dcgan_jax import training
from dcgan_jax.machine import files
from dcgan_jax.runs import recorder, run_folder, run_log, trained
from dcgan_jax.runs.rollbacks import rollbacks


class Process(subprocess.Popen[str]):
    """A training process. A thread reads its output, so that the pipe is never full.

    A file would do as well, but for processes that may not write files: a limit stands for the full disk.
    """

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(
            command,
            cwd=Path(__file__).parents[1],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.stdout is not None
        for line in self.stdout:
            self._lines.append(line)

    def output(self) -> str:
        """What it has written so far, on stdout and stderr; all of it once it has ended."""
        if self.poll() is not None:
            self._reader.join()
        return "".join(self._lines)


_started: list[Process] = []


def end_all() -> None:
    """Kills what a test has started and not waited for."""
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()


def start(config: Path, workdir: Path, *flags: str, devices: int = 1, fault: str = "none") -> Process:
    """A training process on so many devices; ended with the test at the latest, see conftest.py."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_ENABLE_COMPILATION_CACHE": "true",  # as in production; the next ones start sooner
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "tests.processes", fault, f"--config={config}", f"--workdir={workdir}", *flags]
    _started.append(Process(command, environment))
    return _started[-1]


def start_all(
    count: int,
    config: Path,
    workdir: Path,
    *flags: str,
    own_flags: Sequence[Sequence[str]] = (),
    devices: int = 1,
    fault: str = "none",
) -> list[Process]:
    """`count` processes on this machine that train together, as on so many hosts with `devices` each.

    `own_flags`: more flags, of each process.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = (f"--coordinator=localhost:{port}", f"--num_processes={count}")
    own = own_flags or [()] * count
    return [
        start(config, workdir, *flags, *own[i], *together, f"--process_id={i}", devices=devices, fault=fault)
        for i in range(count)
    ]


def finish(process: Process, *statuses: int, timeout: float = 300) -> str:
    """Waits for a process, asserts its exit status, 0 or one of those given, and returns its output."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"still running after {timeout} s:\n{process.output()}") from None
    expected = statuses or (0,)
    assert process.returncode in expected, f"exit status {process.returncode}, not {expected}:\n{process.output()}"
    return process.output()


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


# --- Faults ----------------------------------------------------------------------------------------------------------


def die(*args: Any) -> NoReturn:
    """As by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def die_at(owner: Any, name: str) -> None:
    """Dies when owner.name is called."""
    die_when(owner, name, lambda *args: True)


def die_when(owner: Any, name: str, condition: Callable[..., bool]) -> None:
    """Dies when owner.name is called with arguments that meet the condition."""
    half_write(owner, name, condition, lambda *args: None)


def half_write(owner: Any, name: str, condition: Callable[..., bool], write: Callable[..., None]) -> None:
    """Calls `write` instead of owner.name when the arguments meet the condition, and dies."""
    function = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if condition(*args):
            write(*args)
            die()
        return function(*args, **kwargs)

    setattr(owner, name, call)


def compiling() -> None:
    """Dies 0.2 s after the first step is called."""
    make_step = training.make_mapped_step

    def make_slow_step(*args: Any) -> Any:
        step = make_step(*args)

        def call(*arguments: Any) -> Any:
            threading.Timer(0.2, die).start()
            return step(*arguments)

        return call

    training.make_mapped_step = make_slow_step  # type: ignore[assignment]


def half_a_line(log: run_log.RunLog, step: int, *rest: Any) -> None:
    with log._metrics.open("a") as file:
        file.write(f'{{"step": {step}, "d_lo')


def half_a_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".{path.name}.{os.getpid()}").write_bytes(content[: len(content) // 2])


def half_a_deletion(folder: Path) -> None:
    (folder / "default" / "manifest.ocdbt").unlink()


def diverge_once() -> None:
    """The state after step 4 is not finite, before any rollback."""
    make_sound_step = training.make_mapped_step

    def make_broken_step(gan: Any, mesh: Any, mapper: str, rollbacks: int) -> Any:
        step = make_sound_step(gan, mesh, mapper, rollbacks)

        def call(state: Any, *rest: Any) -> Any:
            state, metrics = step(state, *rest)
            if rollbacks == 0 and int(state.step) == 4:
                broken = jax.tree.map(lambda leaf: leaf * np.nan, state.generator.params)
                state = state.replace(generator=state.generator.replace(params=broken))
            return state, metrics

        return call

    training.make_mapped_step = make_broken_step  # type: ignore[assignment]


def collapse_once() -> None:
    """The sheets from step 3 on show samples that are all alike, before any rollback."""
    write_sheet = recorder.Recorder._write_sheet

    def write_sheet_alike(self: recorder.Recorder, step: int, state: Any) -> dict[str, float]:
        found = write_sheet(self, step, state)
        alike = 0.0 if step >= 3 and not rollbacks(self._workdir) else 1.0
        return found and {"diversity": alike}

    recorder.Recorder._write_sheet = write_sheet_alike  # type: ignore[method-assign]


# Where a run can be made to die. A checkpoint is written, gets its checksums, and then its name.
DEATHS: dict[str, Callable[[], None]] = {
    "packing": partial(die_when, Path, "write_text", lambda path, *_: path.name == "meta.json"),
    "compiling": compiling,
    "stepping": partial(die_when, recorder.Recorder, "after_call", lambda recorder, step, *_: step == 8),
    "half a line of metrics": partial(
        half_write, run_log.RunLog, "scalars", lambda log, step, *_: step == 8, half_a_line
    ),
    "half a sheet": partial(half_write, files, "write_atomically", lambda path, *_: path.suffix == ".png", half_a_file),
    "checkpoint before its checksums": partial(die_at, ocp.StandardCheckpointHandler, "finalize"),
    "checkpoint before its name": partial(
        half_write, files, "write_atomically", lambda path, *_: path.name == "SHA256SUMS", files.write_atomically
    ),
    "old checkpoint half deleted": partial(
        half_write, shutil, "rmtree", lambda folder, *_: Path(folder).suffix == ".deleted", half_a_deletion
    ),
}
FAULTS = {"none": lambda: None, "diverging once": diverge_once, "collapsing once": collapse_once, **DEATHS}


# --- Results ---------------------------------------------------------------------------------------------------------


def contents(workdir: Path) -> dict[str, Any]:
    """What must be the same bits however often a run was stopped: state, metrics, sheets, checkpoints."""
    leaves = jax.tree_util.tree_flatten_with_path(trained.load(workdir).state)[0]
    rows = [
        {name: row[name] for name in row if name != "images_per_second"} for row in run_folder.read_metrics(workdir)
    ]
    return {
        "state": {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves},
        "metrics": rows,
        "sheets": {path.name: path.read_bytes() for path in (workdir / "samples").iterdir() if path.name[0] != "."},
        "checkpoints": sorted(path.name for path in run_folder.checkpoints(workdir).iterdir()),
    }


if __name__ == "__main__":
    run_log._open_tensorboard = lambda workdir, warn: None  # type: ignore[assignment]
    FAULTS[sys.argv.pop(1)]()
    runpy.run_module("dcgan_jax.main", run_name="__main__", alter_sys=True)
