"""What every measured system provides."""

from typing import NamedTuple, Protocol


class Facts(NamedTuple):
    """Of a system that is ready: `settings` in words, the device, seconds up to the end of the first step."""

    settings: str
    device: str
    compile_seconds: float


class Trainer(Protocol):
    facts: Facts

    def run(self, steps: int) -> int:
        """Runs at least so many training steps and waits for them; returns how many it ran."""

    def memory_bytes(self) -> int | None:
        """Most bytes in use so far on an accelerator; None on the CPU."""
