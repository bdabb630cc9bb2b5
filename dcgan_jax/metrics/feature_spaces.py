"""What images are compared in: numbers that a network, or plain averages, make of them.

    inception   Inception-v3 with the weights of 2015-12-05: what FID, KID and the Inception score are defined on
    probe       the activations of a small network trained on the data's own labels or attributes (attribute_probe.py)
    pixels      averages over 8 x 8 blocks: what is left where nothing is known of the images

The last two need no download. Their distances rank the checkpoints and settings of one data set; they are not FID, are
not called so, and mean nothing beside numbers of another data set.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.metrics import attribute_probe, inception_v3, resize
from dcgan_jax.metrics.attribute_probe import AttributeProbe
from dcgan_jax.nets import pixels
from dcgan_jax.runs.sampler import full_batches

# What measures in Inception's features are called in the literature.
_INCEPTION_NAMES = {
    "frechet": "fid",
    "kernel": "kid",
    "kernel_subsets": "kid_subsets",
    "kernel_subsets_std": "kid_subsets_std",
    "score": "inception_score",
    "score_std": "inception_score_std",
}
# Rules of resizing whose numbers agree [README of pytorch-fid; torch-fidelity]; those of others get the rule's name.
_USUAL_RULES = ("pytorch-fid", "torch-fidelity")
_SIDE = 8  # of the averages of 'pixels': the lowest frequencies


class Embedded(NamedTuple):
    """float32 [images, features]; logits of Inception's classes float32 [images, classes], or None."""

    features: np.ndarray
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class FeatureSpace:
    """Attributes:

    name: see the module.
    embed: `embed(images, progress="")` of uint8 [count, height, width, channels]; 'probe' and 'pixels' also take
      float32 levels from 0 to 255 that were not rounded. `progress` names a progress bar.
    identity: all that its numbers depend on, for JSON: they are comparable where it is equal.
    names: what measures are called here, where that is not <space>_<measure>.
    """

    name: str
    embed: Callable[..., Embedded]
    identity: dict[str, Any]
    names: dict[str, str] = field(default_factory=dict)

    def measure(self, name: str) -> str:
        """The name of a measure taken in this space."""
        return self.names.get(name, f"{self.name}_{name}")


def name_of(identity: dict[str, Any]) -> str:
    """The name of the space with this identity, which references in it share: 'pixels', 'clean_inception'."""
    rule = identity.get("resize")
    return identity["features"] if rule is None or rule in _USUAL_RULES else f"{rule}_{identity['features']}"


def without_download(dataset: ImageDataset) -> FeatureSpace:
    """'probe' if something is known of the images, which trains it when it is not there yet; otherwise 'pixels'."""
    if attribute_probe.targets_of(dataset):
        return of_probe(attribute_probe.open_or_train(dataset))
    return of_pixels()


def of_probe(probe: AttributeProbe) -> FeatureSpace:
    """'probe', of a trained one."""
    checksum = hashlib.sha256()
    for leaf in jax.tree.leaves(probe.variables):
        checksum.update(np.asarray(leaf).tobytes())
    identity = {"features": "probe", "weights_sha256": checksum.hexdigest(), "targets": sorted(probe.targets)}
    return FeatureSpace("probe", lambda images, progress="": Embedded(probe.embed(images, progress)), identity)


def inception(weights: str | None = None, rule: str = resize.RULES[0]) -> FeatureSpace:
    """'inception', which downloads its weights if they are not there; 11 GFLOP an image.

    Args:
      weights: another file of weights; None: the released one in the cache folder.
      rule: of resizing, one of `resize.RULES`.

    Raises:
      UserError: see `inception_v3.load_weights`.
    """
    variables, checksum = inception_v3.load_weights(Path(weights) if weights else None)
    extract = inception_v3.make_extract(variables, rule)

    def embed(images: np.ndarray, progress: str = "") -> Embedded:
        features, logits = [], []
        for batch, count in full_batches(images, progress):
            outputs = extract(batch)
            features.append(np.asarray(outputs.features)[:count])
            logits.append(np.asarray(outputs.unbiased_logits)[:count])
        return Embedded(np.concatenate(features), np.concatenate(logits))

    identity = {"features": "inception", "weights_sha256": checksum, "resize": rule}
    space = name_of(identity)
    names = {measure: space.removesuffix("inception") + name for measure, name in _INCEPTION_NAMES.items()}
    return FeatureSpace(space, embed, identity, names)


def of_pixels() -> FeatureSpace:
    """'pixels': means of blocks, 8 x 8 of them (some more where 8 does not divide the side), from 0 to 1."""

    def embed(images: np.ndarray, progress: str = "") -> Embedded:
        del progress  # quick
        return Embedded((pixels.block_means(images, _SIDE) / 255).astype(np.float32))

    return FeatureSpace("pixels", embed, {"features": "pixels", "blocks": _SIDE})
