"""A small network that reads an image's attributes: what makes the latent-space experiments measurable.

It is trained once per pack and seed, on everything that the pack knows about its images, and kept in the pack's folder:

    label, whole numbers, yes or no   classified (the expression's name, smiling or not)
    real numbers                      regressed (the turn of a head)
    windows                           boxes; every pixel is classified as inside one or not (toy bedrooms)

A tenth of the images (at most 2,000) is held out; accuracy there comes with the probe and belongs beside every figure
that depends on it. Generated images are not real ones: training adds noise and changes of contrast to lessen the gap.

A probe also reads attributes off images that are none, such as two faces laid over each other. So it tells how far an
image is from the data: the Mahalanobis distance of the mean activations of all layers from their mean over the training
images [Lee et al. 2018]. An image is *plausible* if it is no farther than 95 % of the held-out images.

Another seed is another probe: other first weights, batches and held-out images. Where a probe chose the samples of an
experiment, a second one can judge the result.
"""

import functools
import itertools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dcgan_jax.datasets import batches, classes
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import files, rng
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.progress import tqdm
from dcgan_jax.nets import models
from dcgan_jax.nets.activations import leaky_relu
from dcgan_jax.nets.models import Tree
from dcgan_jax.runs.sampler import full_batches

VERSION = 1  # raise when anything about the network or its training changes: cached probes are then made again
BOXES = "windows"  # the attribute [count, 4] that is read pixel by pixel, see datasets/toy_bedrooms.py

_FEATURES = "features"  # among the network's outputs: mean activations of every layer
_BATCH_SIZE = 128
_STEPS = 800
_LEARNING_RATE = 2e-3
_WIDTHS = (32, 64, 128, 128)  # of the strided convolutions, as many as the image allows
_HIDDEN = 128
_BOXES_WEIGHT = 10.0  # of the loss of pixels, which is small: most of them are outside and easy
_NOISE = 0.1  # largest standard deviation of the noise added in training; pixels are in [-1, 1]
_CONTRAST = 0.2  # largest relative change of contrast
_FEWEST = 10  # images
_MOST_CLASSES = 100  # a whole number with more values is no class
_MOST_HELD_OUT = 2000
_MOST_FEATURES = 10_000  # training images whose features' mean and covariance are taken
_PLAUSIBLE = 0.95  # share of held-out images that are plausible

_log = logging.getLogger(__name__)


class Target(NamedTuple):
    """Something that the probe reads.

    Attributes:
      name: 'label', or the name of the attribute.
      classes: how many; 0 for a number, and for boxes.
      mean, scale: of a number, over the training images; the network predicts (value - mean) / scale.
      held_out: accuracy of a class, correlation of a number, or intersection over union of boxes, on images that were
        not trained on.
    """

    name: str
    classes: int
    mean: float = 0.0
    scale: float = 1.0
    held_out: float = math.nan

    @property
    def accuracy(self) -> str:
        """The held-out figure in words."""
        if self.name == BOXES:
            return f"intersection over union {self.held_out:.2f}"
        return f"accuracy {100 * self.held_out:.1f} %" if self.classes else f"correlation {self.held_out:.3f}"


