"""One process at a time: a lock that the system releases when its holder dies."""

import contextlib
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def hold(file: Path, purpose: str, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock on `file`, which is made if need be, waiting for it and saying so.

    Args:
      file: nothing is written to it.
      purpose: what the other process is busy with, "the pack /some/path".
      wait: otherwise it is an error if another process holds it.

    Raises:
      BlockingIOError: another process holds it, and `wait` is False.
      OSError: the file cannot be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            print(f"Waiting for another process to finish {purpose}", file=sys.stderr, flush=True)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
