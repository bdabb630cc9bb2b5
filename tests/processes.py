"""Runs of dcgan_jax.main in processes of their own, which tests kill; and runs that kill themselves at a chosen moment.

python -m tests.processes FAULT --config=... --workdir=...     dies, as by kill -9, at FAULT, one of FAULTS; or not at
all: "none", and "diverging once", where the state after step 4 is not finite

They write no TensorBoard files: TensorFlow takes longer to import than all the rest.
"""

import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dcgan_jax import training
from dcgan_jax.datasets import pack
from dcgan_jax.reports import image_grid
from dcgan_jax.runs import checkpoint, recorder, run_folder, run_log, trained

# Where a run can be made to die.
FAULTS = (
    "packing",
    "compiling",
    "stepping",
    "half a line of metrics",
    "half a sheet",
    "checkpoint before its checksums",
    "checkpoint before its name",
    "old checkpoint half deleted",
)


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


def _die(*args: Any, **kwargs: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _arm(fault: str) -> None:
    """Patches the program so that it dies at `fault`."""
    import jax

    from dcgan_jax.runs import run_log

    if fault == "none":
        pass
    elif fault == "packing":
        pack._meta = _die  # type: ignore[assignment]  # when the arrays are there, and meta.json is not
    elif fault == "compiling":
        make_step = training.make_mapped_step

        def die_soon(*args: Any) -> Any:
            step = make_step(*args)

            def call(*arguments: Any) -> Any:
                threading.Timer(0.2, _die).start()
                return step(*arguments)

            return call

        training.make_mapped_step = die_soon  # type: ignore[assignment]
    elif fault == "stepping":
        recorder.Recorder.after_call = _when(lambda self, step, *rest: step == 8, recorder.Recorder.after_call)  # type: ignore[method-assign]
    elif fault == "half a line of metrics":

        def write_half(self: Any, step: int, *rest: Any) -> None:
            with self._metrics.open("a") as file:
                file.write(f'{{"step": {step}, "d_lo')
                file.flush()
                _die()

        scalars = run_log.RunLog.scalars
        run_log.RunLog.scalars = lambda self, step, *rest: (write_half if step == 8 else scalars)(self, step, *rest)  # type: ignore[method-assign]
    elif fault == "half a sheet":

        def save_half(path: Path, sheet: np.ndarray) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.{os.getpid()}").write_bytes(b"\x89PNG")
            _die()

        image_grid.save_png = save_half  # type: ignore[assignment]
    elif fault == "checkpoint before its checksums":
        checkpoint._Handler.finalize = _die  # type: ignore[method-assign]
    elif fault == "checkpoint before its name":
        finalize = checkpoint._Handler.finalize

        def finalize_and_die(self: Any, directory: Any) -> None:
            finalize(self, directory)
            _die()

        checkpoint._Handler.finalize = finalize_and_die  # type: ignore[method-assign]
    elif fault == "old checkpoint half deleted":

        def delete_half(folder: Path) -> None:
            renamed = checkpoint._rename_to_free(folder, "deleted")
            (renamed / "default" / "manifest.ocdbt").unlink()
            _die()

        checkpoint._delete = delete_half
    elif fault == "diverging once":
        make_sound_step = training.make_mapped_step

        def make_broken_step(config: Any, mesh: Any, rollbacks: int) -> Any:
            step = make_sound_step(config, mesh, rollbacks)

            def call(state: Any, *rest: Any) -> Any:
                state, metrics = step(state, *rest)
                if rollbacks == 0 and int(state.step) == 4:
                    broken = jax.tree.map(lambda leaf: leaf * np.nan, state.generator.params)
                    state = state.replace(generator=state.generator.replace(params=broken))
                return state, metrics

            return call

        training.make_mapped_step = make_broken_step
    else:
        raise ValueError(f"{fault!r} is not one of {FAULTS}")


def _when(condition: Any, function: Any) -> Any:
    return lambda *args: _die() if condition(*args) else function(*args)


def contents(workdir: Path) -> dict[str, Any]:
    """What must be the same bits however often a run was stopped: state, metrics, sheets, checkpoints."""
    import jax

    _, state = trained.load_run(workdir)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
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
    from dcgan_jax.runs import run_log

    run_log._open_tensorboard = lambda workdir, warn: None  # type: ignore[assignment]
    _arm(sys.argv.pop(1))
    runpy.run_module("dcgan_jax.main", run_name="__main__", alter_sys=True)
