"""The data's side of a comparison of samples with data: its features, once, and what they were taken of.

A reference in a file carries all that its numbers depend on: the data set, its split, size, crop and checksum, how many
images, and the feature space with the checksum of its weights and the rule of resizing. One that does not match what is
to be measured is refused.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.metrics.feature_spaces import FeatureSpace
from dcgan_jax.metrics.frechet import Moments

VERSION = 2  # of the file
# Images whose features stay, for measures that need more than moments [10,000: clovaai/prdc]; as many are in memory at
# a time.
MOST_FEATURES = 10_000


@dataclass(frozen=True)
class Reference:
    """Attributes:

    identity: what was measured in which feature space, JSON.
    moments: of the features of all images.
    features: float32 [MOST_FEATURES or fewer, features], of images drawn at random, the same ones always, in no order.
    """

    identity: dict[str, Any]
    moments: Moments
    features: np.ndarray


def identify(space: FeatureSpace, dataset: ImageDataset, count: int) -> dict[str, Any]:
    """All that a reference's numbers depend on."""
    meta = dataset.meta
    images = {name: meta.get(name) for name in ("source", "split", "image_size", "channels", "crop_size", "sha256")}
    images |= {name: meta[name] for name in ("image_width", "fit") if name in meta}  # where they are not the default
    return {"version": VERSION, **space.identity, **images, "count": count}


def build(space: FeatureSpace, dataset: ImageDataset, count: int = 0) -> Reference:
    """Of `count` images of a pack, drawn at random, the same ones always; 0: of all."""
    chosen = np.random.default_rng(0).permutation(len(dataset.images))  # folders are sorted by class
    chosen = chosen[: count or len(chosen)]
    moments, kept = Moments(), np.zeros(0)
    for begin in tqdm(range(0, len(chosen), MOST_FEATURES), desc="features of the data", unit="part", disable=None):
        features = space.embed(dataset.images[np.sort(chosen[begin : begin + MOST_FEATURES])]).features
        moments.add(features)
        if begin == 0:
            kept = features[np.random.default_rng(1).permutation(len(features))]
    return Reference(identify(space, dataset, len(chosen)), moments, kept)


def open_or_build(file: Path | None, space: FeatureSpace, dataset: ImageDataset, count: int = 0) -> Reference:
    """The reference in `file`; None: with the pack, see `ImageDataset.companion`. Built and written if it is not there.

    Raises:
      UserError: `file` cannot be read, or is of other images or features.
      OSError: `file` cannot be written.
    """
    identity = identify(space, dataset, min(count or len(dataset.images), len(dataset.images)))
    if file is None:
        return _open_beside_pack(identity, space, dataset, count)
    if file.exists():
        return load(file, identity)
    reference = build(space, dataset, count)
    save(reference, file)
    return reference


def _open_beside_pack(identity: dict[str, Any], space: FeatureSpace, dataset: ImageDataset, count: int) -> Reference:
    """A file for each identity; one that is damaged is made again, one that cannot be written is a warning."""
    checksum = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    path = dataset.companion(f"reference_{space.name}_{checksum}.npz")

    def load_kept(path: Path) -> Reference:
        reference = _read(path)
        if _differences(reference, identity):
            raise files.Damaged(path, "it holds statistics of something else")
        return reference

    return files.cached(
        path,
        purpose=f"the features of {dataset.path}",
        load=load_kept,
        make=lambda: build(space, dataset, count),
        save=_to_bytes,
    )


def save(reference: Reference, path: Path) -> None:
    """Writes a .npz file: 'identity' (JSON), 'count', 'mean' and 'scatter' float64, 'features' float32."""
    files.write_atomically(path, _to_bytes(reference))


def _to_bytes(reference: Reference) -> bytes:
    buffer, moments = io.BytesIO(), reference.moments
    np.savez(
        buffer,
        identity=json.dumps(reference.identity),
        count=moments.count,
        mean=moments.mean,
        scatter=moments.scatter,
        features=reference.features,
    )
    return buffer.getvalue()


def load(path: Path, identity: dict[str, Any]) -> Reference:
    """Reads a file of `save`.

    Raises:
      UserError: the file cannot be read, or was made of something else than `identity` says; every difference is named.
    """
    try:
        reference = _read(path)
    except files.Damaged as error:
        raise UserError(f"{path} is not a file of reference statistics, or is damaged ({error.reason}).") from error
    if different := _differences(reference, identity):
        raise UserError(
            f"{path} holds statistics of something else:\n" + "\n".join(different) + "\n"
            "Give the settings that it was made with, or another --reference."
        )
    return reference


def _read(path: Path) -> Reference:
    """Raises files.Missing or files.Damaged."""
    with files.reading(path):
        content = files.load_npz(path)
        moments = Moments(int(content["count"]), content["mean"], content["scatter"])
        reference = Reference(json.loads(str(content["identity"])), moments, content["features"])
        width = moments.mean.size
        shapes = [array.shape for array in (moments.mean, moments.scatter, reference.features[:1])]
        if not isinstance(reference.identity, dict) or shapes != [(width,), (width, width), (1, width)]:
            raise ValueError("it holds other arrays")
    return reference


def _differences(reference: Reference, identity: dict[str, Any]) -> list[str]:
    """Lines; none if all that the numbers depend on is as `identity` says."""
    found = reference.identity
    names = [name for name in identity if found.get(name) != identity[name]]
    if names == ["source"]:  # the same images may lie in another folder
        return []
    return [f"  {name}: {found.get(name)!r} in the file, {identity[name]!r} now" for name in names]
