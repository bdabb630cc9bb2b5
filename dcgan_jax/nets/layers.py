"""A trained network as a list of plain layers in numpy, batch normalisation folded in.

What other programs need of a network: `exchange` writes it as files, `explore` as a page.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dcgan_jax.nets import conv_lax
from dcgan_jax.nets.activations import ACTIVATIONS, LEAK
from dcgan_jax.nets.models import Discriminator, Generator, first_sides, generator_widths
from dcgan_jax.nets.spectral_norm import norm_of


@dataclass(frozen=True)
class Layer:
    """before(input, labels) * kernel + bias, reshaped, activated, pooled.

    Attributes:
      name: of its tap: hidden1, projection, deconv1, ..., image; conv1, ..., hidden1, ..., logit.
      kind: 'dense', 'conv' or 'conv_transpose', see nets/conv.py.
      kernel: float32; dense [in, out], otherwise [k, k, large_features, small_features]. Labels are the last inputs.
      bias: float32 [out features]; of a dense layer [units].
      stride: 1 or 2; 1 for dense layers.
      activation: 'relu', 'leaky_relu' (slope 0.2), 'tanh', 'sigmoid' or 'none'.
      labels: classes whose one-hot labels are joined behind the input's features, at every pixel of maps; 0: none.
      reshape: (height, width, features) of a dense layer's result, features last; None: it stays a vector.
      before: what happens to the input before labels are joined: 'none', 'repeat' (each pixel twice along both axes),
        'flatten' (maps to a vector, features last) or 'mean' (over height and width).
      after: what happens to the activated result: 'none' or 'max_pool' (2 x 2).
    """

    name: str
    kind: str
    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1
    activation: str = "none"
    labels: int = 0
    reshape: tuple[int, int, int] | None = None
    before: str = "none"
    after: str = "none"

    @property
    def in_features(self) -> int:
        """Features of the input without labels, after `before`."""
        axis = {"dense": 0, "conv": 2, "conv_transpose": 3}[self.kind]
        return self.kernel.shape[axis] - self.labels

    @property
    def out_features(self) -> int:
        """Units of a dense layer, maps of a convolution."""
        return len(self.bias)

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros (or, transposed, pixels that are cut off) at the low and the high end of both axes; (0, 0) if dense."""
        return (0, 0) if self.kind == "dense" else conv_lax.padding(self.kernel.shape[0], self.stride)


def generator_layers(generator: Generator, variables: Mapping[str, Any]) -> list[Layer]:
    """The layers of a generator: noise [count, z_dim] -> image [count, height, width, channels] in its output's range.

    Args:
      generator: see nets/models.py.
      variables: 'params' and 'batch_stats', whose statistics are used as running averages are.
    """
    fold, activation, labels = _Fold(generator, variables), _name(generator.activation), generator.num_classes
    layers = [
        fold.dense(f"hidden{i}", activation=activation, labels=labels) for i in range(1, len(generator.hidden) + 1)
    ]
    maps = generator_widths(generator.stages, generator.image_shape[2])[0]
    reshape = (*first_sides(generator.image_shape, generator.stages), maps)
    layers.append(fold.dense("projection", activation=activation, labels=labels, reshape=reshape))
    for i, (_, stride) in enumerate(generator.stages, 1):
        before = "none"
        if generator.resampling == "pooling":
            before, stride = _RESAMPLED[stride], 1
        layers.append(fold.conv(f"deconv{i}", "conv_transpose", stride, activation, labels, before=before))
    layers[-1] = replace(layers[-1], name="image", activation=generator.output)
    return layers


def discriminator_layers(discriminator: Discriminator, variables: Mapping[str, Any]) -> list[Layer]:
    """The layers of a discriminator: image [count, height, width, channels] in the networks' range -> logit [count, 1].

    Arguments as of `generator_layers`; the running averages of a discriminator are those of real images.
    """
    fold, activation, labels = (
        _Fold(discriminator, variables),
        _name(discriminator.activation),
        discriminator.num_classes,
    )
    layers = []
    for i, (_, stride) in enumerate(discriminator.stages, 1):
        pooled = discriminator.resampling == "pooling" and stride == 2
        after, stride = ("max_pool", 1) if pooled else ("none", stride)
        layers.append(fold.conv(f"conv{i}", "conv", stride, activation, labels, after=after))
    vector = "mean" if discriminator.head == "pool" else "flatten"
    for i in range(1, len(discriminator.hidden) + 1):
        layers.append(fold.dense(f"hidden{i}", activation=activation, labels=labels, before=vector))
        vector = "none"
    layers.append(fold.dense("logit", activation="none", labels=labels, before=vector))
    return layers


# What resampling='pooling' does to a generator's maps, by stride.
_RESAMPLED = {1: "none", 2: "repeat"}


def _name(activation: Any) -> str:
    return next(name for name, function in ACTIVATIONS.items() if function is activation)


