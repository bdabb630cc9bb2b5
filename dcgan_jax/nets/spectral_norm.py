"""Spectral normalisation: a kernel divided by its largest singular value.

Miyato, Kataoka, Koyama, Yoshida: "Spectral Normalization for Generative Adversarial Networks" (ICLR 2018,
https://arxiv.org/abs/1802.05957), algorithm 1. A convolution's kernel counts as a matrix [positions and inputs,
outputs]. One power iteration is made in each training step, from the vector of the step before, which is part of the
collection 'batch_stats', and so of a checkpoint.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_TINY = 1e-12  # added to norms, as in the authors' code


class SpectralNorm(nn.Module):
    """kernel [..., outputs] -> the kernel over its spectral norm, as far as the power iteration knows it."""

    @nn.compact
    def __call__(self, kernel: jax.Array) -> jax.Array:
        outputs = kernel.shape[-1]
        u = self.variable("batch_stats", "u", lambda: _unit(jax.random.normal(self.make_rng("params"), (outputs,))))
        value, new_u = norm_of(kernel, u.value)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            u.value = new_u
        return kernel / value


def norm_of(kernel: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The spectral norm of kernel [..., outputs] by one power iteration from `u` [outputs], of length 1.

    Returns:
      v^T kernel u', float32, never above the norm; and u' [outputs], the vector to go on from. No gradient flows
      through v and u'.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    v = _unit(lax.stop_gradient(matrix) @ u)
    u = _unit(v @ lax.stop_gradient(matrix))
    return v @ matrix @ u, u


def _unit(vector: jax.Array) -> jax.Array:
    return vector / (jnp.linalg.norm(vector) + _TINY)
