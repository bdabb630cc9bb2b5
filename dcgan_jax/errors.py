"""Exceptions that are shown to the user as a message instead of a traceback."""

import signal


class UserError(ValueError):
    """Something the user can put right: a bad setting, a missing folder, an unreadable file.

    The message says what was wrong, with which value, and what to do. `dcgan_jax.main` and the other entry points
    print it and exit with status 2.
    """


class Interrupted(Exception):
    """A signal stopped a run after a checkpoint. Attribute: `signum`."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; step {step} is saved")
        self.signum = signum
