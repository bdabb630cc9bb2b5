"""Files: the cache folder, atomic writes, reading what may be damaged, one process at a time."""

import contextlib
import errno
import functools
import json
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np

from dcgan_jax.machine.errors import UserError

try:
    import fcntl
except ImportError:  # see `check_system`
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Damaged(UserError):
    """A file cannot be read, is cut short, or holds something else.

    Attributes:
      path: of the file.
      reason: what is wrong with it, in words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path, self.reason = path, reason


class Missing(Damaged):
    """There is no such file."""


def check_system() -> None:
    """Raises UserError on Windows, where files cannot be locked in the way that is used here."""
    if not hasattr(fcntl, "flock"):
        raise UserError("dcgan_jax needs Linux or macOS: Windows has no fcntl; use WSL.")


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/dcgan_jax, or ~/.cache/dcgan_jax; in a process without a home folder, a temporary one."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dcgan_jax"
    except RuntimeError:
        return _temporary_cache()


@functools.cache
def _temporary_cache() -> Path:
    """A folder of this user's, which nobody else can fill: what is cached is trusted."""
    folder = Path(tempfile.gettempdir()) / f"dcgan_jax-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        folder = Path(tempfile.mkdtemp(prefix="dcgan_jax-"))
    _log.warning("There is no home folder: packs and other files are cached in %s. Set XDG_CACHE_HOME to keep.", folder)
    return folder


# What systems say of files on NFS without its lock service, Lustre without -o flock, and some FUSE file systems.
_NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP))


@contextlib.contextmanager
def lock(file: Path, purpose: str, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock on `file`, which is made if need be, waiting for it and saying so.

    Yields whether it is held: on file systems without locks it is not, which is a warning.

    Args:
      file: nothing is written to it.
      purpose: what the other process is busy with, "the pack /some/path".
      wait: otherwise it is an error if another process holds it.

    Raises:
      BlockingIOError: another process holds it, and `wait` is False.
      OSError: the file cannot be made.
      UserError: see `check_system`.
    """
    check_system()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        yield _take(opened, purpose, wait)


def _take(opened: TextIO, purpose: str, wait: bool) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise
        print(f"Waiting for another process to finish {purpose}", file=sys.stderr, flush=True)
        fcntl.flock(opened, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn_of_no_locks(os.path.dirname(opened.name), error.strerror)
        return False
    return True


@functools.cache
def _warn_of_no_locks(folder: str, reason: str) -> None:
    _log.warning(
        "%s is on a file system without locks (%s): nothing keeps two processes from writing there at once.",
        folder,
        reason,
    )


def make_writable(folder: Path, flag: str) -> None:
    """Creates a folder for results. Raises UserError, naming the flag that gave it, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written ({error.strerror}): choose another {flag}.") from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """While `path` is read and checked: whatever a damaged file makes the readers trip over becomes `Damaged`.

    Raises:
      Missing: FileNotFoundError was raised.
      Damaged: any other exception was, but for a UserError, which passes.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise Missing(path, str(error)) from error
    except Exception as error:  # NumPy, zipfile and msgpack raise nearly anything
        plain = isinstance(error, OSError | ValueError | RecursionError)  # these say in words what is wrong
        raise Damaged(path, str(error) if plain else f"{type(error).__name__}: {error}") from error


def read_json(path: Path, kind: type) -> Any:
    """What a JSON file holds: a dict or a list, as `kind` says.

    Raises:
      Missing: there is no such file.
      Damaged: it cannot be read, or holds something else.
    """
    with reading(path):
        content = json.loads(path.read_bytes())
        if not isinstance(content, kind):
            raise ValueError(f"it holds no {kind.__name__}")
    return content


def load_npy(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array in a .npy file, memory-mapped if it is to stay on disk. Pickles are not loaded.

    Raises:
      Missing: there is no such file.
      Damaged: it cannot be read, or holds something else.
    """
    with reading(path):
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it holds no single array")
    return array


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays in a .npz file, by name. Pickles are not loaded.

    Raises:
      Missing: there is no such file.
      Damaged: it cannot be read, or holds something else.
    """
    with reading(path), path.open("rb") as file:  # np.load leaves a path open when it trips over the content
        content = np.load(file, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz file")
        arrays = dict(content)
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds other files than arrays")
    return arrays


def cached(
    path: Path, *, purpose: str, load: Callable[[Path], T], make: Callable[[], T], save: Callable[[T], bytes]
) -> T:
    """What the file `path` keeps; it is made and written if it is not there or damaged, which is a warning.

    One process makes it, and others wait. If the folder cannot be written, that is a warning, and all make their own.

    Args:
      path: of the file; the lock is beside it, with the suffix .lock.
      purpose: what the process that makes it is busy with, see `lock`.
      load: reads the file; raises `Missing` or `Damaged`.
      make: gives what the file will hold.
      save: the file's content.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # of a folder that cannot be written
            stack.enter_context(lock(path.with_suffix(".lock"), purpose))
        try:
            return load(path)
        except Missing:
            pass
        except Damaged as error:
            _log.warning("%s is damaged or outdated (%s); making it again.", path, error.reason)
        made = make()
        try:
            write_atomically(path, save(made))
        except OSError as error:
            _log.warning("%s cannot be kept (%s): it will be made again.", path, error.strerror)
        return made


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
