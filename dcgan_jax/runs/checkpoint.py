"""Checkpoints: Orbax's files, written beside the training, checksummed, and which of them stay.

    checkpoints/<step>/default/             the state, as Orbax writes it
    checkpoints/<step>/default/SHA256SUMS   its checksums; `sha256sum --check SHA256SUMS` verifies them anywhere
    checkpoints/<step>.damaged/             one that failed its checksums, moved aside
    checkpoints/<step>.collapsed/           one that a run left behind when it went back after a collapse

A checkpoint gets its name, in one rename, when all of it is on the disk; until then, and again when it is deleted, it
has a longer name that nobody reads. So a process may be killed at any moment.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dcgan_jax.machine import files, processes
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import across_hosts
from dcgan_jax.runs import collapse, run_folder
from dcgan_jax.train_state import GANState, counts_for_decay, with_counts_for_decay

_ITEM = "default"
_CHECKSUMS = "SHA256SUMS"
_COMMITTED = "commit_success.txt"  # which Orbax adds at the very end
_COLLAPSED = "collapsed"
_UNFINISHED = ("*.orbax-checkpoint-tmp*", "*.deleted")
# Saves that may fail one after the other, for example on a full disk, before the run stops.
MOST_FAILURES = 3
# A save that takes longer has failed. On several hosts the others wait this long for one that could not write its part.
_SAVE_SECONDS = 120
# Orbax raises the errors of a save one at a time, whenever it is asked; the next save must not fail for this one's.
_MOST_ERRORS = 10


class Checkpoints:
    """The checkpoints of a run in training; one process at a time. A context: leaving it waits for the last save.

    On several hosts all of them call `save`, and each writes its part; the folder is one that they share.
    """

    def __init__(
        self,
        workdir: Path,
        last_step: int | None = None,
        keep_latest: int = 1,
        keep_every: int = 0,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Removes what a killed process left unfinished.

        Args:
          workdir: the run's folder.
          last_step: that of the checkpoint which the run starts from.
          keep_latest: how many of the newest stay. The best one of a run with evaluations stays as well.
          keep_every: those of its multiples stay too; 0: none.
          warn: told of saves that failed; may be called from another thread.
        """
        self._workdir, self._last_step, self._warn = workdir, last_step, warn
        self._keep_latest, self._keep_every = keep_latest, keep_every
        self._failures = 0  # one after the other
        self._last_failure: tuple[int, Exception] | None = None  # of the last save, if it failed
        if processes.is_first():
            run_folder.checkpoints(workdir).mkdir(parents=True, exist_ok=True)
            _remove_unfinished(workdir)
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        registry.add(_ITEM, ocp.args.StandardSave, _Handler())
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(handler_registry=registry), timeout_secs=_SAVE_SECONDS
        )
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            self._checkpointer.close()
        if kind is None:
            self._raise_failure()

    def save(self, state: GANState, *, block: bool = False, first_signs: Collection[int] = ()) -> None:
        """Starts to save a state under its own step, after waiting for the save before; nothing if it is there already.

        The state is copied on the device first, so the next training step may reuse its memory. A save that fails is
        a warning: older checkpoints stay, and training continues.

        Args:
          state: replicated over the devices.
          block: wait until it is saved, and raise if it cannot be.
          first_signs: steps at which signs of a collapse began; the checkpoints of before each of them that the run may
            go back to then stay.

        Raises:
          UserError: MOST_FAILURES saves have failed one after the other, or this one with `block`.
          JaxRuntimeError: likewise, because another process of the run is gone.
        """
        self.wait()
        self.check()
        step = int(state.step)
        if step == self._last_step:
            return
        self._last_step = step
        try:
            self._checkpointer.save(
                run_folder.checkpoint(self._workdir, step).absolute(),
                args=ocp.args.Composite(**{_ITEM: ocp.args.StandardSave(across_hosts(self._copy(state)))}),
            )
        except Exception as error:  # whatever the disk, the file system or another host did
            self._note_failure(step, error)
        else:
            self._pending = self._pool.submit(self._finish, step, first_signs)
        if block:
            self.wait()
            self._raise_failure()

    def _finish(self, step: int, first_signs: Collection[int]) -> None:
        """In a thread of its own: waits for the files of a save, then deletes checkpoints that need not stay."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            self._note_failure(step, error)
            return
        self._failures, self._last_failure = 0, None
        if processes.is_first():
            try:
                steps = run_folder.steps(self._workdir)
                for old in set(steps) - self._staying(steps, first_signs):
                    _delete(run_folder.checkpoint(self._workdir, old))
            except (OSError, UserError) as error:
                self._warn(f"warning: old checkpoints could not be deleted ({_first_line(error)}).")

    def _staying(self, steps: list[int], first_signs: Collection[int]) -> set[int]:
        every = {step for step in steps if self._keep_every and step % self._keep_every == 0}
        staying = {*steps[-self._keep_latest :], *every, *run_folder.best_steps(self._workdir, steps)}
        ways_back = {collapse.way_back(self._workdir, steps, since) for since in first_signs}
        return staying | {step for step in ways_back if step is not None}

    def _note_failure(self, step: int, error: Exception) -> None:
        self._failures, self._last_failure = self._failures + 1, (step, error)
        self._last_step = None
        for _ in range(_MOST_ERRORS):
            with contextlib.suppress(Exception):
                self._checkpointer.wait_until_finished()
                break
        if processes.is_first():
            _remove_unfinished(self._workdir)  # frees the disk that is perhaps full
        kept = run_folder.latest_step(self._workdir)
        kept_text = "no checkpoint is there yet" if kept is None else f"the checkpoint of step {kept} is kept"
        self._warn(f"warning: step {step} could not be saved ({_first_line(error)}); {kept_text}, training continues.")

    def wait(self) -> None:
        """Waits for the save under way, whether or not it succeeds."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raises as `save` does if too many have failed, without waiting for the one under way."""
        if self._failures >= MOST_FAILURES:
            self._raise_failure()

    def failure(self) -> str:
        """Which state could not be saved, and why; '' if the last save that has ended did not fail."""
        if self._last_failure is None:
            return ""
        step, error = self._last_failure
        times = f"{self._failures} saves in a row have failed: " if self._failures > 1 else ""
        folder = run_folder.checkpoints(self._workdir)
        return f"{times}the state after step {step} could not be saved in {folder} ({_first_line(error)})"

    def _raise_failure(self) -> None:
        if self._last_failure is None:
            return
        error = self._last_failure[1]
        if processes.lost_peer(error):
            raise error
        raise UserError(
            f"{self.failure()}. Make room, or repair the folder; the same command continues from the newest checkpoint."
        ) from error


