"""Systems that take turns, and which variants of a peer stay among them.

A variant that cannot be the fastest would only cost time and memory. So each is tried when it starts: it and the
fastest of its precision so far take three turns each, alternately. If one is more than 10 % slower than the other, by
the median of the ratios of these turns, it ends there and then, and the result says at what speed. Those that stay take
a turn in every round. Only these rounds count.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from dcgan_jax.benchmark.system import System
from dcgan_jax.benchmark.variants import Variant
from dcgan_jax.machine.errors import UserError

_TRIALS, _LEAST_SHARE = 3, 0.9


class Contest:
    """The systems of one run.

    Attributes:
      platform: what all compute on, 'cpu', 'gpu' or 'tpu'; None: what the first one does.
      one_by_one: a system has all its turns when it starts, and ends then; none is dropped. Always on a TPU.
      systems: those that stay, in the order in which they started.
      dropped: variants that were tried: `images_per_second`, and `share`, their speed over the fastest's, both in the
        trial.
      skipped: variants that did not start, with the `reason`.
    """

    def __init__(self, config: ConfigDict, rounds: int, platform: str | None, one_by_one: bool) -> None:
        self._config, self._rounds = config, rounds
        self.platform, self.one_by_one = platform, one_by_one
        self.systems = list[System]()
        self.dropped, self.skipped = list[dict[str, Any]](), list[dict[str, Any]]()

    def add(self, variant: Variant) -> System:
        """Starts a system. Raises UserError if it cannot run, or not on the platform."""
        system = System(variant, self._config, self.platform)
        self.platform = self.platform or system.facts.platform
        self.one_by_one = self.one_by_one or self.platform == "tpu"
        self.systems.append(system)
        if self.one_by_one:
            for _ in range(self._rounds):
                system.take_turn()
            system.stop()
        return system

    def add_fastest(self, variants: Sequence[Variant]) -> None:
        """Starts all variants of a peer, and keeps those that may be the fastest of their precision.

        Raises:
          UserError: the first one cannot run. Any other that cannot is skipped.
        """
        fastest: dict[str, System] = {}
        for variant in variants:
            try:
                system = self.add(variant)
            except UserError as error:
                if variant == variants[0]:
                    raise
                self.skipped.append({**variant.described(), "reason": str(error)})
                continue
            other = fastest.setdefault(variant.precision, system)
            if other is not system and not self.one_by_one:
                fastest[variant.precision] = self._try(other, system)

    def run(self) -> None:
        """All rounds. Every system has ended then."""
        if self.one_by_one:
            return
        for _ in range(self._rounds):
            for system in self.systems:
                system.take_turn()
        for system in self.systems:
            system.stop()

    def _try(self, *pair: System) -> System:
        """The faster of two, after their trial."""
        for _ in range(_TRIALS):
            for system in pair:
                system.take_turn()
        slower, faster = pair if ratio(*pair) < 1 else pair[::-1]
        share = ratio(slower, faster)
        if share < _LEAST_SHARE:
            speed = statistics.median(speeds(slower, self._config.batch_size))
            self.dropped.append({**slower.variant.described(), "images_per_second": speed, "share": share})
            self.systems.remove(slower)
            slower.stop()
        for system in pair:
            system.seconds.clear()
        return faster


def speeds(system: System, batch_size: int) -> list[float]:
    """Images per second, by round."""
    return [batch_size / seconds for seconds in system.seconds]


def ratios(system: System, other: System) -> list[float]:
    """How many times as fast a system is as another, by round."""
    return [b / a for a, b in zip(system.seconds, other.seconds, strict=True)]


def ratio(system: System, other: System) -> float:
    """The median of `ratios`."""
    return statistics.median(ratios(system, other))
