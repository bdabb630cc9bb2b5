"""What every measured system provides."""

from typing import NamedTuple, Protocol


class Facts(NamedTuple):
    """Of a system that is ready: `settings` in words, the device's name, seconds up to the end of the first step.

    platform: of the device that holds what was computed, 'cpu', 'gpu' or 'tpu'.
    """

    settings: str
    device: str
    compile_seconds: float
    platform: str


class Trainer(Protocol):
    facts: Facts

    def run(self, steps: int) -> int:
        """Runs at least so many training steps and waits for them; returns how many it ran."""

    def memory_bytes(self) -> int | None:
        """Most bytes in use so far on an accelerator; None on the CPU."""
