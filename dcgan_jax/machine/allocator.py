"""glibc's heap, set up so that large buffers stay in the process between training steps.

By default glibc maps every buffer over 32 MB from the kernel each time, which faults in each of its pages at every
training step. docs/performance.md has what it saves.
"""

import ctypes
import os
import platform
import warnings

import jax
from jax._src import xla_bridge

# mallopt parameters (malloc.h) and their values: no mappings; memory is never given back; the heap grows by 256 MiB.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_SETTINGS = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 256 << 20))

_kept = False


def keep_buffers() -> None:
    """Lets large buffers come from the heap, which is not given back until the process ends.

    Linux with glibc only; switched off by DCGAN_JAX_MALLOC=0. A second call changes nothing. Programs then run in the
    thread that calls them (no asynchronous dispatch), because only the main thread's buffers come from that heap; the
    scratch memory of worker threads comes from arenas of their own, so that no thread waits for another's.

    Warns if JAX was used in this process before: it has made its threads by then.
    """
    global _kept
    if _kept or not can_keep_buffers():
        return
    if _jax_has_started() and jax.default_backend() == "cpu":
        warnings.warn(
            "JAX was used in this process before dcgan_jax.load or dcgan_jax.train: training on the CPU stays slower "
            "than it can be (a small network up to 1.6 times). Call dcgan_jax.machine.set_up() right after importing.",
            stacklevel=3,
        )
    mallopt = ctypes.CDLL(None).mallopt
    _kept = all([mallopt(parameter, value) == 1 for parameter, value in _SETTINGS])
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def can_keep_buffers() -> bool:
    """Whether `keep_buffers` would change anything in this process or one that it starts."""
    return platform.libc_ver()[0] == "glibc" and os.environ.get("DCGAN_JAX_MALLOC") != "0"


def _jax_has_started() -> bool:
    """Whether JAX has made its devices and threads. It has no public way to ask that."""
    return bool(xla_bridge.backends_are_initialized())


def description() -> str:
    """How this process treats its large buffers, in words for the log."""
    if _kept:
        return "large buffers stay in the process (DCGAN_JAX_MALLOC=0 switches this off)"
    return "large buffers are left to the system's allocator"
