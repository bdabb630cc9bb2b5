"""What the tests with random mistakes share: strategies, watched folders, and objects that tell when unpickled."""

import contextlib
import os
import pickle
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_SECONDS = 20  # for one example; only a hang takes that long


def examples(count: int) -> Callable[[Any], Any]:
    """Settings of a test: the same `count` examples each time."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder for one example, which fails if it hangs."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise AssertionError(f"hangs: more than {_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz") as name:
            yield Path(name)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time of change and content of everything below a folder, links as such."""
    found = {}
    for place, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(place, name)
            status = os.lstat(path)
            readable = stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)
            found[path] = (status.st_mode, status.st_mtime_ns, Path(path).read_bytes() if readable else b"")
    return found


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self._marker,)


def bomb(marker: Path) -> bytes:
    """A pickle of one."""
    return pickle.dumps(Bomb(marker))


# --- Strategies ------------------------------------------------------------------------------------------------------

# Any value that JSON can hold, NaN and lone surrogates included.
any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats()
    | st.sampled_from([10**400, -(10**400), 2**31, 2**63, 1e308])
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["../../x", "/x", "\0", "\ud800", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)
# Names of files: bytes that need not be text, never '', '.', '..' or a path.
file_names = (
    st.one_of(
        st.text("abc .-\n\t'\"\\*?[]é日", min_size=1, max_size=6).map(os.fsencode),
        st.binary(min_size=1, max_size=6),
    )
    .filter(lambda name: not {b"/", b"\0"} & {name[i : i + 1] for i in range(len(name))} and name.strip(b"."))
    .map(os.fsdecode)
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content cut short, with some bytes changed, put in or taken out, or something else altogether."""
    kind = draw(st.sampled_from(["cut", "changed", "inserted", "removed", "other", "empty", "nested"]))
    where = draw(st.integers(0, max(len(content) - 1, 0)))
    some = draw(st.binary(min_size=1, max_size=8))
    if kind == "other":
        return some
    if kind == "empty":
        return b""
    if kind == "nested":
        return b"[" * 100_000
    end = {"cut": len(content), "changed": where + len(some), "inserted": where, "removed": where + len(some)}[kind]
    return content[:where] + (b"" if kind in ("cut", "removed") else some) + content[end:]
