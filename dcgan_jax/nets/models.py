"""Generator and discriminator of the paper, and their relatives, as lists of stages.

Shapes: noise [batch, z_dim], labels int32 [batch], images [batch, height, width, channels], logits [batch]. There are
no biases besides the shifts of batch normalisation, as in the authors' scripts. Weights ~ N(0, 0.02), gains ~
N(1, 0.02) (paper section 4; faces/train_uncond_dcgan.py).

A network returns its result together with its *taps*: every activation by name, in order. Inside a jitted function
that drops them they cost nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from dcgan_jax.nets import batch_norm, conv, products
from dcgan_jax.nets.activations import ACTIVATIONS, Activation
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.nets.spectral_norm import SpectralNorm

Stages = tuple[tuple[int, int], ...]
Taps = dict[str, jax.Array]
Tree = Any  # a pytree of arrays

_weights = nn.initializers.normal(0.02)


def _gains(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return 1.0 + 0.02 * jax.random.normal(key, shape)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with statistics per group of examples.

    On a two-dimensional input that is one gain per unit, as the authors normalise the generator's projection. With
    `groups=2` the first half of the batch (real images) and the second half (generated ones) are normalised
    separately, exactly as in two passes. Running averages follow the first group only: those of the discriminator
    describe real images.

    Attributes:
      epsilon: added to the (biased) variance.
      affine: learn a gain and a shift.
      momentum: of the running averages, collection 'batch_stats'.
      axis_name: mapped axis over which statistics are averaged; None for those of this device alone.
      dtype: of the result; statistics are always float32.
    """

    epsilon: float
    affine: bool
    momentum: float
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, groups: int = 1) -> jax.Array:
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        gain = self.param("gain", _gains, (features,)) if self.affine else jnp.ones((features,))
        shift = self.param("shift", nn.initializers.zeros, (features,)) if self.affine else jnp.zeros((features,))

        if train:
            axis_name = None if self.is_initializing() else self.axis_name
            rows = x.reshape(groups, -1, features)
            y, (mean, var) = batch_norm.normalise(rows, gain, shift, running_mean.value, self.epsilon, axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                running_mean.value += (1.0 - self.momentum) * (mean[0, 0] - running_mean.value)
                running_var.value += (1.0 - self.momentum) * (var[0, 0] - running_var.value)
        else:
            mean, scale, shift = (
                jnp.expand_dims(row, range(x.ndim - 1))
                for row in (running_mean.value, gain * lax.rsqrt(running_var.value + self.epsilon), shift)
            )
            y = (x.astype(jnp.float32) - mean) * scale + shift
        return y.astype(self.dtype).reshape(x.shape)


class _Dense(nn.Module):
    """x [batch, features] and labels, joined, times `kernel`; see `_Network`."""

    features: int
    num_classes: int
    spectral_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array | None) -> jax.Array:
        count = x.shape[-1]
        kernel = self.param("kernel", _weights, (count + self.num_classes, self.features))
        if self.spectral_norm:
            kernel = SpectralNorm(name="spectral_norm")(kernel)
        if not self.num_classes:
            return products.dense(x, kernel)
        return products.dense(x, kernel[:count]) + _of_labels(labels, kernel[count:], x.dtype)


def _of_labels(labels: jax.Array | None, values: jax.Array, dtype: Any) -> jax.Array:
    """The rows of `values` [classes, ...] of the labels, [batch, ...]."""
    if labels is None:
        raise ValueError(f"a network with {len(values)} classes needs labels")
    # A product, because the gradient of indexing is a scatter; exact, as each sum has one term.
    one_hot = jax.nn.one_hot(labels, len(values), dtype=jnp.float32)
    rows = jnp.matmul(one_hot, values.astype(jnp.float32).reshape(len(values), -1), precision=lax.Precision.HIGHEST)
    return rows.reshape(-1, *values.shape[1:]).astype(dtype)


