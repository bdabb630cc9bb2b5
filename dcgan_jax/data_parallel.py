"""Devices and hosts: the mesh, what is replicated and what is split over it, and how a step is mapped.

The state is replicated, the batch is split along its first axis, and gradients are averaged inside the step. Both
mappers run the same per-device function under the same axis name and give the same numbers.

On several hosts one process runs on each, all the same program. The first one alone writes logs and sheets.
"""

import functools
import importlib.util
import os
import re
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dcgan_jax.errors import UserError

AXIS = "data"
# A process that has not been heard of for this long counts as lost, and all others stop.
_HEARTBEAT_SECONDS = 30
# How long a process waits for all others to start, and what it gives JAX, which then aborts it, on top.
_JOIN_SECONDS, _GRACE_SECONDS = 300, 60


def start_processes(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the processes of a run on several hosts; must come before anything else of JAX.

    Without arguments it does so where the cluster says who takes part: on Cloud TPU, in Slurm steps of several tasks,
    and in Kubernetes jobs with completion indices; elsewhere it does nothing.

    Args:
      coordinator: HOST:PORT on which process 0 can be reached by all.
      num_processes: how many there are.
      process_id: which of them this one is, from 0.

    A process that the others have not joined after five minutes says so and ends with status 76.

    Raises:
      UserError: only some of the arguments are given, or they are refused.
    """
    given = [bool(coordinator), num_processes > 0, process_id >= 0]
    if any(given) and not all(given):
        raise UserError("--coordinator, --num_processes and --process_id go together: give all three, or none.")
    initialize = functools.partial(
        jax.distributed.initialize,
        initialization_timeout=_JOIN_SECONDS + _GRACE_SECONDS,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
    late = threading.Timer(_JOIN_SECONDS, _exit_alone)
    late.daemon = True
    late.start()
    try:
        if coordinator:
            if ":" not in coordinator or not process_id < num_processes:
                raise ValueError(f"process {process_id} of {num_processes}, coordinator {coordinator!r}")
            initialize(coordinator, num_processes, process_id)
        elif cluster_names_processes():
            initialize()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run could not be joined ({str(error).splitlines()[0]}). Start one on each host, "
            "with --coordinator=HOST:PORT of the first, --num_processes, and --process_id from 0 on."
        ) from error
    finally:
        late.cancel()


def _exit_alone() -> None:
    """In a thread of its own: JAX would wait on, and then abort."""
    print(
        f"error: not all processes of this run have started and found each other within {_JOIN_SECONDS} s. Start one "
        "on each host, with --coordinator=HOST:PORT of the first, which all must reach.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(os.EX_PROTOCOL)


def cluster_names_processes() -> bool:
    """Whether `jax.distributed.initialize` can find out by itself who takes part."""
    env = os.environ
    slurm = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= env.keys()
    if slurm and int(env.get("SLURM_NTASKS", "1")) > 1:
        return True
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        return True
    # TPU VMs answer from their metadata. JAX sets this variable where there are no chips; Colab and Kaggle do as well.
    tpu = importlib.util.find_spec("libtpu") is not None and "TPU_SKIP_MDS_QUERY" not in env
    return tpu or "," in env.get("TPU_WORKER_HOSTNAMES", "")


def lost_peer(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, means that another process of the run has stopped.

    Errors of JAX's runtime begin with a status, "UNKNOWN: Gloo all-reduce failed", but have one type or another; only
    their words tell which they are.
    """
    if not jax.distributed.is_initialized():
        return False
    words = ("Gloo", "NCCL", "Connection closed", "heartbeat", "oordination", "UNAVAILABLE", "Barrier")
    while error is not None:
        of_runtime = isinstance(error, jax.errors.JaxRuntimeError | ValueError) and re.match("[A-Z_]+: ", str(error))
        if of_runtime and any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def from_first_process(compute: Callable[[], int | None]) -> int | None:
    """What `compute` returns on process 0, where alone it is called, on all of them."""
    if jax.process_count() == 1:
        return compute()
    value = compute() if jax.process_index() == 0 else None
    found = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if value is None else value)))
    return None if found < 0 else found


