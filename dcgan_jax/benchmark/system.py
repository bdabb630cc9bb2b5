"""A system that is measured, in a process of its own, and its turns; `worker` is the other side."""

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

from ml_collections import ConfigDict

from dcgan_jax.benchmark import devices, trainer, worker
from dcgan_jax.benchmark.variants import Variant
from dcgan_jax.machine.errors import UserError

# A turn is one step or as many as fill this time, in seconds.
_TURN_SECONDS = 1.0


class System:
    """A system in its process.

    Attributes:
      variant, name: what it is and how it runs; the name of what it is.
      facts: see `trainer.Facts`.
      seconds: of one step, by round.
      peak_bytes: peak memory; known when it has been stopped.
    """

    def __init__(
        self, variant: Variant, config: ConfigDict, platform: str | None, patience: float | None = None
    ) -> None:
        """Returns when it is warm.

        Args:
          variant: what runs, and how.
          config: see configs/default.py; batch_size is the measured one, and the variant has its own precision.
          platform: 'cpu', 'gpu' or 'tpu', which is expected; None: any.
          patience: how long any of its answers may take, in seconds; None: for ever.

        Raises:
          UserError: it cannot train these networks, does not compute on `platform`, ended, or took too long.
        """
        self._patience = patience
        context = multiprocessing.get_context("spawn")
        self._connection: Connection
        self._connection, theirs = context.Pipe()
        # A daemon: it does not outlive this process, whatever happens here.
        arguments = (theirs, variant, config.to_json(), platform)
        self._process = context.Process(target=worker.serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.variant, self.name, self.seconds = variant, variant.system, list[float]()
        self.peak_bytes = 0
        self.facts: trainer.Facts = self._receive()
        devices.check(self.name, platform, self.facts.platform)
        self._steps = max(1, round(_TURN_SECONDS / self._run(1)))

    def take_turn(self) -> None:
        """Adds to `seconds`."""
        self.seconds.append(self._run(self._steps))

    def stop(self) -> None:
        """Ends the process, which frees its device."""
        self._connection.send(None)
        self.peak_bytes = self._receive()
        self._process.join()

    def _run(self, steps: int) -> float:
        self._connection.send(steps)
        return self._receive()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        try:
            if not self._connection.poll(self._patience):
                self.kill()
                raise UserError(f"{self.name} took more than {self._patience:.0f} s for an answer and was ended.")
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise UserError(f"{self.name} ended with status {self._process.exitcode}; its output is above.") from None
        if isinstance(answer, UserError):
            raise answer
        return answer
