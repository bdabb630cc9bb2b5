"""Pairs of blocks of two sets of features, so that a measure over all pairs of rows needs no matrix of all pairs."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm

BLOCK = 2048  # rows; two blocks of 2,048 features and their products are 48 MB, and keep a GPU busy


def check_features(**sets: np.ndarray) -> None:
    """Raises UserError unless every set, passed by its name, is finite [rows, features] of one number of features."""
    widths = {}
    for name, rows in sets.items():
        if rows.ndim != 2 or rows.dtype.kind != "f" or 0 in rows.shape:
            raise UserError(
                f"the {name} features are {rows.dtype} of shape {list(rows.shape)}: floats [rows, features] are needed."
            )
        widths[name] = rows.shape[1]
        for begin in range(0, len(rows), BLOCK):
            bad = np.flatnonzero(~np.isfinite(rows[begin : begin + BLOCK]).all(1))
            if bad.size:
                raise UserError(
                    f"the {name} features have NaN or infinity in row {begin + bad[0]}: compute them again."
                )
    if len(set(widths.values())) > 1:
        found = " and ".join(f"{width} ({name})" for name, width in widths.items())
        raise UserError(f"the sets have {found} features a row: take both from one network.")


def centre_of(rows: np.ndarray) -> np.ndarray:
    """Mean of rows [count, features] as float32 [features], summed in float64 without a copy of them."""
    return rows.mean(0, dtype=np.float64).astype(np.float32)


def load(rows: np.ndarray, begin: int, centre: np.ndarray | float = 0.0) -> tuple[jax.Array, int]:
    """Block of rows [count, features] less `centre` on the device, and how many of its rows are there.

    It is float32 [BLOCK, features]; rows past the end are 0.
    """
    part = rows[begin : begin + BLOCK]
    block = np.zeros((BLOCK, rows.shape[1]), np.float32)
    np.subtract(part, centre, out=block[: len(part)], casting="same_kind")
    return jnp.asarray(block), len(part)


def pairs(a_count: int, b_count: int | None, progress: str = "") -> Iterator[tuple[int, int]]:
    """First rows of the pairs of blocks of two sets; the first set's changes slowly.

    Args:
      a_count, b_count: rows of the sets. None: the set with itself, each pair of blocks in one order only.
      progress: stands beside a progress bar; empty: none.
    """
    rows = range(0, a_count, BLOCK)
    columns = rows if b_count is None else range(0, b_count, BLOCK)
    chosen = [(i, j) for i in rows for j in columns if b_count is not None or j >= i]
    yield from tqdm(chosen, desc=progress, unit="block", disable=None if progress else True)