def _join_labels(x: jax.Array, labels: jax.Array | None, num_classes: int) -> jax.Array:
    """Appends one-hot labels to the last axis, repeated over height and width of maps."""
    if not num_classes:
        return x
    if labels is None:
        raise ValueError(f"a network with {num_classes} classes needs labels")
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=x.dtype)
    one_hot = one_hot.reshape(x.shape[0], *(1,) * (x.ndim - 2), num_classes)
    return jnp.concatenate([x, jnp.broadcast_to(one_hot, (*x.shape[:-1], num_classes))], -1)


class _Network(nn.Module):
    """What generator and discriminator share: settings, layers, normalisation.

    Attributes:
      stages: of the convolutions; () is a network of dense layers only.
      spectral_norm: of every kernel, see nets/spectral_norm.py; of discriminators only.
      resampling: 'strided' convolutions, or 'pooling': convolutions of stride 1 with max-pooling behind them (D), or
        repeated pixels before them (G).
      The others: see configs/default.py.
    """

    stages: Stages
    hidden: tuple[int, ...]
    activation: Activation
    resampling: str
    kernel_size: int
    num_classes: int
    norm: str
    norm_epsilon: float
    norm_affine: bool
    norm_momentum: float
    axis_name: str | None
    conv_method: str
    dtype: Any
    spectral_norm: bool

    def _dense(self, x: jax.Array, labels: jax.Array | None, features: int, name: str) -> jax.Array:
        return _Dense(features, self.num_classes, self.spectral_norm, name=name)(x, labels)

    def _conv(self, x: jax.Array, labels: jax.Array | None, features: int, stride: int, name: str) -> jax.Array:
        kernel = self._kernel(name, x.shape[-1] + self.num_classes, features)
        return self._with_labels(partial(conv.conv, stride=stride, method=self.conv_method), x, labels, kernel, name)

    def _conv_transpose(
        self, x: jax.Array, labels: jax.Array | None, features: int, stride: int, name: str
    ) -> jax.Array:
        kernel = self._kernel(name, features, x.shape[-1] + self.num_classes)
        convolve = partial(conv.conv_transpose, stride=stride, method=self.conv_method)
        return self._with_labels(convolve, x, labels, kernel, name)

    def _kernel(self, name: str, large: int, small: int) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, large, small)
        kernel: jax.Array = self.param(name, _weights, shape)
        return SpectralNorm(name=f"{name}_spectral_norm")(kernel) if self.spectral_norm else kernel

    def _with_labels(
        self,
        convolve: Callable[[jax.Array, jax.Array], jax.Array],
        x: jax.Array,
        labels: jax.Array | None,
        kernel: jax.Array,
        name: str,
    ) -> jax.Array:
        """Convolves x [batch, height, width, features] with labels joined behind the features; `name`: the kernel's.

        What the labels add is the same for all images of a class. So it is convolved once for each class, unless there
        are fewer images than classes. XLA's own convolutions take both together.
        """
        if not self.num_classes or self.conv_method == "lax" or x.shape[0] <= self.num_classes:
            return convolve(_join_labels(x, labels, self.num_classes), kernel)
        of_features, of_classes = jnp.split(kernel, [x.shape[-1]], input_axis(name))
        planes = jnp.eye(self.num_classes, dtype=x.dtype)[:, None, None, :]
        planes = jnp.broadcast_to(planes, (self.num_classes, *x.shape[1:3], self.num_classes))
        return convolve(x, of_features) + _of_labels(labels, convolve(planes, of_classes), x.dtype)

    def _normalise(self, x: jax.Array, name: str, *, end: bool, train: bool, groups: int = 1) -> jax.Array:
        """`end` marks the layers that the paper leaves out: the generator's output and the discriminator's input."""
        if self.norm == "none" or (end and self.norm == "paper"):
            return x
        layer = BatchNorm(
            self.norm_epsilon, self.norm_affine, self.norm_momentum, self.axis_name, self.dtype, name=f"{name}_norm"
        )
        return layer(x, train=train, groups=groups)


