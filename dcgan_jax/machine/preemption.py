"""Stopping on signals, after a save.

Ctrl-C; SIGTERM, as clusters send it before they take a machine away; SIGHUP, when the terminal is closed.
"""

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

# Signals whose own effect is to end a process at once. Windows has no SIGHUP.
HANGUPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int | None]]:
    """Yields `requested()`, to be asked after every call of the step: the signal that asks to stop, or None.

    On several hosts a SIGTERM that one of them receives is heard by all after the same call, through JAX's preemption
    service; Ctrl-C acts as it always does. On one, a second signal acts as it always does. A signal that is ignored, as
    nohup has SIGHUP ignored, stays so.
    """
    if jax.process_count() > 1:
        calls = itertools.count(1)  # all hosts stop at the number after the largest one so far, 0 before the first call
        yield lambda: signal.SIGTERM if multihost_utils.reached_preemption_sync_point(next(calls)) else None
        return
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where no handlers can be set
        yield lambda: None
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, *HANGUPS)}
    before = {signum: handler for signum, handler in before.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def note(signum: int, frame: FrameType | None) -> None:
        del frame
        received.append(signum)
        restore()
        name = signal.Signals(signum).name
        print(f"{name}: stopping after this step and a save; once more stops at once.", file=sys.stderr, flush=True)

    for signum in before:
        signal.signal(signum, note)
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
