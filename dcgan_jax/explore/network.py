"""A network as engine.js wants it: a description as JSON and its weights as float16.

Every layer becomes the same operation, a sum of matrix products over the pixels of a padded map:

    result[spread * i + (y, x)] = bias + sum over (t, u) of source[step * i + (top + t, left + u)] weights[t, u]

A convolution has one *phase* (y, x) and step = stride. A transposed one has step 1, spread = stride and a phase per
residue of the result's pixels, so that no zero is multiplied: phase y has the taps t of the kernel with t = y + low
(mod stride), in falling order. A dense layer is a convolution with one place.

Repeating pixels before a transposed convolution of stride 1 is a transposed convolution of stride 2 with the kernel
k[t] + k[t - 1] along both axes, which has a third of the arithmetic.
"""

import base64
import math
from importlib import resources
from typing import Any

import numpy as np

from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.layers import Layer

# Weights of this many features stand side by side, those of a last four or fewer alone: see `_panels`.
PANEL = 8
# Registers of WebAssembly hold so many float32.
_LANES = 4


def pack(layers: list[Layer], sides: tuple[int, int] | None = None) -> tuple[dict[str, Any], bytes]:
    """A network's description and its weights.

    Args:
      layers: see nets/layers.py.
      sides: height and width of the images that a discriminator takes. They can be left out where these are square, and
        a dense layer takes all pixels of the last maps.

    Returns:
      The description, ready for JSON, and the weights as little-endian float16. Of every layer the description holds
      `name`, `activation`, `labels` and the `shape` [height, width, features] of its tap (vectors are [1, 1, units]);
      the rest is between this module and engine.js. Offsets and sizes count numbers, not bytes.

    Raises:
      UserError: float16 cannot hold the weights.
    """
    weights = _Weights()
    shape = _input_shape(layers, sides)
    described = []
    for layer in layers:
        described.append(_describe(layer, shape, weights))
        shape = described[-1]["shape"]
    description = {"input": described[0]["source"], "labels": layers[0].labels, "layers": described}
    return description, weights.data()


class _Weights:
    """Float16 tensors behind each other."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._size = 0

    def add(self, values: np.ndarray) -> int:
        """Offset of the values that are appended, in numbers."""
        with np.errstate(over="ignore"):
            half = values.astype("<f2").ravel()
        if not np.isfinite(half).all():
            raise UserError("The network's weights are not finite, or too large for float16: train it again.")
        offset = self._size
        self._parts.append(half)
        self._size += half.size
        return offset

    def data(self) -> bytes:
        return np.concatenate(self._parts).tobytes()


def _input_shape(layers: list[Layer], sides: tuple[int, int] | None) -> list[int]:
    """[height, width, features] of what the first layer takes."""
    first = layers[0]
    if first.kind == "dense":
        return [1, 1, first.in_features]
    return [*(sides or _square(layers)), first.in_features]


def _square(layers: list[Layer]) -> tuple[int, int]:
    """Height and width of square images, from the dense layer that takes the last maps."""
    index = next((i for i, layer in enumerate(layers) if layer.before == "flatten"), None)
    if not index:
        raise ValueError("without a layer that flattens its input, the side of the images must be given")
    last = math.isqrt(layers[index].in_features // layers[index - 1].out_features)
    side = last * math.prod(layer.stride * (2 if layer.after == "max_pool" else 1) for layer in layers[:index])
    return side, side


def _describe(layer: Layer, before: list[int], weights: _Weights) -> dict[str, Any]:
    """A layer that takes maps of the shape `before`."""
    if layer.kind == "dense":
        source, spread, step, padding = [1, 1, layer.in_features], 1, 1, (0, 0)
        phases = [_phase(layer.kernel[None, None], weights)]
    elif layer.kind == "conv":
        source, spread, step, padding = before, 1, layer.stride, layer.padding
        phases = [_phase(layer.kernel, weights)]
    else:
        kernel, spread = layer.kernel, layer.stride
        if layer.before == "repeat":
            kernel, spread = _repeated(kernel), 2
        source, step = before, 1
        phases, padding = _transposed(kernel, layer.padding[0], spread, weights)
    height, width, _ = source
    result = [height * spread // step, width * spread // step, layer.out_features]
    shape = list(layer.reshape or result)
    if layer.after == "max_pool":
        shape = [shape[0] // 2, shape[1] // 2, shape[2]]
    return {
        "name": layer.name,
        "activation": layer.activation,
        "labels": layer.labels,
        "shape": shape,
        "mean": math.prod(before[:2]) if layer.before == "mean" else 1,
        "source": source,
        "padding": list(padding),
        "step": step,
        "spread": spread,
        "phases": phases,
        "result": result,
        "bias": weights.add(_filled(layer.bias)),
        "pool": layer.after == "max_pool",
    }


def _phase(kernel: np.ndarray, weights: _Weights, **place: int) -> dict[str, int]:
    """kernel: [rows, columns, in features, out features]."""
    rows, columns = kernel.shape[:2]
    place = {"y": 0, "x": 0, "top": 0, "left": 0} | place
    return {**place, "rows": rows, "columns": columns, "weights": weights.add(_panels(kernel))}


def _transposed(
    kernel: np.ndarray, low: int, stride: int, weights: _Weights
) -> tuple[list[dict[str, int]], tuple[int, int]]:
    """The phases of a transposed convolution, and zeros around its source.

    Pixel stride * j + p of the result takes tap t of pixel i where stride * i + t - low = stride * j + p: with
    t = stride * m + q and q = (p + low) mod stride, that is i = j + (p + low - q) / stride - m.
    """
    axis = []
    for p in range(stride):
        taps = np.arange((p + low) % stride, kernel.shape[0], stride)[::-1]
        axis.append((p, taps, (p + low - int(taps[0])) // stride))
    before = max(0, *(-first for _, _, first in axis))
    after = max(0, *(first + len(taps) - 1 for _, taps, first in axis))
    phases = [
        _phase(kernel[np.ix_(rows, columns)].swapaxes(2, 3), weights, y=y, x=x, top=before + top, left=before + left)
        for y, rows, top in axis
        for x, columns, left in axis
    ]
    return phases, (before, after)


def _repeated(kernel: np.ndarray) -> np.ndarray:
    """k[t] + k[t - 1] along both axes: [k + 1, k + 1, large_features, small_features]."""
    rows = np.pad(kernel, ((0, 1), (0, 0), (0, 0), (0, 0))) + np.pad(kernel, ((1, 0), (0, 0), (0, 0), (0, 0)))
    return np.pad(rows, ((0, 0), (0, 1), (0, 0), (0, 0))) + np.pad(rows, ((0, 0), (1, 0), (0, 0), (0, 0)))


def _panels(kernel: np.ndarray) -> np.ndarray:
    """[rows, columns, in, out] -> the matrix [rows * columns * in, out] as panels of PANEL columns, in one vector."""
    matrix = _filled(kernel.reshape(-1, kernel.shape[-1]))
    return np.concatenate([matrix[:, i : i + PANEL].ravel() for i in range(0, matrix.shape[1], PANEL)])


def _filled(values: np.ndarray) -> np.ndarray:
    """Zeros behind the last axis, up to a multiple of _LANES."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % _LANES)])


def engine_script() -> str:
    """The text of engine.js with its kernels inside."""
    folder = resources.files("dcgan_jax.explore")
    kernels = base64.b64encode(folder.joinpath("kernels.wasm").read_bytes()).decode()
    return folder.joinpath("engine.js").read_text().replace("KERNELS = ''", f"KERNELS = '{kernels}'", 1)
