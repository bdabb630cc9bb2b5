"""What every analysis of a generator begins with: the flags that name a trained run, and the run itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from dcgan_jax import attribute_probe, sample
from dcgan_jax.attribute_probe import AttributeProbe
from dcgan_jax.datasets import pack


class RunFlags(NamedTuple):
    workdir: flags.FlagHolder
    step: flags.FlagHolder
    seed: flags.FlagHolder
    norm: flags.FlagHolder
    label: flags.FlagHolder


def define_flags() -> RunFlags:
    """--workdir, --step, --seed, --norm and --label."""
    return RunFlags(
        workdir=flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True),
        step=flags.DEFINE_integer("step", None, "Checkpoint to use; default: the latest."),
        seed=flags.DEFINE_integer("seed", 0, "Of everything that is drawn."),
        norm=flags.DEFINE_enum(
            "norm", "running", ("running", "frozen"), "Statistics of batch normalisation; see sample.py."
        ),
        label=flags.DEFINE_integer("label", None, "Class of all images (conditional networks); default: 0."),
    )


class TrainedRun:
    """A run's generator, ready to draw.

    Attributes:
      workdir, config, state: of the run; step: its number of training steps.
      seed: of the noise.
    """

    def __init__(self, chosen: RunFlags) -> None:
        """Raises UserError if there is no such run, checkpoint or class."""
        self.workdir, self.seed = Path(chosen.workdir.value), int(chosen.seed.value)
        self.config, self.state = sample.load_run(self.workdir, chosen.step.value)
        self.step = int(self.state.step)
        self._label = chosen.label.value
        sample.check_label(self.config, self._label)
        self.variables = sample.sampling_variables(self.config, self.state, chosen.norm.value)
        self._generate = sample.make_generate(self.config)

    def noise(self, first: int, count: int) -> np.ndarray:
        """float32 [count, z_dim] of images first, first + 1, ...: those that `python -m dcgan_jax.sample` draws."""
        return np.asarray(sample.draw_noise(self.config, self.seed, first, count))

    def draw(self, z: np.ndarray, what: str) -> np.ndarray:
        """uint8 [count, height, width, channels] of noise [count, z_dim]; `what` stands beside the progress bar."""
        labels, images = self.labels(sample.BATCH_SIZE), []
        for part in parts(z, what):
            full = np.resize(part, (sample.BATCH_SIZE, z.shape[1])).astype(np.float32)  # one compiled program
            images.append(np.asarray(self._generate(**self.variables, z=full, labels=labels))[: len(part)])
        return np.concatenate(images)

    def labels(self, count: int) -> jax.Array | None:
        """What the generator takes beside `count` rows of noise."""
        return jnp.full(count, self._label or 0) if self.config.model.num_classes else None


def open_probe(config: ConfigDict) -> AttributeProbe:
    """The probe of the run's images. Raises UserError if they cannot be read or nothing is known about them."""
    return attribute_probe.open_or_train(pack.open_or_build(config.data))


def parts(values: np.ndarray, what: str) -> Iterator[np.ndarray]:
    """Batches of at most sample.BATCH_SIZE rows, with a progress bar named `what`, or without one if it is ''."""
    with tqdm(total=len(values), desc=what, unit="image", disable=None if what else True) as bar:
        for first in range(0, len(values), sample.BATCH_SIZE):
            part = values[first : first + sample.BATCH_SIZE]
            yield part
            bar.update(len(part))