class Generator(_Network):
    """Noise -> dense layers -> projection to maps -> transposed convolutions -> image in the range of `output`.

    Taps: hidden1, ..., projection, deconv1, ... (after the activation), image. Without stages the projection is the
    image.

    Attributes besides the shared ones:
      image_shape: (height, width, channels) of the result; both sides are multiples of the product of the strides.
      output: 'tanh' or 'sigmoid'.
      projection_norm: 'unit' or 'channel', see configs/default.py.
      z_dim, z_distribution: of the noise, see `sample_noise`.
    """

    image_shape: tuple[int, int, int]
    output: str
    projection_norm: str
    z_dim: int
    z_distribution: str

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        labels: jax.Array | None = None,
        *,
        train: bool,
        gates: Mapping[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Taps]:
        """`gates`: factors [features] by name of a tap before the image; 0 drops a map [paper section 6.3.1]."""
        taps: Taps = {}

        def activate(name: str, x: jax.Array) -> jax.Array:
            x = self.activation(x)
            if gates and name in gates:
                x *= jnp.expand_dims(gates[name].astype(x.dtype), range(x.ndim - 1))
            taps[name] = x
            return x

        x = z.astype(self.dtype)
        for i, features in enumerate(self.hidden, 1):
            x = self._dense(x, labels, features, f"hidden{i}")
            x = activate(f"hidden{i}", self._normalise(x, f"hidden{i}", end=False, train=train))

        height, width = first_sides(self.image_shape, self.stages)
        widths = generator_widths(self.stages, self.image_shape[2])
        last = not self.stages
        x = self._dense(x, labels, height * width * widths[0], "projection")
        maps = (-1, height, width, widths[0])
        if self.projection_norm == "channel":
            x = self._normalise(x.reshape(maps), "projection", end=last, train=train)
        else:
            x = self._normalise(x, "projection", end=last, train=train).reshape(maps)
        if not last:
            x = activate("projection", x)

        for i, ((_, stride), features) in enumerate(zip(self.stages, widths[1:], strict=True), 1):
            last = i == len(self.stages)
            if self.resampling == "pooling":
                x, stride = x.repeat(stride, 1).repeat(stride, 2), 1
            x = self._conv_transpose(x, labels, features, stride, f"deconv{i}")
            x = self._normalise(x, f"deconv{i}", end=last, train=train)
            if not last:
                x = activate(f"deconv{i}", x)
        x = x.astype(jnp.float32)
        image = taps["image"] = jnp.tanh(x) if self.output == "tanh" else nn.sigmoid(x)
        return image, taps


class Discriminator(_Network):
    """Image -> strided convolutions -> dense layers -> logit; the sigmoid is in the loss.

    Taps: conv1, ..., hidden1, ... (after the activation and, if there is any, pooling), logit.

    Attributes besides the shared ones:
      head: 'dense' or 'pool', see configs/default.py.
      dropout: rate after every activation in training.
      outputs: with more than one it is a classifier of that many classes, and the logits are [batch, outputs].
    """

    head: str
    dropout: float
    outputs: int = 1

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        labels: jax.Array | None = None,
        *,
        train: bool,
        groups: int = 1,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, Taps]:
        """`groups`: see `BatchNorm`. `dropout_keys`: one key per example, needed in training if there is dropout."""
        taps: Taps = {}
        x = images.astype(self.dtype)
        for i, (features, stride) in enumerate(self.stages, 1):
            step = 1 if self.resampling == "pooling" else stride
            x = self._conv(x, labels, features, step, f"conv{i}")
            x = self.activation(self._normalise(x, f"conv{i}", end=i == 1, train=train, groups=groups))
            if step != stride:
                x = nn.max_pool(x, (stride, stride), (stride, stride))
            taps[f"conv{i}"] = x
            x = self._drop(x, i, train, dropout_keys)
        x = x.mean((1, 2)) if self.head == "pool" else x.reshape(x.shape[0], -1)
        for i, features in enumerate(self.hidden, 1):
            x = self._dense(x, labels, features, f"hidden{i}")
            end = i == 1 and not self.stages
            x = self._normalise(x, f"hidden{i}", end=end, train=train, groups=groups)
            x = taps[f"hidden{i}"] = self.activation(x)
            x = self._drop(x, len(self.stages) + i, train, dropout_keys)
        x = self._dense(x, labels, self.outputs, "logit").astype(jnp.float32)
        logit = taps["logit"] = x if self.outputs > 1 else x[:, 0]
        return logit, taps

    def _drop(self, x: jax.Array, layer: int, train: bool, keys: jax.Array | None) -> jax.Array:
        """Dropout with a key per example, so that masks do not depend on how the batch is split over devices."""
        if not train or self.dropout == 0.0:
            return x
        if keys is None:
            raise ValueError(f"dropout {self.dropout} needs dropout_keys")
        keep = 1.0 - self.dropout
        kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, layer), keep, x.shape[1:]))(keys)
        return jnp.where(kept, x / keep, 0.0).astype(x.dtype)


