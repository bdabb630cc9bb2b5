"""What every entry point shares: process-wide settings, flags, and how errors are shown."""

import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from logging import ERROR
from types import FrameType
from typing import NoReturn

import jax
from absl import app, flags, logging

from dcgan_jax import machine
from dcgan_jax.config import FIELDS, check_names, flatten, run_file
from dcgan_jax.machine import console, files, number_lists, preemption, processes
from dcgan_jax.machine.errors import Interrupted, UserError


def run(work: Callable[[], None]) -> None:
    """Parses the flags that the caller defined, sets the process up, and calls `work`.

    A `UserError` is printed without a traceback and ends the process with status 2, and so do flags that are wrong, an
    `OSError` and memory that does not suffice. Ctrl-C, SIGTERM and SIGHUP (the terminal was closed) end it with status
    130, 143 and 129 after all clean-up, an `Interrupted` training run with its own. On several hosts, 76 (EX_PROTOCOL
    of sysexits.h, "remote error") says that another process is gone.
    """

    def main(argv: list[str]) -> None:
        for signum in preemption.HANGUPS:  # nohup ignores SIGHUP, and so do we then
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, _exit_on_signal)
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected arguments: {' '.join(argv[1:])}")
            work()
        except UserError as error:
            _fail(error)
        except Interrupted as interruption:
            print(f"{interruption}. The same command continues the run.", file=sys.stderr)
            sys.exit(interruption.exit_status)
        except KeyboardInterrupt:
            _exit(128 + signal.SIGINT)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            if processes.lost_peer(error):
                traceback.print_exc()  # in case it was something else after all
                print(
                    f"error: another process of this run is gone ({reason}). The same command, on as many hosts as "
                    "there are, continues from the newest checkpoint.",
                    file=sys.stderr,
                )
                _exit(os.EX_PROTOCOL)
            if isinstance(error, OSError):
                _fail(error)
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in reason:
                reason = reason or "out of memory"
                _fail(f"memory does not suffice ({reason}): smaller batches, images or networks need less.")
            if jax.distributed.is_initialized():
                traceback.print_exc()
                _exit(1)
            raise

    try:
        files.check_system()
    except UserError as error:
        _fail(error)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.use_absl_handler()  # before the guard: it only finds handlers of the present stderr, and Orbax added one
    console.guard()
    logging.set_verbosity(logging.WARNING)
    # `checkpoint` tells of saves that fail in a line; Orbax would add hundreds.
    logging.get_absl_logger().addFilter(lambda record: record.levelno < ERROR or "orbax" not in record.pathname)
    for module, defined in flags.FLAGS.flags_by_module_dict().items():  # --help then shows those that modules share
        for flag in defined if module.startswith("dcgan_jax") else []:
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    machine.set_up()
    app.run(main, flags_parser=_parse_flags)


def define_path(name: str, default: str | None, help: str, required: bool = False) -> flags.FlagHolder:
    """A flag for a file or folder: ~ stands for the home folder, which shells do not see behind --flag=."""
    return flags.DEFINE(_PathParser(), name, default, help, required=required)


def define_numbers(name: str, help: str) -> flags.FlagHolder:
    """A flag for a list of numbers, see number_lists.py; None if it is not given."""
    return flags.DEFINE(_NumbersParser(), name, None, help, serializer=flags.ArgumentSerializer())


def define_grid(name: str, help: str) -> flags.FlagHolder:
    """A flag such as 8x4 for (columns, rows) of a sheet, (8, 4); None if it is not given."""
    return flags.DEFINE(_GridParser(), name, None, help, serializer=flags.ArgumentSerializer())


class _NumbersParser(flags.ArgumentParser):
    syntactic_help = "numbers, such as 0,4,10-20"

    def parse(self, argument: str) -> list[int]:
        return number_lists.parse(argument)


class _GridParser(flags.ArgumentParser):
    syntactic_help = "columns x rows, such as 8x4"

    def parse(self, argument: str) -> tuple[int, int]:
        found = re.fullmatch(r"([1-9][0-9]?)x([1-9][0-9]?)", argument)
        if not found:
            raise UserError(f"{argument!r} is not a grid of 1 to 99 columns and rows: write 8x4 for 8 columns, 4 rows.")
        return int(found[1]), int(found[2])


class _PathParser(flags.ArgumentParser):
    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)


def _exit(status: int) -> NoReturn:
    """Ends the process; at once if there are others, which would be waited for, and they perhaps for this one."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _fail(error: object) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    _exit(2)


def _exit_on_signal(signum: int, frame: FrameType | None) -> NoReturn:
    del frame
    sys.exit(128 + signum)  # an exception, unlike the signal's own effect: temporary files are removed


def _parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with clear lines for a config file that cannot be used or a config field that does not exist."""
    try:
        if configs := [run_file(file) for file in _config_files(argv)]:  # absl reads all; the last one counts
            overridden = [part for part in argv if re.match(r"--?(no)?config\.", part)]
            check_names([part.split("=")[0].split(".", 1)[1] for part in overridden], flatten(configs[-1]))
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        is_field = "config" in flags.FLAGS and error.flagname in FIELDS
        _fail(f"{error}. Did you mean --config.{error.flagname}?" if is_field else error)
    except (flags.Error, OSError, ValueError) as error:  # UserError is a ValueError; others are absl's own
        _fail(error)


def _config_files(argv: list[str]) -> list[str]:
    """The values of all --config=FILE and --config FILE."""
    files = []
    for i, part in enumerate(argv):
        name, equals, value = part.lstrip("-").partition("=")
        if part.startswith("-") and name == "config":
            files += [value] if equals else argv[i + 1 : i + 2]
    return files
