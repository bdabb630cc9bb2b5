"""Deep convolutional GANs in JAX: train them, and run every experiment of the paper.

import dcgan_jax
run = dcgan_jax.load("toy_faces")                         # a network that comes with the package
run = dcgan_jax.load("runs/faces", step="best")           # a trained run
dcgan_jax.grid(run.sample(64, seed=1))                    # uint8 [64, height, width, channels] as one picture
config = dcgan_jax.load_config("configs/cifar10.py")
run = dcgan_jax.train(config, "runs/mine")                # trains, or resumes, and returns the run
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcgan_jax.config import load_config
    from dcgan_jax.reports.image_grid import grid
    from dcgan_jax.runs.trained import Run, load
    from dcgan_jax.runs.weights_file import pretrained
    from dcgan_jax.training import train

__version__ = "0.1.0"
__all__ = ["Run", "grid", "load", "load_config", "pretrained", "train"]

# XLA and TensorFlow remark on missing GPUs and CPU features at every start; they read this once, when jax is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_HOMES = {
    "Run": "dcgan_jax.runs.trained",
    "grid": "dcgan_jax.reports.image_grid",
    "load": "dcgan_jax.runs.trained",
    "load_config": "dcgan_jax.config",
    "pretrained": "dcgan_jax.runs.weights_file",
    "train": "dcgan_jax.training",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is: the processes that decode images import this package, but not JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
