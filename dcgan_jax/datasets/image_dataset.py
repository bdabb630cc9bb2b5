"""An image set in memory or mapped from disk: what packs are opened as, and what batches are made from."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError


@dataclass(frozen=True)
class ImageDataset:
    """An opened pack.

    images: uint8 [N, height, width, channels], memory-mapped, read-only.
    labels: int32 [N], or None.
    attributes: arrays with first axis N; {} if there are none.
    class_names: names of labels 0, 1, ..., or None.
    meta: content of meta.json.
    path: folder of the pack.
    """

    images: np.ndarray
    labels: np.ndarray | None
    attributes: dict[str, np.ndarray]
    class_names: list[str] | None
    meta: dict[str, Any]
    path: Path

    @functools.cached_property
    def keys(self) -> list[str]:
        """N names of the images in their source. Read when first asked for: training never is.

        Raises:
          UserError: the file is damaged.
        """
        path = self.path / "keys.json"
        try:
            keys: list[str] = files.read_json(path, list)
            if len(keys) != len(self.images) or set(map(type, keys)) != {str}:
                raise files.Damaged(path, f"it does not hold the names of {len(self.images)} images")
        except files.Damaged as error:
            raise UserError(
                f"{path} is damaged ({error.reason}): remove {self.path}, and the pack is built again."
            ) from error
        return keys
