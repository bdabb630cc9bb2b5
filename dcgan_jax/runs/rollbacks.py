"""What a run notes when it returns to a checkpoint, because it diverged or collapsed."""

import json
from pathlib import Path
from typing import Any, Literal

from dcgan_jax.machine import files
from dcgan_jax.runs import run_folder

Kind = Literal["divergence", "collapse"]
# What the step is called at which it was noticed.
_STEP_NAMES: dict[Kind, str] = {"divergence": "diverged_at", "collapse": "collapsed_at"}


def rollbacks(workdir: Path) -> list[dict[str, Any]]:
    """What `add_rollback` has noted, oldest first: 'kind', 'diverged_at' or 'collapsed_at', 'back_to', 'reason'.

    Earlier versions noted divergences only, without 'kind'.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        noted: list[dict[str, Any]] = files.read_json(run_folder.rollbacks_file(workdir), list)
    except files.Missing:
        return []
    if not all(isinstance(rollback, dict) and type(rollback.get("back_to", 0)) is int for rollback in noted):
        raise files.Damaged(run_folder.rollbacks_file(workdir), "it holds something else than rollbacks.")
    return noted


def add_rollback(workdir: Path, kind: Kind, step: int, back_to: int, reason: str) -> None:
    """Notes that a run goes back from `step` to the checkpoint of `back_to` (0: or to a fresh state).

    How often it did decides which random numbers it draws from then on, and how often after a collapse the
    discriminator's learning rate.
    """
    noted = {"kind": kind, _STEP_NAMES[kind]: step, "back_to": back_to, "reason": reason}
    _write_rollbacks(workdir, [*rollbacks(workdir), noted])


def rollbacks_before(workdir: Path, step: int) -> int:
    """How often a run that resumes from `step` had returned to a checkpoint when it was there.

    Those after the last return to `step` or an earlier one are forgotten: the run comes to them again, as it did when
    the checkpoints after `step` were not damaged yet.
    """
    noted = rollbacks(workdir)
    # Earlier versions did not note where they went back to.
    count = max((i for i, rollback in enumerate(noted, 1) if rollback.get("back_to", 0) <= step), default=0)
    if count < len(noted):
        _write_rollbacks(workdir, noted[:count])
    return count


def collapses(workdir: Path) -> int:
    """How many of the rollbacks that are noted were after a collapse."""
    return sum(rollback.get("kind") == "collapse" for rollback in rollbacks(workdir))


def _write_rollbacks(workdir: Path, noted: list[dict[str, Any]]) -> None:
    files.write_atomically(run_folder.rollbacks_file(workdir), (json.dumps(noted, indent=2) + "\n").encode())
