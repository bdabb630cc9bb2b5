"""What every entry point shares: process-wide settings, flags, and how errors are told."""

import difflib
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import NoReturn

import jax
from absl import app, logging

from dcgan_jax import allocator, data_parallel, run_folder
from dcgan_jax.cache import cache_folder
from dcgan_jax.errors import Interrupted, UserError


def run(work: Callable[[], None]) -> None:
    """Parses the flags that the caller defined, sets the process up, and calls `work`.

    A `UserError` is printed without a traceback and ends the process with status 2; Ctrl-C and SIGTERM end it with
    status 130 and 143 after all clean-up, an `Interrupted` training run with its own. On several hosts, 76 (EX_PROTOCOL
    of sysexits.h, "remote error") says that another process is gone.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        signal.signal(signal.SIGTERM, _exit_on_signal)
        try:
            work()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            _exit(2)
        except Interrupted as interruption:
            print(f"{interruption}. The same command continues the run.", file=sys.stderr)
            sys.exit(interruption.exit_status)
        except KeyboardInterrupt:
            _exit(128 + signal.SIGINT)
        except Exception as error:
            if not data_parallel.lost_peer(error):
                if jax.distributed.is_initialized():
                    traceback.print_exc()
                    _exit(1)
                raise
            print(
                f"error: another process of this run is gone ({str(error).splitlines()[0][:200]}). The same command, "
                "on as many hosts as there are, continues from the newest checkpoint.",
                file=sys.stderr,
            )
            _exit(os.EX_PROTOCOL)

    logging.set_verbosity(logging.WARNING)
    allocator.keep_buffers()
    configure_compilation_cache()
    app.run(main, flags_parser=_parse_flags)


def _exit(status: int) -> NoReturn:
    """Ends the process; at once if there are others, which would be waited for, and they perhaps for this one."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _exit_on_signal(signum: int, frame: FrameType | None) -> NoReturn:
    del frame
    sys.exit(128 + signum)  # an exception, unlike the signal's own effect: temporary files are removed


def configure_compilation_cache() -> None:
    """Compiled programs are kept in the user's cache folder, so that the second start of a config is quick."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))


def _parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one clear line for a config file or a config field that does not exist."""
    if file := _config_file(argv):
        if not os.path.isfile(file):
            print(f"error: there is no config file {file}; the configs are in configs/.", file=sys.stderr)
            sys.exit(2)
        known = list(run_folder.flatten(runpy.run_path(file)["get_config"]()))
        fields = [part.split("=")[0].lstrip("-") for part in argv if part.startswith(("-config.", "--config."))]
        names = [field.removeprefix("config.") for field in fields]
        unknown = [name for name in names if name not in known]
        for name in unknown:
            nearest = max(known, key=partial(_similarity, name))
            print(f"error: there is no field config.{name}; the nearest is config.{nearest}.", file=sys.stderr)
        if unknown:
            sys.exit(2)
    return app.parse_flags_with_usage(argv)


def _config_file(argv: list[str]) -> str | None:
    """The value of --config=FILE or --config FILE."""
    for i, part in enumerate(argv):
        name, equals, value = part.lstrip("-").partition("=")
        if part.startswith("-") and name == "config":
            return value if equals else next(iter(argv[i + 1 :]), None)
    return None


def _similarity(name: str, field: str) -> float:
    whole, last = (
        difflib.SequenceMatcher(None, a, b).ratio()
        for a, b in ((name, field), (name.split(".")[-1], field.split(".")[-1]))
    )
    return whole + last
