"""What a run notes when it diverges and returns to its last checkpoint."""

import json
from pathlib import Path
from typing import Any

from dcgan_jax.machine import files
from dcgan_jax.runs import run_folder


def rollbacks(workdir: Path) -> list[dict[str, Any]]:
    """What `add_rollback` has noted, oldest first: 'diverged_at', 'back_to', 'reason'.

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


def add_rollback(workdir: Path, diverged_at: int, back_to: int, reason: str) -> None:
    """Notes that a run diverged and goes back: how often decides which random numbers it draws from then on."""
    _write_rollbacks(workdir, [*rollbacks(workdir), {"diverged_at": diverged_at, "back_to": back_to, "reason": reason}])


def rollbacks_before(workdir: Path, step: int) -> int:
    """How often a run that resumes from `step` had returned to a checkpoint when it was there.

    Those to later steps are forgotten: the run comes to them again, as it did when the checkpoints after `step` were
    not damaged yet.
    """
    noted = rollbacks(workdir)
    kept = [rollback for rollback in noted if rollback.get("back_to", 0) <= step]  # earlier versions did not note it
    if kept != noted:
        _write_rollbacks(workdir, kept)
    return len(kept)


def _write_rollbacks(workdir: Path, noted: list[dict[str, Any]]) -> None:
    files.write_atomically(run_folder.rollbacks_file(workdir), (json.dumps(noted, indent=2) + "\n").encode())
