"""Console output that may be lost without ending the work."""

import os
import sys
from typing import Any, TextIO


class Console:
    """A stream like sys.stdout whose reader may go away, and whose disk may be full.

    A closed terminal, `| head`, or a log file on a full disk makes writing fail. What is written from then on is
    dropped, with one line on stderr: files of a run hold everything that counts.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Lets the system take what is still buffered, and all that comes, and throw it away."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self._name != "stderr":
            print(
                f"warning: {self._name} cannot be written ({error.strerror}); its lines are dropped.", file=sys.stderr
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard() -> None:
    """Makes sys.stdout and sys.stderr of this process a `Console`."""
    if not isinstance(sys.stderr, Console):
        sys.stderr = Console(sys.stderr, "stderr")  # type: ignore[assignment]
    if not isinstance(sys.stdout, Console):
        sys.stdout = Console(sys.stdout, "stdout")  # type: ignore[assignment]
