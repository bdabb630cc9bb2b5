"""Files: the cache folder, atomic writes, reading what may be damaged, one process at a time."""

import contextlib
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcgan_jax.machine.errors import UserError


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/dcgan_jax, or ~/.cache/dcgan_jax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dcgan_jax"


@contextlib.contextmanager
def lock(file: Path, purpose: str, *, wait: bool = True) -> Iterator[None]:
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


def make_writable(folder: Path, flag: str) -> None:
    """Creates a folder for results. Raises UserError, naming the flag that gave it, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written ({error.strerror}): choose another {flag}.") from error


def read_json(path: Path, kind: type) -> Any:
    """What a JSON file holds: a dict or a list, as `kind` says.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise UserError(f"{path} cannot be read: it holds no {kind.__name__}")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
