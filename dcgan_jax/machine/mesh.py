"""Devices and hosts: the mesh, what is replicated and what is split over it, and how a step is mapped.

The state is replicated, the batch is split along its first axis, and gradients are averaged inside the step. Both
mappers run the same per-device function under the same axis name and give the same numbers.

On several hosts one process runs on each, all the same program. The first one alone writes logs and sheets.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dcgan_jax.machine.errors import UserError

AXIS = "data"
# Values of the largest array that shares a collective with others, see `mean_over_devices`.
_SMALL = 1 << 14


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


def on_first_device(tree: Any) -> Any:
    """Replicated arrays, or a part of them, as they lie on the first device of this host."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)


def across_hosts(tree: Any) -> Any:
    """The same replicated arrays as arrays of all hosts together; under pmap each host has its own."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, make_mesh(jax.device_count()), P())


def mean_over_devices(tree: Any, axis_name: str | None = AXIS) -> Any:
    """Means over a mapped axis, inside a mapped step; the tree itself if there is none or one device.

    A mean over one device would be a copy of everything in XLA's CPU back end. Leaves of up to _SMALL values share one
    collective, which costs its latency only once.
    """
    if axis_name is None or lax.axis_size(axis_name) == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    small = [i for i, leaf in enumerate(leaves) if leaf.size <= _SMALL]
    if len(small) > 1:
        flat = lax.pmean(jnp.concatenate([leaves[i].ravel() for i in small]), axis_name)
        ends = np.cumsum([leaves[i].size for i in small]).tolist()
        for i, begin, end in zip(small, [0, *ends], ends, strict=False):
            leaves[i] = flat[begin:end].reshape(leaves[i].shape)
    large = [i for i, leaf in enumerate(leaves) if leaf.size > _SMALL or len(small) == 1]
    for i, mean in zip(large, lax.pmean([leaves[i] for i in large], axis_name), strict=True):
        leaves[i] = mean
    return jax.tree.unflatten(structure, leaves)


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
