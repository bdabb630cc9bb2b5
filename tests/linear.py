"""A run and probes that can be computed by hand, for the protocols of section 6.

An image of z [8] has 2 x 4 grey pixels, each one coordinate: level 128 + 40 z, rounded. A probe reads coordinates back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from dcgan_jax.metrics.attribute_probe import AttributeProbe, Target
from dcgan_jax.runs.trained import Run
from tests import tiny

Z_DIM = 8


def images_of(z: np.ndarray) -> np.ndarray:
    """uint8 [count, 2, 4, 1] of z [count, 8]."""
    return np.clip(np.round(128 + 40 * z), 0, 255).astype(np.uint8).reshape(-1, 2, 4, 1)


@dataclass
class LinearRun:
    """Stands for a run: uniform noise, images as `images_of`.

    Attributes:
      change: of the noise, after it is drawn.
      drawn: the z of every call of `generate` by its progress text; what has no text is not kept.
    """

    change: Callable[[np.ndarray], np.ndarray] = lambda z: z
    drawn: dict[str, np.ndarray] = field(default_factory=dict)
    step: int = 1
    config: Any = field(default_factory=tiny.config)
    generator: Any = field(
        default_factory=lambda: SimpleNamespace(
            z_dim=Z_DIM, z_distribution="uniform", num_classes=0, image_shape=(8, 8, 3)
        )
    )

    def one_label(self, label: Any) -> None:
        assert label is None

    def noise(self, num: int, seed: int = 0, first: int = 0) -> np.ndarray:
        rows = np.random.default_rng(seed).uniform(-1, 1, (5000, Z_DIM))
        return self.change(rows[first : first + num].astype(np.float32))

    def generate(self, z: np.ndarray, label: Any = None, progress: str = "") -> np.ndarray:
        assert label is None
        if progress:
            self.drawn[progress] = z
        return images_of(z)


@dataclass
class LinearProbe:
    """Stands for a probe.

    Attributes:
      thresholds: a class of two by name, in the order of coordinates: 1 above its threshold, with a probability of 0.9
        from 0.2 above it.
      yaw: factor of the last coordinate, which is read as a number.
      longest: z that is plausible.
      held_out: its accuracy.
    """

    thresholds: Mapping[str, float]
    yaw: float = 1.0
    longest: float = 2.0
    held_out: float = 0.75
    class_names: None = None

    @property
    def targets(self) -> dict[str, Target]:
        classes = {name: Target(name, 2, held_out=self.held_out) for name in self.thresholds}
        return classes | {"yaw": Target("yaw", 0, held_out=self.held_out)}

    def read(self, images: np.ndarray) -> dict[str, np.ndarray]:
        z = self._z(images)
        found = {}
        for i, (name, threshold) in enumerate(self.thresholds.items()):
            yes = np.clip(0.5 + 2 * (z[:, i] - threshold), 0, 1)
            found[name] = np.stack([1 - yes, yes], 1)
        return found | {"yaw": self.yaw * z[:, -1]}

    def plausible(self, images: np.ndarray) -> np.ndarray:
        return np.linalg.norm(self._z(images), axis=1) <= self.longest

    def _z(self, images: np.ndarray) -> np.ndarray:
        return (images.reshape(len(images), Z_DIM) - 128.0) / 40.0


def as_run(run: LinearRun) -> Run:
    return cast(Run, run)


def as_probe(probe: LinearProbe) -> AttributeProbe:
    return cast(AttributeProbe, probe)
