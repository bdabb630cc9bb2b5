"""Tests of dcgan_jax.exchange.onnx_file: ONNX Runtime says what the Flax networks say."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import dcgan_jax  # noqa: E402
from configs import default  # noqa: E402
from dcgan_jax.exchange import onnx_file  # noqa: E402
from dcgan_jax.machine.errors import UserError  # noqa: E402
from dcgan_jax.nets import layers, models  # noqa: E402
from tests import networks, test_layers, tiny  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    **test_layers.VARIANTS,
    "conditional, pooling, averaged head": {
        "model.num_classes": 3,
        "model.resampling": "pooling",
        "model.kernel_size": 4,
        "model.discriminator.head": "pool",
        "model.generator.activation": "leaky_relu",
        "model.discriminator.activation": "relu",
    },
    "pooling, also at stride 1": {
        "model.resampling": "pooling",
        "model.generator.stages": ((6, 1), (4, 2), (3, 2)),
        "model.discriminator.stages": ((4, 2), (6, 1), (5, 2)),
    },
    "a hidden layer of one unit": {"model.generator.hidden": (1,), "model.discriminator.hidden": (1,)},
    "conditional, every layer normalised": {"model.num_classes": 3, "model.norm": "all", "model.kernel_size": 5},
    "dense, normalised per channel": {
        "model.generator.stages": (),
        "model.discriminator.stages": (),
        "model.discriminator.head": "pool",
        "model.norm": "all",
        "model.num_classes": 3,
        "model.generator.projection_norm": "channel",
    },
}


def model_of(network: models.Generator | models.Discriminator, variables: Any, x: Any, taps: bool) -> Any:
    if isinstance(network, models.Generator):
        name, parts = "z", layers.generator_layers(network, variables)
    else:
        name, parts = "image", layers.discriminator_layers(network, variables)
    return onnx_file.make_model(parts, name, features_first(x).shape[1:], {}, taps=taps)


def features_first(values: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(values), -1, 1) if values.ndim == 4 else np.asarray(values)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_output_is_that_of_the_flax_network(name: str, player: str) -> None:
    network, fresh, x = getattr(networks, f"{player}_of")(tiny.config(VARIANTS[name]), batch=5)
    variables = networks.of_a_trained_network(fresh)
    model = model_of(network, variables, x, taps=True)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    labels = np.array([2, 0, 1, 1, 2]) if network.num_classes else None
    _, taps = networks.evaluate(network, variables, x, *([] if labels is None else [labels.astype(np.int32)]))
    outputs = session.get_outputs()
    assert {output.name for output in outputs} == taps.keys()
    assert outputs[-1].name == {"generator": "image", "discriminator": "logit"}[player]
    assert np.std(taps[outputs[-1].name]) > 0.05
    for count in (1, 5):
        inputs = {session.get_inputs()[0].name: features_first(x)[:count]}
        if labels is not None:
            inputs["labels"] = labels[:count]
        for output, values in zip(outputs, session.run(None, inputs), strict=True):
            expected = features_first(taps[output.name])[:count]
            assert output.shape == ["N", *expected.shape[1:]]
            np.testing.assert_allclose(values, expected, rtol=2e-4, atol=2e-5, err_msg=output.name)


def test_the_papers_networks_are_eleven_nodes_each() -> None:
    config = default.get_config()
    config.model.width = 1 / 64
    built: list[models.Generator | models.Discriminator]
    built = [models.build_generator(config), models.build_discriminator(config)]
    shapes_of = zip(built, networks.abstract_variables(config), ((1, 100), (1, 64, 64, 3)), strict=True)
    found = [
        model_of(network, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables), np.zeros(x), False)
        for network, variables, x in shapes_of
    ]
    generator, discriminator = ([node.op_type for node in model.graph.node] for model in found)
    assert generator == ["Gemm", "Reshape", "Relu", *["ConvTranspose", "Relu"] * 3, "ConvTranspose", "Tanh"]
    assert discriminator == [*["Conv", "LeakyRelu"] * 4, "Flatten", "Gemm", "Squeeze"]
    assert (found[0].ir_version, found[0].opset_import[0].version) == (8, 17)
    graph = found[0].graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert shapes == {"z": ["N", 100], "image": ["N", 3, 64, 64]}
    pads = next(node for node in graph.node if node.op_type == "ConvTranspose").attribute
    assert {part.name: list(part.ints) for part in pads} == {
        "kernel_shape": [5, 5],
        "pads": [2, 2, 1, 1],  # Theano's pad of 2 for 5x5 at stride 2
        "strides": [2, 2],
    }


def test_labels_are_expanded_once_per_size_of_maps() -> None:
    """Joined to z and to maps of 2, 2 and 4 pixels."""
    config = tiny.config({"model.num_classes": 3, "model.generator.stages": ((6, 1), (4, 2), (4, 2))})
    shapes, _ = networks.abstract_variables(config)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    model = model_of(models.build_generator(config), variables, np.zeros((1, 5)), taps=False)
    nodes = Counter(node.op_type for node in model.graph.node)
    assert (nodes["OneHot"], nodes["Expand"], nodes["Concat"]) == (1, 2, 4)


def test_the_files_of_a_run(tmp_path: Path) -> None:
    changes = {"model.num_classes": 2, "model.output": "sigmoid", "model.z_distribution": "normal"}
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run", changes, ["cat", "dog", "left out"]))
    written = onnx_file.write(tmp_path, run)
    assert written == [tmp_path / "generator.onnx", tmp_path / "discriminator.onnx"]
    generator, discriminator = map(onnx.load, written)
    for model, inputs, output in ((generator, ["z", "labels"], "image"), (discriminator, ["image", "labels"], "logit")):
        assert [value.name for value in model.graph.input] == inputs
        assert [value.name for value in model.graph.output] == [output]
        metadata = {part.key: part.value for part in model.metadata_props}
        assert metadata == {
            "image_range": "[0, 1]",
            "z_distribution": "standard normal",
            "step": "7",
            "classes": json.dumps(["cat", "dog"]),
        }
    images = onnxruntime.InferenceSession(written[0]).run(["image"], {"z": run.noise(4), "labels": np.array([1] * 4)})
    levels = features_last(images[0]) * 255.0
    drawn = run.generate(run.noise(4), "dog")
    assert drawn.std() > 30
    np.testing.assert_allclose(levels, drawn, atol=0.51)
    logits, _ = run.discriminate(drawn, np.array([1] * 4))
    judged = {"image": features_first(drawn / np.float32(255.0)), "labels": np.array([1] * 4)}
    found = onnxruntime.InferenceSession(written[1]).run(["logit"], judged)[0]
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)


def features_last(values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, 1, -1)


def test_a_run_without_discriminator_gives_one_file(tmp_path: Path) -> None:
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run", discriminator=False))
    assert onnx_file.write(tmp_path, run) == [tmp_path / "generator.onnx"]
    assert onnx_file.check(tmp_path, run).keys() == {"generator.onnx"}


def test_networks_that_compute_in_bfloat16_are_compared_in_float32(tmp_path: Path) -> None:
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run", {"precision": "bfloat16"}))
    onnx_file.write(tmp_path, run, taps=True)
    found = onnx_file.check(tmp_path, run)
    assert found.keys() == {"generator.onnx", "discriminator.onnx"}
    assert all(float(words.split("JAX ")[1].split()[0]) < 1e-5 for words in found.values())


@pytest.mark.parametrize("name", ["generator.onnx", "discriminator.onnx"])
def test_files_of_other_weights_are_no_good(tmp_path: Path, name: str) -> None:
    """One bias of the last hidden maps is off by a hundredth."""
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run"))
    onnx_file.write(tmp_path, run)
    model = onnx.load(tmp_path / name)
    bias = next(part for part in model.graph.initializer if part.name in ("deconv1.bias", "conv2.bias"))
    values = onnx.numpy_helper.to_array(bias) + np.float32(0.01)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is no good: its '(image|logit)' differs from JAX's by .*"):
        onnx_file.check(tmp_path, run)