def newest_intact(workdir: Path, warn: Callable[[str], None], *, set_aside: bool = False) -> int | None:
    """Step of the newest checkpoint that matches its checksums; None if the run has no checkpoint.

    Args:
      workdir: the run's folder.
      warn: told of every damaged one.
      set_aside: rename damaged ones, so that training can save under their steps again.

    Raises:
      UserError: there are checkpoints, and all are damaged.
    """
    steps = run_folder.steps(workdir)
    damaged: list[Path] = []
    for step in reversed(steps):
        folder = run_folder.checkpoint(workdir, step)
        damage = find_damage(folder)
        if damage and step not in run_folder.steps(workdir):  # a run in training deleted it, and has a newer one
            return newest_intact(workdir, warn, set_aside=set_aside)
        if damage is None:
            for one in damaged if set_aside else []:  # only now: a run whose checkpoints are all gone would start over
                _rename_to_free(one, "damaged")
            return step
        damaged.append(folder)
        warn(
            f"WARNING: the checkpoint of step {step} is damaged: {damage}. "
            f"{'It is moved aside; the' if set_aside else 'The'} previous one is used."
        )
    if damaged:
        raise UserError(
            f"all checkpoints in {run_folder.checkpoints(workdir)} are damaged. Restore one from a copy, or choose "
            "another --workdir to start again."
        )
    return None


def set_collapsed_aside(workdir: Path, back_to: int | None) -> None:
    """Renames all checkpoints after step `back_to` (None: all there are). The run then resumes from that step.

    The newest is renamed first. If this is interrupted, the run resumes from the newest that is left, and collapses
    again.
    """
    for step in reversed(run_folder.steps(workdir)):
        if back_to is None or step > back_to:
            _rename_to_free(run_folder.checkpoint(workdir, step), _COLLAPSED)


def any_collapsed(workdir: Path) -> bool:
    """Whether `set_collapsed_aside` has renamed a checkpoint of the run."""
    return any(run_folder.checkpoints(workdir).glob(f"*.{_COLLAPSED}"))


