"""What every analysis of a generator begins with: the flags that name a trained run, and the run itself."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from dcgan_jax import sample
from dcgan_jax.train_state import Tree


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
        step=sample.define_step_flag(),
        seed=flags.DEFINE_integer("seed", 0, "Of everything that is drawn.", lower_bound=0, upper_bound=2**31 - 1),
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
        self._norm = chosen.norm.value
        self._generate = sample.make_generate(self.config)

    @property
    def samples(self) -> dict[str, Any]:
        """All that the image of a row of noise, and the noise of a number, depend on."""
        return {
            "step": self.step,
            "seed": self.seed,
            "norm": self._norm,
            "label": self._label,
            "run_seed": self.config.seed,
            "data": self.config.data.source,
        }

    @functools.cached_property
    def variables(self) -> dict[str, Tree]:
        """'params' and 'batch_stats' of the generator; estimated when first asked for."""
        return sample.make_sampling_variables(self.config, self._norm)(self.state)

    def noise(self, first: int, count: int) -> np.ndarray:
        """float32 [count, z_dim] of images first, first + 1, ...: those that `python -m dcgan_jax.sample` draws."""
        return np.asarray(sample.draw_noise(self.config, self.seed, first, count))

    def draw(self, z: np.ndarray, what: str) -> np.ndarray:
        """uint8 [count, height, width, channels] of noise [count, z_dim]; `what` stands beside the progress bar."""
        labels, images = self.labels(sample.BATCH_SIZE), []
        for batch, count in sample.full_batches(z.astype(np.float32), what):
            images.append(np.asarray(self._generate(**self.variables, z=batch, labels=labels))[:count])
        return np.concatenate(images)

    def labels(self, count: int) -> jax.Array | None:
        """What the generator takes beside `count` rows of noise."""
        return jnp.full(count, self._label or 0) if self.config.model.num_classes else None
