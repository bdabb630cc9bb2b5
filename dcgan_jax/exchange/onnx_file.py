"""A run's networks as ONNX files, written node by node.

    python -m dcgan_jax.export --workdir=runs/faces --format=onnx --out=faces_onnx

generator.onnx       z float32 [N, z_dim] (and labels int64 [N], if conditional) -> image float32 [N, channels, height,
                     width]
discriminator.onnx   image (and labels) -> logit float32 [N], positive for images that look real

N is any number. Images are in the networks' own range. The files' metadata holds it, and how z is distributed, the
names of the classes, and the run's step. Batch normalisation is part of the kernels.

A transposed convolution of nets/conv.py is one ConvTranspose with the same kernel, not flipped, and the padding of both
ends as `pads`. Converters see the dilated convolutions that JAX makes of it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import dcgan_jax
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import layers
from dcgan_jax.nets.activations import LEAK
from dcgan_jax.nets.layers import Layer
from dcgan_jax.nets.models import Discriminator, Generator, Tree
from dcgan_jax.runs.trained import Run

GENERATOR, DISCRIMINATOR = "generator.onnx", "discriminator.onnx"
# Those of ONNX 1.12, of 2022.
OPSET, IR_VERSION = 17, 8
# Noise rows that `check` compares; the largest difference that it allows, relative to the largest value or to 1.
ROWS, TOLERANCE = 16, 1e-3

_BATCH = "N"
_ACTIVATIONS = {"relu": "Relu", "leaky_relu": "LeakyRelu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def write(folder: Path, run: Run, *, taps: bool = False) -> list[Path]:
    """Writes the generator that a run draws with and, if it has one, its discriminator.

    Args:
      folder: for the files; it is there already.
      run: a trained run.
      taps: every activation is a further output, by name; maps are [N, features, height, width].

    Returns:
      The files.
    """
    generator, metadata = run.generator, _metadata(run)
    height, width, channels = generator.image_shape
    parts = layers.generator_layers(generator, run.variables)
    models = {GENERATOR: make_model(parts, "z", (generator.z_dim,), metadata, taps=taps)}
    if run.has_discriminator:
        parts = layers.discriminator_layers(run.discriminator, run.state.discriminator.variables)
        models[DISCRIMINATOR] = make_model(parts, "image", (channels, height, width), metadata, taps=taps)
    for name, model in models.items():
        files.write_atomically(folder / name, model.SerializeToString())
    return [folder / name for name in models]


def check(folder: Path, run: Run) -> dict[str, str]:
    """Reads what `write` wrote, and compares every output in onnxruntime with the networks in JAX, in float32.

    The generator draws images of the run's first noise, the discriminator looks at them.

    Returns:
      What was found, in words, by name of the file.

    Raises:
      UserError: an output differs by more than TOLERANCE.
    """
    z, classes = run.noise(ROWS), run.generator.num_classes
    labels = np.arange(ROWS) % classes if classes else None
    taps = _taps(run.generator, run.variables, z, labels)
    found = {GENERATOR: _compare(folder / GENERATOR, {"z": z}, labels, taps)}
    if run.has_discriminator:
        images = taps["image"]
        taps = _taps(run.discriminator, run.state.discriminator.variables, images, labels)
        inputs = {"image": images.transpose(0, 3, 1, 2)}
        found[DISCRIMINATOR] = _compare(folder / DISCRIMINATOR, inputs, labels, taps)
    return found


def make_model(
    network: Sequence[Layer], name: str, shape: tuple[int, ...], metadata: Mapping[str, str], *, taps: bool = False
) -> onnx.ModelProto:
    """The ONNX model of a network.

    Args:
      network: its layers.
      name: of the input. A conditional network's other input is 'labels', int64 [N].
      shape: of one example, (features,) or (features, height, width).
      metadata: words by key.
      taps: the results of all layers are outputs, not that of the last one alone.
    """
    graph = _Graph()
    inputs, outputs = [_value(name, shape)], []
    if network[0].labels:
        inputs.append(_value("labels", (), TensorProto.INT64))
    for layer in network:
        name, shape = graph.add(layer, name, shape, last=layer is network[-1])
        outputs.append(_value(name, shape))
    body = helper.make_graph(
        graph.nodes, network[-1].name, inputs, outputs if taps else outputs[-1:], list(graph.constants.values())
    )
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="dcgan_jax",
        producer_version=dcgan_jax.__version__,
    )
    helper.set_model_props(model, dict(metadata))
    return model


class _Graph:
    """Nodes and constants. Shapes are those of one example, (features,) or (features, height, width)."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._labels: dict[tuple[int, ...], str] = {}

    def add(self, layer: Layer, x: str, shape: tuple[int, ...], *, last: bool) -> tuple[str, tuple[int, ...]]:
        """Adds a layer with the input x.

        Returns:
          The result's name, which is the layer's, and its shape. The logit, a single unit at the end, has no axis.
        """
        x, shape, kernel = self._before(layer, x, shape)
        if layer.labels:
            x = self._node("Concat", x, self._one_hot(layer.labels, shape[1:]), axis=1)
        if layer.kind == "dense":
            x, shape = self._dense(layer, kernel, x)
        else:
            x, shape = self._convolution(layer, x, shape)
        if layer.activation != "none":
            slope = {"alpha": LEAK} if layer.activation == "leaky_relu" else {}
            x = self._node(_ACTIVATIONS[layer.activation], x, **slope)
        if layer.after == "max_pool":
            x = self._node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
        if last and shape == (1,):
            x, shape = self._node("Squeeze", x, self._constant("feature_axis", np.array([1]))), ()
        self.nodes[-1].output[0] = layer.name
        return layer.name, shape

    def _before(self, layer: Layer, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], np.ndarray]:
        """What happens to the input before labels are joined: its name, its shape, and the kernel that suits it."""
        if layer.before == "repeat":
            twice = self._constant("twice", np.array([1, 1, 2, 2], np.float32))
            rounding = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            x = self._node("Resize", x, "", twice, mode="nearest", **rounding)
            return x, (shape[0], 2 * shape[1], 2 * shape[2]), layer.kernel
        if layer.before == "mean":
            return self._node("Flatten", self._node("GlobalAveragePool", x)), shape[:1], layer.kernel
        if layer.before == "flatten":
            features, height, width = shape
            rows = _features_first(height, width, features)
            kernel = np.concatenate([layer.kernel[rows], layer.kernel[len(rows) :]])  # those of labels stay last
            return self._node("Flatten", x), (len(rows),), kernel
        return x, shape, layer.kernel

    def _dense(self, layer: Layer, kernel: np.ndarray, x: str) -> tuple[str, tuple[int, ...]]:
        columns = _features_first(*layer.reshape) if layer.reshape else np.arange(layer.out_features)
        x = self._node("Gemm", x, *self._weights(layer, kernel[:, columns], layer.bias[columns]))
        if not layer.reshape:
            return x, (layer.out_features,)
        height, width, features = layer.reshape
        maps = self._constant("maps", np.array([-1, features, height, width]))
        return self._node("Reshape", x, maps), (features, height, width)

    def _convolution(self, layer: Layer, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        _, height, width = shape
        stride, (low, high) = layer.stride, layer.padding
        if layer.kind == "conv":
            operation, shape = "Conv", (layer.out_features, height // stride, width // stride)
        else:
            operation, shape = "ConvTranspose", (layer.out_features, height * stride, width * stride)
        # [y, x, large, small] -> [small, large, y, x]: [out, in, ...] for Conv, [in, out, ...] for ConvTranspose.
        weights = self._weights(layer, layer.kernel.transpose(3, 2, 0, 1), layer.bias)
        size = list(layer.kernel.shape[:2])
        x = self._node(operation, x, *weights, kernel_shape=size, strides=[stride, stride], pads=[low, low, high, high])
        return x, shape

    def _one_hot(self, classes: int, sides: tuple[int, ...]) -> str:
        """Labels as float32 [N, classes], with sides [N, classes, height, width]; one node for all layers."""
        if sides not in self._labels:
            if sides:
                column = self._node("Unsqueeze", self._one_hot(classes, ()), self._constant("sides", np.array([2, 3])))
                shape = self._constant(f"shape_{sides[0]}", np.array([1, 1, *sides]))
                self._labels[sides] = self._node("Expand", column, shape)
            else:
                count, values = self._constant("classes", np.array(classes)), np.array([0, 1], np.float32)
                self._labels[sides] = self._node("OneHot", "labels", count, self._constant("off_on", values), axis=1)
        return self._labels[sides]

    def _weights(self, layer: Layer, kernel: np.ndarray, bias: np.ndarray) -> tuple[str, str]:
        return self._constant(f"{layer.name}.kernel", kernel), self._constant(f"{layer.name}.bias", bias)

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its result."""
        result = f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [result], result, **attributes))
        return result


def _features_first(height: int, width: int, features: int) -> np.ndarray:
    """Where the values of flattened maps [features, height, width] are in flattened [height, width, features]."""
    return np.arange(height * width * features).reshape(height, width, features).transpose(2, 0, 1).ravel()


def _value(name: str, shape: tuple[int, ...], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, [_BATCH, *shape])


def _metadata(run: Run) -> dict[str, str]:
    """What one must know to use the files; values other than words are JSON."""
    generator = run.generator
    metadata = {
        "image_range": "[-1, 1]" if generator.output == "tanh" else "[0, 1]",
        "z_distribution": {"uniform": "uniform on [-1, 1]", "normal": "standard normal"}[generator.z_distribution],
        "step": str(run.step),
    }
    if generator.num_classes:
        names = run.class_names or [str(label) for label in range(generator.num_classes)]
        metadata["classes"] = json.dumps(names[: generator.num_classes])
    return metadata


def _taps(
    network: Generator | Discriminator, variables: Mapping[str, Tree], x: np.ndarray, labels: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What a network says in JAX, in float32 whatever the run computes in."""
    network = network.copy(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        _, taps = jax.jit(lambda *inputs: network.apply(*inputs, train=False))(variables, x, labels)
    return jax.tree.map(np.asarray, taps)


def _compare(
    path: Path, inputs: dict[str, np.ndarray], labels: np.ndarray | None, expected: Mapping[str, np.ndarray]
) -> str:
    """The largest difference of a file's outputs to those of the same name, in words."""
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if labels is not None:
        inputs = {**inputs, "labels": labels.astype(np.int64)}
    largest = 0.0
    for output, values in zip(session.get_outputs(), session.run(None, inputs), strict=True):
        maps_first = np.moveaxis(expected[output.name], -1, 1) if values.ndim == 4 else expected[output.name]
        difference = float(np.abs(values - maps_first).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(maps_first).max())):
            raise UserError(
                f"{path.name} is no good: its '{output.name}' differs from JAX's by {difference:.1e}. A variance near "
                "zero in batch normalisation magnifies rounding: try another --step, or --norm=frozen."
            )
        largest = max(largest, difference)
    nodes = len(onnx.load(path).graph.node)
    return f"{nodes} nodes, largest difference to JAX {largest:.1e} ({ROWS} images)"
