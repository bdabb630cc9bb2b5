"""Exceptions that are shown to the user as a message instead of a traceback."""

import os
import signal


class UserError(ValueError):
    """Something the user can put right: a bad setting, a missing folder, an unreadable file.

    The message says what was wrong, with which value, and what to do. `dcgan_jax.main` and the other entry points
    print it and exit with status 2.
    """


class Interrupted(Exception):
    """A signal stopped a run after a checkpoint. Attribute: `exit_status`, that of the process.

    75 after SIGTERM, which the system that launched the run sends before it takes the machine away: EX_TEMPFAIL of
    sysexits.h, "try again", for launchers that then give the same command again. 130 after Ctrl-C, as shells have it.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; step {step} is saved")
        self.exit_status = os.EX_TEMPFAIL if signum == signal.SIGTERM else 128 + signum