def check_same(text: str, what: str, remedy: str) -> None:
    """Raises UserError unless all processes have the same text; `what` names it, `remedy` says what to do."""
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(np.uint32(zlib.crc32(text.encode())))
        if len(set(found.tolist())) > 1:
            raise UserError(f"the hosts do not have the same {what}. {remedy}")


def make_mesh(batch_size: int) -> Mesh:
    """A one-dimensional mesh over all devices of all hosts.

    Raises:
      UserError: the global batch cannot be split evenly, or hosts do not have equally many devices.
    """
    devices = jax.device_count()
    by_host = Counter(device.process_index for device in jax.devices())
    if len(set(by_host.values())) > 1:
        counts = ", ".join(f"{count} on host {host}" for host, count in sorted(by_host.items()))
        raise UserError(f"the hosts must have equally many devices, but there are {counts}. Use equal hosts.")
    if batch_size % devices:
        raise UserError(
            f"batch_size {batch_size} is not divisible by the {devices} devices: set --config.batch_size to a "
            f"multiple of {devices}, for example {max(1, round(batch_size / devices)) * devices}."
        )
    # By host: each one's part of the global batch is then in one piece, whatever the machines' wiring.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what all devices hold whole."""
    return NamedSharding(mesh, P())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Places a value that all hosts hold on every device."""
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated(mesh))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(leaf)), tree)


def across_hosts(tree: Any) -> Any:
    """The same replicated arrays as arrays of all hosts together; under pmap each host has its own."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, make_mesh(jax.device_count()), P())


def mean_over_devices(tree: Any, axis_name: str | None = AXIS) -> Any:
    """Means over a mapped axis, inside a mapped step; the tree itself if there is none or one device.

    A mean over one device would be a copy of everything in XLA's CPU back end.
    """
    return tree if axis_name is None or lax.axis_size(axis_name) == 1 else lax.pmean(tree, axis_name)


def map_step(step: Callable[..., tuple[Any, Any]], mesh: Mesh, mapper: str) -> Callable[..., tuple[Any, Any]]:
    """Maps per-device `step(state, pack, batches) -> (state, metrics)` over the mesh and compiles it.

    `state` and `pack` are replicated; leaves of `batches` [steps, batch, ...] are split along the batch. `mapper` is
    'shard_map', which reuses the memory of the old state (do not touch it again), or 'pmap', which keeps it.

    shard_map's replication check is off: it cannot see through the custom gradients of `conv.py`. Semantics are then
    those of pmap: gradients are local until the step averages them.
    """
    if mapper == "shard_map":
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P(), P(None, AXIS)), out_specs=(P(), P()), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=0, compiler_options=_compiler_options(mesh))
    return jax.pmap(step, AXIS, in_axes=(None, None, 1), out_axes=(None, None), devices=mesh.devices.tolist())


def _compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """On the CPU, jax 0.10 drops `lax.optimization_barrier` before it fuses, and so loses what `conv_gemm.py` stores.

    Without the pass that drops it, a step of the 64-pixel networks is a fifth to a quarter faster there. Later
    versions run that pass at the end.
    """
    if mesh.devices.flat[0].platform == "cpu" and jax.__version_info__ < (0, 11):
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return None


def shard_batches(mesh: Mesh, mapper: str, batches: dict[str, np.ndarray]) -> dict[str, Any]:
    """Places this host's slice of batches, leaves [steps, host_batch, ...], as the mapper wants it."""
    if mapper == "pmap":
        local = len(mesh.local_devices)
        return {name: values.reshape(len(values), local, -1, *values.shape[2:]) for name, values in batches.items()}
    sharding = NamedSharding(mesh, P(None, AXIS))
    return {name: jax.make_array_from_process_local_data(sharding, values) for name, values in batches.items()}