@dataclass(frozen=True)
class AttributeProbe:
    """A trained probe.

    Attributes:
      targets: what it reads, by name.
      class_names: of the label, or None.
      variables: of the network.
      features: 'mean' [features], 'precision' [features, features] and 'limit' of a plausible image's distance.
    """

    targets: dict[str, Target]
    class_names: list[str] | None
    variables: Tree
    features: dict[str, np.ndarray]

    def read(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What uint8 images [count, height, width, channels] show.

        Returns:
          By name: probabilities [count, classes] of a class, [count] of a number in its own unit, and for BOXES the
          probability [count, height, width] that a pixel lies in one. float32.
        """
        read = _predict(self.targets, self.variables, images)
        return {name: read[name] for name in self.targets}

    def embed(self, images: np.ndarray, progress: str = "") -> np.ndarray:
        """Mean activations of all layers, float32 [count, features], of uint8 images [count, height, width, channels].

        A feature space in which images can be compared that need no network from elsewhere. Images may also be float32
        levels from 0 to 255 that were not rounded. `progress` names a progress bar; '' shows none.
        """
        return _predict(self.targets, self.variables, images, progress)[_FEATURES]

    def plausible(self, images: np.ndarray) -> np.ndarray:
        """Which uint8 images [count, height, width, channels] are like the data, bool [count]."""
        return (
            _distance(self.embed(images), self.features["mean"], self.features["precision"]) <= self.features["limit"]
        )


def known(dataset: ImageDataset) -> dict[str, np.ndarray]:
    """What a pack knows of its images, by name: int32 [N] of a class, float32 [N], or boxes float32 [N, count, 4].

    Folders named train and test are taken for splits, which say nothing about an image.
    """
    columns = {}
    if dataset.labels is not None and not classes.are_splits(dataset.class_names):
        columns = {"label": dataset.labels}
    found = {}
    for name, values in (columns | dataset.attributes).items():
        if name == BOXES:
            found[name] = values
        elif values.ndim == 1 and values.max() > values.min():
            if values.dtype.kind == "f":
                found[name] = values.astype(np.float32)
            elif values.dtype.kind in "biu" and values.min() >= 0 and values.max() < _MOST_CLASSES:
                found[name] = values.astype(np.int32)
    return found


def targets_of(dataset: ImageDataset) -> dict[str, Target]:
    """What a probe of these images will read, by name; {} if nothing is known about them. Trains nothing."""
    targets = {}
    for name, values in known(dataset).items():
        targets[name] = Target(name, int(values.max()) + 1 if values.dtype.kind == "i" else 0)
    return targets


def is_trained(dataset: ImageDataset, seed: int = 0) -> bool:
    """Whether `open_or_train` only has to open the probe."""
    return dataset.companion(_file(seed)).exists()


def open_or_train(dataset: ImageDataset, seed: int = 0) -> AttributeProbe:
    """The probe of a pack; trained (two to six minutes on two CPU cores) when it is not there yet.

    Args:
      dataset: the pack.
      seed: of the first weights, the batches, the noise and the choice of what is held out.

    Raises:
      UserError: the images have neither labels nor attributes, or are too few.
    """
    truth = known(dataset)
    if not truth:
        raise UserError(
            f"{dataset.meta['source']} has neither labels nor attributes, so nothing can be measured with a probe. "
            "Sort the images into a folder per class, or choose the exemplars by number."
        )
    if len(dataset.images) < _FEWEST:
        raise UserError(
            f"{dataset.meta['source']} has {len(dataset.images)} images, too few to train a probe; it needs {_FEWEST}."
        )
    return files.cached(
        dataset.companion(_file(seed)),
        purpose=f"the probe of {dataset.meta['source']}",
        load=lambda path: _load(path, dataset),
        make=lambda: _train(dataset, truth, seed),
        save=_to_bytes,
    )


def open_judges(dataset: ImageDataset) -> tuple[AttributeProbe, AttributeProbe]:
    """The probe of seed 0, which chooses the samples of an experiment and judges the result, and a second judge.

    The second is the probe of seed 1, which chooses nothing. Both are trained where they are not there yet. Raises
    UserError as `open_or_train` does.
    """
    return open_or_train(dataset), open_or_train(dataset, seed=1)


def _file(seed: int) -> str:
    return f"attribute_probe_{seed}.msgpack" if seed else "attribute_probe.msgpack"


def _load(path: Path, dataset: ImageDataset) -> AttributeProbe:
    """Raises files.Missing if there is no such file, files.Damaged if it is damaged or of another version."""
    with files.reading(path):
        content = flax.serialization.msgpack_restore(path.read_bytes())
        if content["version"] != VERSION:
            raise ValueError(f"its version is {content['version']}, not {VERSION}")
        targets = {target[0]: Target(*target) for target in content["targets"]}
        return AttributeProbe(targets, dataset.class_names, content["variables"], content["features"])


def _to_bytes(probe: AttributeProbe) -> bytes:
    """What `_load` reads."""
    content = {
        "version": VERSION,
        "targets": [list(target) for target in probe.targets.values()],
        "variables": probe.variables,
        "features": probe.features,
    }
    return bytes(flax.serialization.msgpack_serialize(content))


# --- The network -----------------------------------------------------------------------------------------------------


class _Network(nn.Module):
    """A discriminator's layers with one dense head per target, and a map of logits for BOXES."""

    trunk: models.Discriminator
    targets: tuple[Target, ...]

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Images [batch, height, width, channels] in [-1, 1] -> logits [batch, classes], [batch], or of boxes a map.

        The map is [batch, height / 2, width / 2]. Besides _FEATURES [batch, features].
        """
        _, taps = self.trunk(images, train=train)
        means = [x.mean((1, 2)) for name, x in taps.items() if name.startswith("conv")]
        outputs = {_FEATURES: jnp.concatenate([*means, taps["hidden1"]], 1)}
        for target in self.targets:
            if target.name == BOXES:
                outputs[target.name] = self._map(taps)
            else:
                x = nn.Dense(max(target.classes, 1), name=f"head_{target.name}")(taps["hidden1"])
                outputs[target.name] = x if target.classes else x[:, 0]
        return outputs

    def _map(self, taps: models.Taps) -> jax.Array:
        """Every layer's maps, brought to the resolution of the first and added up [feature pyramid networks]."""
        depth = len(self.trunk.stages)
        total = nn.Dense(_WIDTHS[0], name=f"map_conv{depth}")(taps[f"conv{depth}"])
        for i in reversed(range(1, depth)):
            layer = nn.Dense(_WIDTHS[0], name=f"map_conv{i}")(taps[f"conv{i}"])
            total = leaky_relu(layer + total.repeat(2, 1).repeat(2, 2))
        return nn.Dense(1, name="map")(total)[..., 0]


@functools.lru_cache(maxsize=4)
def _network(targets: tuple[Target, ...], height: int, width: int) -> _Network:
    stages: list[tuple[int, int]] = []
    for features in _WIDTHS:
        sides = models.first_sides((height, width), tuple(stages))
        if sides[0] % 2 or sides[1] % 2 or min(sides) <= 4:
            break
        stages.append((features, 2))
    trunk = models.Discriminator(
        stages=tuple(stages),
        hidden=(_HIDDEN,),
        activation=leaky_relu,
        resampling="strided",
        kernel_size=3,
        num_classes=0,
        norm="paper",
        norm_epsilon=1e-5,
        norm_affine=True,
        norm_momentum=0.9,
        axis_name=None,
        conv_method="auto",
        dtype=jnp.float32,
        head="dense",
        dropout=0.0,
        spectral_norm=False,
        name="trunk",
    )
    return _Network(trunk, targets)


@functools.lru_cache(maxsize=4)
def _make_predict(targets: tuple[Target, ...], height: int, width: int) -> Any:
    network = _network(targets, height, width)

    @jax.jit
    def predict(variables: Tree, images: jax.Array) -> dict[str, jax.Array]:
        outputs: Any = network.apply(variables, images.astype(jnp.float32) / 127.5 - 1.0, train=False)
        result = {_FEATURES: outputs[_FEATURES]}
        for target in targets:
            output = outputs[target.name]
            if target.name == BOXES:
                result[target.name] = nn.sigmoid(output).repeat(2, 1).repeat(2, 2)
            elif target.classes:
                result[target.name] = nn.softmax(output)
            else:
                result[target.name] = output * target.scale + target.mean
        return result

    return predict


def _predict(
    targets: dict[str, Target], variables: Tree, images: np.ndarray, progress: str = ""
) -> dict[str, np.ndarray]:
    """The outputs for all images, in batches of one size: one compiled program."""
    predict = _make_predict(tuple(target._replace(held_out=0.0) for target in targets.values()), *images.shape[1:3])
    parts = []
    for batch, count in full_batches(images, progress):
        parts.append({name: np.asarray(v)[:count] for name, v in predict(variables, batch).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# --- Training --------------------------------------------------------------------------------------------------------


def box_masks(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose centre lies in a box, bool [N, height, width], of boxes [N, count, 4]: x0, y0, x1, y1 in [0, 1]."""
    y, x = ((np.arange(side) + 0.5) / side for side in (height, width))
    x0, y0, x1, y1 = (boxes[..., i, None] for i in range(4))
    across, down = (x0 <= x) & (x < x1), (y0 <= y) & (y < y1)
    return np.any(down[..., :, None] & across[..., None, :], axis=1)


def _train(dataset: ImageDataset, truth: dict[str, np.ndarray], seed: int) -> AttributeProbe:
    count, height, width, channels = dataset.images.shape
    order = np.random.default_rng(2 * seed).permutation(count)
    held_out = order[: min(count // 10, _MOST_HELD_OUT)]
    training = order[len(held_out) :]
    targets = []
    for name, target in targets_of(dataset).items():
        if not target.classes and name != BOXES:
            seen = truth[name][training]
            target = target._replace(mean=float(seen.mean()), scale=float(seen.std()) or 1.0)
        targets.append(target)

    network = _network(tuple(target._replace(held_out=0.0) for target in targets), height, width)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))
    shape = (1, height, width, channels)
    variables = jax.jit(functools.partial(network.init, train=False))(rng.stream(seed, "probe_init"), jnp.zeros(shape))
    step = _make_step(network, tuple(targets), optimizer, seed)
    state = (variables["params"], variables.get("batch_stats", {}), optimizer.init(variables["params"]))
    chosen = itertools.islice(batches.shuffled(training, _BATCH_SIZE, np.random.default_rng(2 * seed + 1)), _STEPS)
    for i, rows in enumerate(tqdm(chosen, total=_STEPS, desc="attribute probe", unit="step", disable=None)):
        batch = {name: values[rows] for name, values in truth.items()}
        if BOXES in batch:
            batch[BOXES] = box_masks(batch[BOXES], height // 2, width // 2)  # the resolution of the first convolution
        state = step(state, np.int32(i), dataset.images[rows], batch)

    variables = jax.tree.map(np.asarray, {"params": state[0], "batch_stats": state[1]})
    by_name = {target.name: target for target in targets}
    seen = _predict(by_name, variables, dataset.images[np.sort(training[:_MOST_FEATURES])])[_FEATURES]
    mean, precision = seen.mean(0), _precision(seen)
    held_out = np.sort(held_out)
    found = _predict(by_name, variables, dataset.images[held_out])
    limit = np.quantile(_distance(found[_FEATURES], mean, precision), _PLAUSIBLE)
    scored = {t.name: t._replace(held_out=_score(t, found[t.name], truth[t.name][held_out])) for t in targets}
    features = {"mean": mean, "precision": precision, "limit": np.asarray(limit)}
    return AttributeProbe(scored, dataset.class_names, variables, features)


def _precision(features: np.ndarray) -> np.ndarray:
    """Inverse covariance [features, features] of [images, features]; a little of the mean variance is added."""
    covariance = np.cov(features.T.astype(np.float64))
    ridge = 1e-4 * np.trace(covariance) / len(covariance)
    return np.linalg.inv(covariance + max(ridge, 1e-12) * np.eye(len(covariance)))


def _distance(features: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Mahalanobis distance of [images, features], [images]."""
    apart = features.astype(np.float64) - mean
    return np.sqrt(np.sum(apart @ precision * apart, axis=1))


def _make_step(
    network: _Network, targets: tuple[Target, ...], optimizer: optax.GradientTransformation, seed: int
) -> Any:
    def losses(params: Tree, batch_stats: Tree, images: jax.Array, batch: Tree) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updates = network.apply(variables, images, train=True, mutable=["batch_stats"])
        total = jnp.zeros(())
        for target in targets:
            output, value = outputs[target.name], batch[target.name]
            if target.name == BOXES:
                loss = _BOXES_WEIGHT * optax.sigmoid_binary_cross_entropy(output, value.astype(jnp.float32))
            elif target.classes:
                loss = optax.softmax_cross_entropy_with_integer_labels(output, value)
            else:
                loss = jnp.square(output - (value - target.mean) / target.scale)
            total += loss.mean()
        return total, updates.get("batch_stats", {})

    @jax.jit
    def step(state: Tree, i: jax.Array, images: jax.Array, batch: Tree) -> Tree:
        params, batch_stats, opt_state = state
        images = _augment(rng.stream(seed, "probe_augment", i), images.astype(jnp.float32) / 127.5 - 1.0)
        (_, batch_stats), gradient = jax.value_and_grad(losses, has_aux=True)(params, batch_stats, images, batch)
        update, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, update), batch_stats, opt_state

    return step


def _augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Contrast and noise, each image its own."""
    keys = jax.random.split(key, 3)
    each = (len(images), 1, 1, 1)
    contrast = jax.random.uniform(keys[0], each, minval=1.0 - _CONTRAST, maxval=1.0 + _CONTRAST)
    deviation = jax.random.uniform(keys[1], each, maxval=_NOISE)
    return jnp.clip(contrast * images + deviation * jax.random.normal(keys[2], images.shape), -1.0, 1.0)


def _score(target: Target, found: np.ndarray, known: np.ndarray) -> float:
    """See `Target.held_out`."""
    if target.name == BOXES:
        inside, truth = found > 0.5, box_masks(known, *found.shape[1:])
        return float((inside & truth).sum() / max((inside | truth).sum(), 1))
    if target.classes:
        return float((found.argmax(1) == known).mean())
    return float(np.corrcoef(found, known)[0, 1]) if len(known) > 1 and known.std() and found.std() else math.nan
