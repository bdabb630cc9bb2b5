"""What every entry point shares: process-wide settings, flags, and how errors are told."""

import ctypes
import difflib
import os
import platform
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
from absl import app, flags, logging

from dcgan_jax import run_folder
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
    app.run(main, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one clear line for a config file or a config field that does not exist."""
    try:
        arguments = app.parse_flags_with_usage(argv)
        if "config" in flags.FLAGS:
            flags.FLAGS.config["seed"]  # reading a field raises if the file could not be loaded
        return arguments
    except OSError:
        print(f"error: {_config_file(argv)} does not exist; the configs are in configs/.", file=sys.stderr)
    except (AttributeError, KeyError):
        print(f"error: {_unknown_field(argv)}", file=sys.stderr)
    sys.exit(2)


def _unknown_field(argv: list[str]) -> str:
    names = [part.split("=")[0].removeprefix("--config.") for part in argv if part.startswith("--config.")]
    known = list(run_folder.flatten(runpy.run_path(_config_file(argv))["get_config"]()))
    unknown = [name for name in names if name not in known]
    # The last part of a name counts most: 'size' should find 'data.image_size'.
    nearest = [max(known, key=partial(_similarity, name)) for name in unknown]
    return "\n".join(
        f"there is no field config.{name}; the nearest is config.{field}."
        for name, field in zip(unknown, nearest, strict=True)
    )


def _config_file(argv: list[str]) -> str:
    return next(part.split("=", 1)[1] for part in argv if part.startswith("--config="))


def _similarity(name: str, field: str) -> float:
    whole, last = (
        difflib.SequenceMatcher(None, a, b).ratio()
        for a, b in ((name, field), (name.split(".")[-1], field.split(".")[-1]))
    )
    return whole + last


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