def input_axis(kernel: str) -> int:
    """The axis of a kernel along which it reads its input: features, and behind them labels, if there are any.

    `kernel` names it as the parameters do: 'conv1' [k, k, in, out], 'deconv1' [k, k, out, in], 'logit' [in, out].
    """
    return 2 if kernel.startswith("conv") else 3 if kernel.startswith("deconv") else 0


def stage_layers(count: int) -> frozenset[str]:
    """Names of the layers in the discriminator's first `count` stages: convolutions and their normalisation."""
    return frozenset(f"conv{i}{suffix}" for i in range(1, count + 1) for suffix in ("", "_norm"))


def first_sides(image_shape: Sequence[int], stages: Stages) -> tuple[int, int]:
    """Height and width of the generator's first maps (and of the discriminator's last ones).

    `image_shape`: (height, width, ...) of the images.
    """
    factor = math.prod(stride for _, stride in stages)
    return image_shape[0] // factor, image_shape[1] // factor


def generator_widths(stages: Stages, channels: int) -> list[int]:
    """Maps that the generator's projection and each of its transposed convolutions put out."""
    return [*(features for features, _ in stages), channels]


def build_generator(config: ConfigDict, axis_name: str | None = None) -> Generator:
    """The generator of a config that has been checked.

    Args:
      config: see configs/default.py.
      axis_name: the mapped axis over which the training step runs; None outside one.
    """
    model = config.model
    return Generator(
        **_shared(config, axis_name),
        stages=_scaled(model.generator.stages, model.width),
        activation=ACTIVATIONS[model.generator.activation],
        hidden=tuple(_scale(features, model.width) for features in model.generator.hidden),
        image_shape=image_shape(config.data),
        output=model.output,
        projection_norm=model.generator.projection_norm,
        z_dim=model.z_dim,
        z_distribution=model.z_distribution,
        spectral_norm=False,
    )


def build_discriminator(config: ConfigDict, axis_name: str | None = None) -> Discriminator:
    """The discriminator of a config that has been checked; arguments as of `build_generator`."""
    model = config.model
    return Discriminator(
        **_shared(config, axis_name),
        stages=_scaled(model.discriminator.stages, model.width),
        activation=ACTIVATIONS[model.discriminator.activation],
        hidden=tuple(_scale(features, model.width) for features in model.discriminator.hidden),
        head=model.discriminator.head,
        dropout=model.discriminator.dropout,
        spectral_norm=model.discriminator.spectral_norm,
    )


def _shared(config: ConfigDict, axis_name: str | None) -> dict[str, Any]:
    """The attributes of `_Network` that do not differ between the two."""
    model = config.model
    return {
        "resampling": model.resampling,
        "kernel_size": model.kernel_size,
        "num_classes": model.num_classes,
        "norm": model.norm,
        "norm_epsilon": model.norm_epsilon,
        "norm_affine": model.norm_affine,
        "norm_momentum": model.norm_momentum,
        "axis_name": axis_name if model.cross_replica_norm else None,
        "conv_method": config.conv,
        "dtype": jnp.dtype(config.precision),
    }


def _scaled(stages: Stages, width: float) -> Stages:
    return tuple((_scale(features, width), stride) for features, stride in stages)


def _scale(features: int, width: float) -> int:
    return max(1, round(features * width))


def sample_noise(key: jax.Array, shape: tuple[int, ...], distribution: str) -> jax.Array:
    """float32 noise, 'uniform' on [-1, 1] or 'normal'."""
    if distribution == "uniform":
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    return jax.random.normal(key, shape)
