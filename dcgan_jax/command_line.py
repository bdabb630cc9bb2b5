"""What every entry point shares: process-wide settings, flags, and how errors are told."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, logging

from dcgan_jax.errors import UserError

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def run(work: Callable[[], None]) -> None:
    """Parses the flags that the caller defined, sets the process up, and calls `work`.

    A `UserError` is printed without a traceback and ends the process with status 2.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        try:
            work()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    logging.set_verbosity(logging.WARNING)
    configure_allocator()
    configure_compilation_cache()
    app.run(main)


def configure_allocator() -> bool:
    """Keeps large buffers in the process between steps; call before the first computation. Returns whether it was done.

    glibc maps every buffer over 32 MB anew from the kernel, which then faults in each of its pages at every training
    step. Here memory comes from the heap and is not given back until the process ends. Linux with glibc only; switched
    off by DCGAN_JAX_MALLOC=0.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("DCGAN_JAX_MALLOC") == "0":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 << 20), (_M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def configure_compilation_cache() -> None:
    """Compiled programs are kept in the user's cache folder, so that the second start of a config is quick."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dcgan_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
