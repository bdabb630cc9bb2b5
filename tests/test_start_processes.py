"""Which machines start several processes by themselves, and what the flags ask of jax.distributed."""

import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from dcgan_jax.machine import processes
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import make_mesh

SLURM = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
TIMEOUTS = {"initialization_timeout": 360, "heartbeat_timeout_seconds": 30}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Arguments that `jax.distributed.initialize` was called with; no cluster's variables are set."""
    for name in [*SLURM, *KUBERNETES, "SLURM_NTASKS", "TPU_WORKER_HOSTNAMES"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    received: list[tuple[Any, ...]] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: received.append((args, kwargs)))
    return received


@pytest.mark.parametrize(
    ("variables", "starts"),
    [
        ({}, False),
        (SLURM | {"SLURM_NTASKS": "8"}, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False),  # the batch script itself, not a step of srun
        (KUBERNETES, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a notebook in a cluster
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_clusters_start_without_flags(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], starts: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.start_processes()
    assert calls == ([((), TIMEOUTS)] if starts else [])


@pytest.mark.parametrize("switched_off", [False, True])
def test_tpu_hosts_ask_their_metadata_unless_that_is_switched_off(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, switched_off: bool
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "libtpu" or None)
    if switched_off:
        monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    else:
        monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    processes.start_processes()
    assert len(calls) == (0 if switched_off else 1)


def test_flags_come_first(calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM | {"SLURM_NTASKS": "8"}).items():
        monkeypatch.setenv(name, value)
    processes.start_processes("10.0.0.7:1234", 4, 3)
    assert calls == [(("10.0.0.7:1234", 4, 3), TIMEOUTS)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("10.0.0.7:1234", 0, -1), "go together"),
        (("", 4, 0), "go together"),
        (("10.0.0.7:1234", 4, 4), "process 4 of 4"),
        (("10.0.0.7", 4, 0), "coordinator '10.0.0.7'"),
    ],
)
def test_flags_that_make_no_sense(calls: list[tuple[Any, ...]], flags: tuple[str, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        processes.start_processes(*flags)
    assert calls == []


def test_others_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("DEADLINE_EXCEEDED: Failed to connect\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match=r"could not be joined \(DEADLINE_EXCEEDED: Failed to connect\)\. Start one"):
        processes.start_processes("10.0.0.7:1234", 2, 1)


@pytest.mark.parametrize("process_id", [0, 1])
def test_others_that_do_not_come(process_id: int) -> None:
    """In a process of its own, which ends; the first one is the coordinator."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = (
        "from dcgan_jax.machine import processes\n"
        "processes._JOIN_SECONDS = 1\n"
        f"processes.start_processes('localhost:{port}', 2, {process_id})\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 76
    assert ended.stderr.endswith(
        "error: not all processes of this run have started and found each other within 1 s. Start one on each host, "
        "with --coordinator=HOST:PORT of the first, which all must reach.\n"
    )


def test_what_tells_that_a_process_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "UNKNOWN: Gloo all-reduce failed: Connection closed by peer"
    gone = jax.errors.JaxRuntimeError(message)
    wrapped = ValueError("cannot be saved")
    wrapped.__cause__ = gone
    others = [
        ValueError("Barrier"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        OSError(28, "NCCL"),
    ]
    assert not processes.lost_peer(gone)  # it is a run of one process
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert processes.lost_peer(gone)
    assert processes.lost_peer(ValueError(message))  # as jitted functions raise it when they are called
    assert processes.lost_peer(wrapped)
    assert not any(map(processes.lost_peer, others))


def test_hosts_must_have_equally_many_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [SimpleNamespace(process_index=host, id=i) for i, host in enumerate([0, 0, 1, 0])]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(UserError, match=r"equally many devices, but there are 3 on host 0, 1 on host 1\."):
        make_mesh(8)
