"""What is left of a run whose training has collapsed, and where it goes back to."""

from pathlib import Path

from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import run_folder


class Collapsed(UserError):
    """An alarm of collapse is on; the state was not saved.

    Attributes:
      step: whose line of metrics.jsonl raised the alarm.
      back_to: see `way_back`.
    """

    def __init__(self, message: str, step: int, back_to: int | None) -> None:
        super().__init__(message)
        self.step, self.back_to = step, back_to


def way_back(workdir: Path, steps: list[int], signs_since: int) -> int | None:
    """Which of the checkpoints of `steps` a run goes back to that has shown signs of collapse since a step.

    The best one of before, the newest one of before where none of those was evaluated; None: there is none.
    """
    healthy = [step for step in steps if step < signs_since]
    best = run_folder.best_step(workdir, healthy)
    return max(healthy, default=None) if best is None else best
