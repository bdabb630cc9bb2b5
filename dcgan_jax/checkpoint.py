"""Orbax checkpoints: set-up, start rule, save and restore."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dcgan_jax import run_folder
from dcgan_jax.errors import UserError
from dcgan_jax.train_state import GANState


def open_checkpoints(workdir: Path, keep: int | None = None) -> ocp.CheckpointManager:
    """The checkpoints of a run, of which the newest `keep` stay (None: all). A half-written one is never listed.

    Saving blocks until the files are in place: the training step reuses the state's memory.
    """
    options = ocp.CheckpointManagerOptions(
        preservation_policy=None if keep is None else ocp.checkpoint_managers.LatestN(keep),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=keep is not None,
        create=keep is not None,
    )
    return ocp.CheckpointManager(run_folder.checkpoints(workdir).absolute(), options=options)


def save(manager: ocp.CheckpointManager, state: GANState) -> None:
    """Saves under the state's own step; does nothing if that step is there already."""
    step = int(state.step)
    if step not in manager.all_steps():
        manager.save(step, args=ocp.args.StandardSave(state), force=True)


def restore(manager: ocp.CheckpointManager, abstract: GANState, mesh: Mesh, step: int | None = None) -> GANState:
    """The state of `step` (None: the latest), replicated over the mesh.

    Args:
      manager: of `open_checkpoints`.
      abstract: shapes and dtypes of the state, from `jax.eval_shape`.
      mesh: any number of devices, not only that of the run that saved.
      step: a step with a checkpoint.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    steps = manager.all_steps()
    step = max(steps, default=None) if step is None else step
    if step is None or step not in steps:
        available = ", ".join(map(str, sorted(steps))) or "none"
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise UserError(f"{manager.directory} has {wanted} (available steps: {available}).")
    sharding = NamedSharding(mesh, P())
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract)
    try:
        return manager.restore(step, args=ocp.args.StandardRestore(target))
    except Exception as error:  # Orbax has no type for a damaged file; what it raises depends on which one it is
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"the checkpoint {manager.directory / str(step)} cannot be read, it may be damaged ({reason}). Move that "
            "folder away to use the one before."
        ) from error
