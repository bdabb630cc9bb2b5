"""An image set in memory or mapped from disk: what packs are opened as, and what batches are made from."""

import contextlib
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError

_DIGESTED = 50_000


@dataclass(frozen=True)
class ImageDataset:
    """An opened pack.

    images: uint8 [N, height, width, channels], memory-mapped, read-only.
    labels: int32 [N], or None.
    attributes: arrays with first axis N; {} if there are none.
    class_names: names of labels 0, 1, ..., or None.
    meta: content of meta.json.
    path: folder of the pack.
    kept_in: folder for files that are made from the images; None: the pack's own. A pack that was brought from
        elsewhere is only read.
    """

    images: np.ndarray
    labels: np.ndarray | None
    attributes: dict[str, np.ndarray]
    class_names: list[str] | None
    meta: dict[str, Any]
    path: Path
    kept_in: Path | None = None

    def has_images_of(self, other: "ImageDataset") -> bool:
        """Whether more than half of these images are in the other pack, as `share_in` knows."""
        return self.share_in(other) > 0.5

    def share_in(self, other: "ImageDataset") -> float:
        """About which share of these images is in the other pack, pixel for pixel, wherever they came from: 0 to 1.

        1 if both hold images of one split of one source, of which they may take different parts. Of sets with more than
        50,000 images as many are looked at, drawn at random: the share is an estimate then.
        """
        origins = [(pack.meta.get("source"), pack.meta.get("split")) for pack in (self, other)]
        from_one_split = None not in origins[0] and origins[0] == origins[1]
        if from_one_split or self.meta["sha256"] == other.meta["sha256"]:
            return 1.0
        ours, theirs = (pack.digests(seed) for seed, pack in enumerate((self, other)))
        there = set(theirs)
        found = sum(digest in there for digest in ours)
        return min(1.0, found / len(ours) * len(other.images) / len(theirs))

    def digests(self, seed: int) -> list[bytes]:
        """Checksums of the images, or of 50,000 that are drawn with the seed."""
        count = len(self.images)
        numbers = np.arange(count)
        if count > _DIGESTED:
            numbers = np.sort(np.random.default_rng(seed).choice(count, _DIGESTED, replace=False))
        return [hashlib.blake2b(self.images[number].tobytes(), digest_size=8).digest() for number in numbers]

    def companion(self, name: str) -> Path:
        """Where a file that is made from these images is kept, such as a probe. A pack may have brought it along."""
        if self.kept_in is None:
            return self.path / name
        here, brought = self.kept_in / name, self.path / name
        if brought.exists() and not here.exists():
            with contextlib.suppress(OSError):  # it is made again then
                files.write_atomically(here, brought.read_bytes())
        return here

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
            remedy = "copy the pack again" if self.kept_in else f"remove {self.path}, and the pack is built again"
            raise UserError(f"{path} is damaged ({error.reason}): {remedy}.") from error
        return keys


def open_pack(path: Path) -> ImageDataset:
    """The pack in the folder `path`.

    Raises:
      files.Missing: there is no such folder.
      files.Damaged: there is no sound pack in it.
      OSError: it cannot be read.
    """
    if not path.exists():
        raise files.Missing(path, "there is no such folder")
    names = [name for name in ("images.npy", "meta.json") if not (path / name).exists()]
    if names:
        raise files.Damaged(path / names[0], "it is missing")
    with files.reading(path):
        meta = files.read_json(path / "meta.json", dict)
        images = files.load_npy(path / "images.npy", mapped=True)
        labels = files.load_npy(path / "labels.npy") if (path / "labels.npy").exists() else None
        attributes = files.load_npz(path / "attributes.npz") if (path / "attributes.npz").exists() else {}
        width = meta.get("image_width", meta["image_size"])
        shape = (meta["count"], meta["image_size"], width, meta["channels"])
        class_names = meta["class_names"]
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(f"images.npy is {images.dtype} {images.shape}, not uint8 {shape}")
        if (path / "images.npy").stat().st_size != meta["bytes"]:
            raise ValueError("images.npy does not have the size that meta.json promises")
        if (labels is None) != (meta["labels_sha256"] is None):
            raise ValueError("labels.npy is missing or left over")
        if labels is not None and (labels.shape != shape[:1] or labels.dtype != np.int32):
            raise ValueError(f"labels.npy is {labels.dtype} {labels.shape}, not int32 {shape[:1]}")
        if any(len(values) != len(images) for values in attributes.values()):
            raise ValueError("its files have different lengths")
        if class_names is not None and not all(isinstance(name, str) for name in class_names):
            raise ValueError("its classes have no names")
        if not all(isinstance(meta[name], str) for name in ("source", "sha256")):
            raise ValueError("meta.json does not say what the pack was made from")
    return ImageDataset(images, labels, attributes, class_names, meta, path)
