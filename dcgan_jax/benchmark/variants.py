"""What is measured: a system, and how it runs."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from dcgan_jax.machine import allocator

PEERS = ("torch", "lax")
PRECISIONS = ("float32", "bfloat16")


class Variant(NamedTuple):
    """A system and how it runs.

    Attributes:
      system: 'dcgan_jax'; a peer, 'torch' (torch_peer.py) or 'lax' (this package with XLA's own convolutions);
        'streamed_input'; 'jax_product' or 'torch_product', see matrix_product.py.
      precision: stands for config.precision; PyTorch's bfloat16 is torch.autocast's.
      compiled: what JAX always is; PyTorch by torch.compile. On a GPU see `torch_peer.TorchTrainer`.
      heap: with the settings of `allocator.keep_buffers`, where they can be had.
    """

    system: str
    precision: str
    compiled: bool = True
    heap: bool = True

    @property
    def words(self) -> str:
        """How it runs, besides the precision."""
        return f"{'compiled' if self.compiled else 'eager'}, {'our' if self.heap else 'default'} heap"

    def described(self) -> dict[str, str]:
        """What a result says of it."""
        return {"system": self.system, "precision": self.precision, "variant": self.words}


def of_ours(precisions: Sequence[str]) -> list[Variant]:
    """This package in each precision."""
    return [Variant("dcgan_jax", precision, heap=allocator.can_keep_buffers()) for precision in precisions]


def of_peer(peer: str, precision: str, platform: str) -> list[Variant]:
    """Every way to run a peer that may be its fastest, the plainest first: a table for PyTorch, one way for 'lax'.

    Args:
      peer: one of PEERS.
      precision: of 'lax'.
      platform: on which it runs; the heap makes a difference on the CPU only.
    """
    kept = allocator.can_keep_buffers()
    if peer == "lax":
        return [Variant(peer, precision, heap=kept)]
    heaps = sorted({kept, False}, reverse=True) if platform == "cpu" else [kept]
    table = itertools.product(PRECISIONS, (False, True), heaps)
    return [Variant(peer, precision, compiled, heap) for precision, compiled, heap in table]
