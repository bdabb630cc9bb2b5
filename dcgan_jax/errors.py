"""The one exception that is shown to the user as a message instead of a traceback."""


class UserError(ValueError):
    """Something the user can put right: a bad setting, a missing folder, an unreadable file.

    The message says what was wrong, with which value, and what to do. `dcgan_jax.main` and the other entry points
    print it and exit with status 2.
    """