def restore(workdir: Path, step: int, abstract: GANState, mesh: Mesh) -> GANState:
    """The state of a checkpoint, replicated over the mesh.

    Args:
      workdir: the run's folder.
      step: a step with a checkpoint.
      abstract: shapes and dtypes of the state, from `jax.eval_shape`.
      mesh: any number of devices and hosts, not only that of the run that saved.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    folder = run_folder.checkpoint(workdir, step)
    _check_exists(workdir, step)
    sharding, counted = NamedSharding(mesh, P()), counts_for_decay(abstract)
    try:
        saved = _with_counts(folder, abstract)
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved)
        with ocp.StandardCheckpointer() as checkpointer:
            found: GANState = checkpointer.restore((folder / _ITEM).absolute(), target)
            return found if counts_for_decay(found) == counted else with_counts_for_decay(found, counted)
    except Exception as error:  # Orbax has no type for a damaged file; what it raises depends on which one it is
        if processes.lost_peer(error):
            raise
        _check_exists(workdir, step)  # a run in training may have deleted it meanwhile
        raise UserError(
            f"the checkpoint {folder} cannot be read, it may be damaged ({_first_line(error)}). Move that folder away "
            "to use the one before."
        ) from error


def _with_counts(folder: Path, abstract: GANState) -> GANState:
    """The state with counts for decaying learning rates if the checkpoint has them, without if it has not."""
    names = json.loads((folder / _ITEM / "_METADATA").read_text())["tree_metadata"]
    counted = str(("generator", "opt_state", "1", "1", "count")) in names
    return abstract if counts_for_decay(abstract) == counted else with_counts_for_decay(abstract, counted)


def _check_exists(workdir: Path, step: int) -> None:
    steps = run_folder.steps(workdir)
    if step not in steps:
        available = ", ".join(map(str, steps)) or "none"
        folder = run_folder.checkpoints(workdir)
        raise UserError(f"{folder} has no checkpoint of step {step} (available steps: {available}).")


def find_damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None if they match their checksums.

    One without checksums, written by another program, passes.
    """
    item = folder / _ITEM
    if not (item / "_METADATA").is_file():
        return "_METADATA is missing"
    try:
        lines = (item / _CHECKSUMS).read_text().splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        return f"{_CHECKSUMS} cannot be read ({_first_line(error)})"
    try:
        found = dict(_checksums(item))
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    listed = {line.partition("  ")[2] for line in lines}
    if lines and (more := sorted(found.keys() - listed - {_COMMITTED})):
        return f"{_CHECKSUMS} is cut short, {more[0]} is not in it"
    for line in lines:
        checksum, _, name = line.partition("  ")
        if name not in found:
            return f"{name or _CHECKSUMS} is {'missing' if name else 'cut short'}"
        if found[name] != checksum:
            return f"{name} does not match its checksum"
    return None if lines else f"{_CHECKSUMS} is empty"


class _Handler(ocp.StandardCheckpointHandler):
    """Orbax's, which also writes checksums before the checkpoint gets its name."""

    def finalize(self, directory: Any) -> None:
        """Called on the first host when all hosts have written their parts."""
        super().finalize(directory)
        folder = Path(directory)
        text = "".join(f"{checksum}  {name}\n" for name, checksum in _checksums(folder, flush=True))
        files.write_atomically(folder / _CHECKSUMS, text.encode())


def _checksums(folder: Path, *, flush: bool = False) -> Iterable[tuple[str, str]]:
    """(relative name, SHA-256) of every file; `flush`: each is then on the disk, not only in the system's cache."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _CHECKSUMS:
            with path.open("rb") as file:
                if flush:
                    os.fsync(file)
                yield path.relative_to(folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()


def _remove_unfinished(workdir: Path) -> None:
    for pattern in _UNFINISHED:
        for folder in run_folder.checkpoints(workdir).glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def _delete(folder: Path) -> None:
    shutil.rmtree(_rename_to_free(folder, "deleted"), ignore_errors=True)


def _rename_to_free(folder: Path, suffix: str) -> Path:
    """Renames <step> to <step>.suffix, or <step>-2.suffix if that is taken."""
    target, number = folder.with_name(f"{folder.name}.{suffix}"), 2
    while target.exists():
        target, number = folder.with_name(f"{folder.name}-{number}.{suffix}"), number + 1
    return folder.rename(target)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
