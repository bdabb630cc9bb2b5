"""Deep convolutional GANs in JAX: train them, and run every experiment of the paper."""

import os

__version__ = "0.1.0"

# XLA and TensorFlow remark on missing GPUs and CPU features at every start; they read this once, when jax is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