class _Fold:
    """Layers from a network's variables; a normalisation that follows a layer becomes part of its kernel and bias."""

    def __init__(self, network: Generator | Discriminator, variables: Mapping[str, Any]) -> None:
        self._epsilon = network.norm_epsilon
        self._params, self._statistics = variables["params"], variables.get("batch_stats", {})

    def dense(self, name: str, **settings: Any) -> Layer:
        statistics = self._statistics.get(name, {}).get("spectral_norm")
        kernel = _spectrally_normalised(self._params[name]["kernel"], statistics)
        scale, bias = self._normalisation(name, kernel.shape[1])
        return Layer(name, "dense", kernel * scale, bias, **settings)

    def conv(
        self, name: str, kind: str, stride: int, activation: str, labels: int, before: str = "none", after: str = "none"
    ) -> Layer:
        kernel = _spectrally_normalised(self._params[name], self._statistics.get(f"{name}_spectral_norm"))
        axis = {"conv": 3, "conv_transpose": 2}[kind]
        scale, bias = self._normalisation(name, kernel.shape[axis])
        kernel = kernel * np.expand_dims(scale, [other for other in range(4) if other != axis])
        return Layer(name, kind, kernel, bias, stride, activation, labels, before=before, after=after)

    def _normalisation(self, name: str, units: int) -> tuple[np.ndarray, np.ndarray]:
        """Factor and shift of a layer's units, float32 [units]; one per channel is repeated over the pixels."""
        if f"{name}_norm" not in self._statistics:
            return np.ones(units, np.float32), np.zeros(units, np.float32)
        statistics, learned = self._statistics[f"{name}_norm"], self._params.get(f"{name}_norm", {})
        mean, variance = (np.asarray(statistics[part], np.float64) for part in ("mean", "var"))
        scale = np.asarray(learned.get("gain", 1.0), np.float64) / np.sqrt(variance + self._epsilon)
        shift = np.asarray(learned.get("shift", 0.0), np.float64) - mean * scale
        repeats = units // len(scale)
        return np.tile(scale, repeats).astype(np.float32), np.tile(shift, repeats).astype(np.float32)


def _spectrally_normalised(kernel: Any, statistics: Mapping[str, Any] | None) -> np.ndarray:
    """The kernel in float32, over its norm if it has `statistics` of one."""
    kernel = np.asarray(kernel, np.float32)
    return kernel / np.asarray(norm_of(kernel, statistics["u"])[0]) if statistics else kernel


def apply(
    layers: list[Layer], x: np.ndarray, labels: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What the layers say to float32 input [count, ...], plainly computed; labels int [count].

    Returns:
      The last layer's result, and every layer's by name.
    """
    taps = {}
    for layer in layers:
        x = taps[layer.name] = _apply(layer, np.asarray(x, np.float32), labels)
    return x, taps


def _apply(layer: Layer, x: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    if layer.before == "repeat":
        x = x.repeat(2, 1).repeat(2, 2)
    elif layer.before == "flatten":
        x = x.reshape(len(x), -1)
    elif layer.before == "mean":
        x = x.mean((1, 2))
    if layer.labels:
        one_hot = np.eye(layer.labels, dtype=np.float32)[labels].reshape(len(x), *(1,) * (x.ndim - 2), layer.labels)
        x = np.concatenate([x, np.broadcast_to(one_hot, (*x.shape[:-1], layer.labels))], -1)
    y = _PRODUCTS[layer.kind](layer, x) + layer.bias
    if layer.reshape:
        y = y.reshape(-1, *layer.reshape)
    y = _ACTIVATIONS[layer.activation](y)
    if layer.after == "max_pool":
        count, height, width, features = y.shape
        y = y.reshape(count, height // 2, 2, width // 2, 2, features).max((2, 4))
    return y


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda y: y,
    "relu": lambda y: np.maximum(y, 0.0),
    "leaky_relu": lambda y: np.where(y > 0.0, y, LEAK * y),
    "tanh": np.tanh,
    "sigmoid": lambda y: 1.0 / (1.0 + np.exp(-y)),
}


def _dense(layer: Layer, x: np.ndarray) -> np.ndarray:
    return x @ layer.kernel


def _conv(layer: Layer, large: np.ndarray) -> np.ndarray:
    """small[i] = sum_t large[stride * i + t - low] kernel[t]."""
    (low, high), stride, size = layer.padding, layer.stride, layer.kernel.shape[0]
    height, width = large.shape[1] // stride, large.shape[2] // stride
    padded = np.pad(large, ((0, 0), (low, high), (low, high), (0, 0)))
    small = np.zeros((len(large), height, width, layer.out_features), np.float32)
    for y in range(size):
        for x in range(size):
            small += padded[:, y : y + stride * height : stride, x : x + stride * width : stride] @ layer.kernel[y, x]
    return small


def _conv_transpose(layer: Layer, small: np.ndarray) -> np.ndarray:
    """large[stride * i + t - low] += small[i] kernel[t]^T."""
    (low, _), stride, size = layer.padding, layer.stride, layer.kernel.shape[0]
    count, height, width, _ = small.shape
    padded = np.zeros((count, stride * height + size, stride * width + size, layer.out_features), np.float32)
    for y in range(size):
        for x in range(size):
            part = padded[:, y : y + stride * height : stride, x : x + stride * width : stride]
            part += small @ layer.kernel[y, x].T
    return padded[:, low : low + stride * height, low : low + stride * width]


_PRODUCTS = {"dense": _dense, "conv": _conv, "conv_transpose": _conv_transpose}
