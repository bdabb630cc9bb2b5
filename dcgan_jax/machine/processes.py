"""The processes of a run on several hosts: how they find each other, agree, and notice that one is gone."""

import functools
import importlib.util
import os
import re
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dcgan_jax.machine.errors import UserError

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


def is_first() -> bool:
    """Whether this is the process that writes logs, sheets and the files of the run's folder."""
    return jax.process_index() == 0


def from_first_process(compute: Callable[[], int | None]) -> int | None:
    """What `compute` returns on process 0, where alone it is called, on all of them."""
    if jax.process_count() == 1:
        return compute()
    value = compute() if is_first() else None
    found = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if value is None else value)))
    return None if found < 0 else found


def arrays_from_first_process(arrays: Any) -> Any:
    """A tree of arrays with the numbers of process 0, on all of them; each gives one of the same shapes."""
    return arrays if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(arrays)


def check_same(text: str, what: str, remedy: str) -> None:
    """Raises UserError unless all processes have the same text; `what` names it, `remedy` says what to do."""
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(np.uint32(zlib.crc32(text.encode())))
        if len(set(found.tolist())) > 1:
            raise UserError(f"the hosts do not have the same {what}. {remedy}")
