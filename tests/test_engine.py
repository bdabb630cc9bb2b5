"""The engine of the explorer's page, run by Node: both of its backends say what nets/layers.py and Flax say."""

import base64
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.explore import network
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import layers, models, pixels
from dcgan_jax.nets.layers import Layer, discriminator_layers, generator_layers
from tests import networks, tiny

BACKENDS = ("js", "wasm")
FOLDER = Path(network.__file__).parent

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
needs_clang = pytest.mark.skipif(
    shutil.which("clang") is None or shutil.which("wasm-ld") is None, reason="needs clang and lld"
)

# Defines `DcganEngine` from the task's script, and what the tests' programs need.
PRELUDE = """
const task = JSON.parse(require('fs').readFileSync(0, 'utf8'));
require('vm').runInThisContext(task.script);
const bytes = (text) => Uint8Array.from(Buffer.from(text, 'base64')).buffer;
const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64');
const floats = (text) => new Float32Array(bytes(text));
const answer = (value) => console.log(JSON.stringify(value));
"""

RUN = """
(async () => {
  const answers = [];
  for (const backend of task.backends) {
    const made = await DcganEngine.create(task.spec, bytes(task.weights), {backend});
    const gates = Object.fromEntries(Object.entries(task.gates).map(([name, gate]) => [name, floats(gate)]));
    const labels = task.labels ? Int32Array.from(task.labels) : undefined;
    // Nothing that an earlier call leaves in the memory may change a later one.
    made.run(new Float32Array(16 * made.inputSize).fill(3), {labels: labels && new Int32Array(16)});
    const result = made.run(floats(task.input), {labels, gates, taps: task.taps});
    const taps = Object.fromEntries(Object.entries(result.taps).map(([name, tap]) => [name, text(tap)]));
    answers.push({backend: made.backend, output: text(result.output), taps});
  }
  answer(answers);
})();
"""


def run_node(program: str, **task: Any) -> Any:
    """What a program, which finds `task` as JSON, answers."""
    task = {"script": network.engine_script()} | task
    process = subprocess.run(["node", "-e", PRELUDE + program], input=json.dumps(task), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def to_text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def from_text(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.float32)


@dataclass
class Answer:
    """What a backend says: flat output, and taps by name."""

    output: np.ndarray
    taps: dict[str, np.ndarray]


def run_engine(
    found: list[Layer],
    x: np.ndarray,
    labels: np.ndarray | None = None,
    gates: Mapping[str, np.ndarray] = {},
    taps: Sequence[str] = (),
    sides: tuple[int, int] | None = None,
) -> list[Answer]:
    """The answers of all backends."""
    spec, weights = network.pack(found, sides)
    answers = run_node(
        RUN,
        backends=BACKENDS,
        spec=spec,
        weights=base64.b64encode(weights).decode(),
        input=to_text(x),
        labels=None if labels is None else labels.tolist(),
        gates={name: to_text(gate.astype(np.float32)) for name, gate in gates.items()},
        taps=taps,
    )
    assert [each["backend"] for each in answers] == list(BACKENDS)
    return [
        Answer(from_text(each["output"]), {name: from_text(tap) for name, tap in each["taps"].items()})
        for each in answers
    ]


def coarse(found: list[Layer]) -> list[Layer]:
    """The same layers with random weights that float16 holds exactly, and four of which add up exactly, too."""
    rng = np.random.default_rng(1)

    def values(shape: tuple[int, ...], inputs: int) -> np.ndarray:
        size = 2.0 ** -round(np.log2(inputs) / 2)  # the results keep the inputs' size
        return (rng.integers(-128, 129, shape) * (size / 64)).astype(np.float32)

    return [
        replace(
            layer,
            kernel=values(layer.kernel.shape, layer.kernel.size // layer.out_features),
            bias=values(layer.bias.shape, 4),
        )
        for layer in found
    ]


VARIANTS: dict[str, dict[str, Any]] = {
    "3x3": {},
    "4x4, tanh": {
        "model.kernel_size": 4,
        "model.generator.activation": "tanh",
        "model.discriminator.activation": "tanh",
    },
    "5x5, grey, sigmoid": {"model.kernel_size": 5, "data.channels": 1, "model.output": "sigmoid"},
    "5x5, conditional, hidden layers, swapped activations": {
        "model.kernel_size": 5,
        "model.num_classes": 3,
        "model.generator.hidden": (7,),
        "model.discriminator.hidden": (7,),
        "model.generator.activation": "leaky_relu",
        "model.discriminator.activation": "relu",
    },
    "stride 1, 4x4, wide": {
        "model.kernel_size": 4,
        "model.generator.stages": ((12, 1), (9, 2)),
        "model.discriminator.stages": ((17, 2), (12, 1)),
    },
    "pooling, 3x3, averaged, conditional": {
        "model.resampling": "pooling",
        "model.discriminator.head": "pool",
        "model.num_classes": 3,
    },
    "pooling, 4x4": {"model.resampling": "pooling", "model.kernel_size": 4},
    "pooling, 5x5, stride 1": {
        "model.resampling": "pooling",
        "model.kernel_size": 5,
        "model.generator.stages": ((6, 2), (5, 1)),
        "model.discriminator.stages": ((5, 1), (6, 2)),
    },
    "dense, conditional": {
        "model.generator.stages": (),
        "model.discriminator.stages": (),
        "model.generator.hidden": (9, 8),
        "model.discriminator.hidden": (9, 8),
        "model.num_classes": 3,
    },
}


def a_generator(changes: dict[str, Any]) -> list[Layer]:
    """Layers of a tiny generator, with weights of `coarse`."""
    config = tiny.config(changes)
    variables, _ = networks.abstract_variables(config)
    return coarse(generator_layers(models.build_generator(config), zeros(variables)))


def a_discriminator(changes: dict[str, Any]) -> list[Layer]:
    config = tiny.config(changes)
    _, variables = networks.abstract_variables(config)
    return coarse(discriminator_layers(models.build_discriminator(config), zeros(variables)))


def zeros(variables: networks.Variables) -> networks.Variables:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)


def draw(*shape: int) -> np.ndarray:
    """Noise or images, float32 in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@needs_node
@pytest.mark.parametrize("variant", VARIANTS)
def test_generators_of_every_kind(variant: str) -> None:
    """19 images: more than pass together, and a number of pixels that leaves some over."""
    check(a_generator(VARIANTS[variant]), draw(19, 5), VARIANTS[variant].get("model.num_classes", 0))


@needs_node
@pytest.mark.parametrize("variant", VARIANTS)
def test_discriminators_of_every_kind(variant: str) -> None:
    changes = VARIANTS[variant]
    images = draw(5, 8, 8, changes.get("data.channels", 3))
    sides = (8, 8) if changes.get("model.discriminator.head") == "pool" else None
    check(a_discriminator(changes), images, changes.get("model.num_classes", 0), sides)


@needs_node
@pytest.mark.parametrize("changes", [{}, {"model.resampling": "pooling", "model.discriminator.head": "pool"}])
def test_images_that_are_not_square(changes: dict[str, Any]) -> None:
    changes = {**changes, "data.image_width": 12}
    check(a_generator(changes), draw(3, 5), 0)
    check(a_discriminator(changes), draw(3, 8, 12, 3), 0, (8, 12))


def check(found: list[Layer], x: np.ndarray, classes: int, sides: tuple[int, int] | None = None) -> None:
    """Both backends agree with nets/layers.py on the result and on every layer."""
    labels = np.arange(len(x), dtype=np.int32) * 2 % classes if classes else None
    expected, taps = layers.apply(found, x, labels)
    for answer in run_engine(found, x, labels, taps=list(taps), sides=sides):
        np.testing.assert_allclose(answer.output, expected.ravel(), atol=2e-5)
        assert list(answer.taps) == list(taps)
        for name, tap in taps.items():
            assert np.abs(tap).max() > 0.1, name
            np.testing.assert_allclose(answer.taps[name], tap.ravel(), atol=2e-5, err_msg=name)


@needs_node
def test_pixels_are_within_a_level_of_flax() -> None:
    """Float16 weights cost a level at most."""
    config = tiny.config({"model.kernel_size": 5, "model.generator.hidden": (6,)})
    generator, variables, z = networks.generator_of(config, batch=8)
    variables = jax.tree.map(lambda leaf: leaf * 20 if leaf.ndim > 1 else leaf + 0.1, variables)
    images, _ = networks.evaluate(generator, variables, z)
    expected = np.asarray(pixels.to_uint8(images, "tanh")).astype(int).ravel()
    assert expected.std() > 20
    for answer in run_engine(generator_layers(generator, variables), np.asarray(z)):
        levels = np.asarray(pixels.to_uint8(jnp.asarray(answer.output), "tanh")).astype(int)
        assert np.abs(levels - expected).max() <= 1


@needs_node
def test_gates_multiply_maps_and_reach_what_follows() -> None:
    """A gate is a factor of the next layer's weights. One image, and labels, which no gate touches."""
    found = a_generator({"model.generator.hidden": (7,), "model.num_classes": 3})
    gates = {"hidden1": draw(7) + 1, "projection": draw(6) + 1, "deconv1": np.array([0, 1.5, 1, 0], np.float32)}
    gated = [found[0]]
    for before, layer in pairwise(found):
        factors = np.concatenate([gates[before.name], np.ones(layer.labels, np.float32)])
        by_input = factors[:, None] if layer.kind == "dense" else factors
        gated.append(replace(layer, kernel=layer.kernel * by_input))
    z, labels = draw(1, 5), np.array([2], np.int32)
    expected, taps = layers.apply(gated, z, labels)
    assert np.abs(expected - layers.apply(found, z, labels)[0]).max() > 0.1
    for answer in run_engine(found, z, labels, gates, taps=list(gates)):
        np.testing.assert_allclose(answer.output, expected.ravel(), atol=2e-5)
        for name, gate in gates.items():
            np.testing.assert_allclose(answer.taps[name], (taps[name] * gate).ravel(), atol=2e-5)


@needs_node
def test_levels_are_those_of_pixels_py() -> None:
    """Every level's edges, their neighbours in float32, and what lies outside the range."""
    middles = (np.arange(-3, 259) + 0.5).astype(np.float32)
    for output, edges in (("tanh", middles / np.float32(127.5) - 1), ("sigmoid", middles / np.float32(255))):
        values = np.concatenate([np.nextafter(edges, np.float32(-9)), edges, np.nextafter(edges, np.float32(9))])
        expected = np.asarray(pixels.to_uint8(jnp.asarray(values), output))
        program = "answer(Array.from(DcganEngine.toPixels(floats(task.values), task.range)));"
        assert run_node(program, values=to_text(values.astype(np.float32)), range=output) == expected.tolist()


@needs_node
def test_wrong_calls_say_what_is_wrong() -> None:
    spec, weights = network.pack(a_generator({"model.num_classes": 3}))
    program = """
    (async () => {
      const made = await DcganEngine.create(task.spec, bytes(task.weights));
      const z = new Float32Array(10), labels = new Int32Array(2);
      const calls = [
        [z.subarray(1), {labels}], [z, {}], [z, {labels: labels.subarray(1)}], [z, {labels: Int32Array.of(0, 3)}],
        [z, {labels, taps: ['deconv7']}], [z, {labels, gates: {deconv7: z}}], [z, {labels, gates: {deconv1: z}}],
      ];
      answer(calls.map(([input, options]) => {
        try { made.run(input, options); return 'nothing'; } catch (error) { return error.message; }
      }));
    })();
    """
    labels_needed = "2 labels from 0 to 2 are needed"
    unknown = "there is no layer deconv7, only projection, deconv1, image"
    assert run_node(program, spec=spec, weights=base64.b64encode(weights).decode()) == [
        "the input must be a multiple of 5 numbers",
        *[labels_needed] * 3,
        *[unknown] * 2,
        "deconv1 needs 4 gates",
    ]


@needs_node
@pytest.mark.parametrize(
    "absence", ["delete globalThis.WebAssembly", "WebAssembly.compile = async () => { throw new Error('policy'); }"]
)
def test_javascript_steps_in_where_webassembly_is_missing_or_forbidden(absence: str) -> None:
    spec, weights = network.pack(a_generator({}))
    program = """
    (async () => {
      const make = async (backend) => (await DcganEngine.create(task.spec, bytes(task.weights), {backend})).backend;
      const before = await make('auto');
      ABSENCE;
      answer([before, await make('auto'), await make('wasm').catch(() => 'refused')]);
    })();
    """
    program = program.replace("ABSENCE", absence)
    answers = run_node(program, spec=spec, weights=base64.b64encode(weights).decode())
    assert answers == ["wasm", "js", "refused"]


# What `multiply` changes in a memory of three pages, [index, value] each. It runs over 3 x 3 pixels of a map of 5 x 5
# with two features, neighbourhoods of 3 x 2 pixels; its result is to begin at 30000.
MULTIPLY = """
const multiply = async (text, features) => {
  const memory = new WebAssembly.Memory({initial: 3});
  const heap = new Float32Array(memory.buffer).map((_, i) => Math.sin(i));
  new Float32Array(memory.buffer).set(heap);
  const {exports} = await WebAssembly.instantiate(await WebAssembly.compile(bytes(text)), {env: {memory}});
  exports.multiply(1, 3, 3, 100, 50, 10, 2, 3, 10, 4, 1000, 2000, features, 30000, 0, 3 * features, features, 0.2);
  const changed = [];
  new Float32Array(memory.buffer).forEach((x, i) => { if (x !== heap[i]) changed.push([i, x]); });
  return changed;
};
"""


def multiplied(kernels: bytes, features: int) -> list[tuple[int, float]]:
    program = "multiply(task.kernels, task.features).then(answer);"
    return run_node(MULTIPLY + program, kernels=base64.b64encode(kernels).decode(), features=features)


@needs_node
@pytest.mark.parametrize("features", [3, 11, 14])
def test_the_kernels_write_their_result_and_nothing_else(features: int) -> None:
    """They have the memory to themselves but for that: a stack would overwrite weights."""
    found = multiplied((FOLDER / "kernels.wasm").read_bytes(), features)
    assert [index for index, _ in found] == list(range(30000, 30000 + 9 * features))
    heap = np.sin(np.arange(3000)).astype(np.float32)
    windows = [[100 + 10 * (y + t) + 2 * x + i for t in range(3) for i in range(4)] for y in range(3) for x in range(3)]
    columns = []
    for feature in range(features):
        first = feature // 8 * 8
        width = 8 if features - first > 4 else 4
        columns.append(1000 + first * 12 + np.arange(12) * width + feature % 8)
    sums = heap[np.array(windows)] @ heap[np.array(columns).T] + heap[2000 : 2000 + features]
    np.testing.assert_allclose([x for _, x in found], np.where(sums < 0, 0.2 * sums, sums).ravel(), atol=1e-5)


@needs_node
@needs_clang
def test_the_kernels_are_built_from_their_source(tmp_path: Path) -> None:
    """Another compiler may write other bytes, so the rebuilt kernels are compared by what they do."""
    command = next(line for line in (FOLDER / "kernels.c").read_text().splitlines() if "clang --" in line)
    words = command.removeprefix("//").split()
    words[words.index("kernels.wasm")] = str(tmp_path / "kernels.wasm")
    subprocess.run(words, cwd=FOLDER, check=True)
    rebuilt, committed = (tmp_path / "kernels.wasm").read_bytes(), (FOLDER / "kernels.wasm").read_bytes()
    for features in (3, 14):
        assert multiplied(rebuilt, features) == multiplied(committed, features)


def test_phases_by_hand() -> None:
    """4x4 at stride 2, a zero cut off in front: pixel 0 takes taps 3 and 1 of pixels -1 and 0, pixel 1 taps 2 and 0."""
    dense = Layer("projection", "dense", np.ones((1, 4), np.float32), np.zeros(4, np.float32), reshape=(2, 2, 1))
    kernel = np.arange(1, 17, dtype=np.float32).reshape(4, 4, 1, 1)
    spec, weights = network.pack([dense, Layer("image", "conv_transpose", kernel, np.zeros(1, np.float32), stride=2)])
    values = np.frombuffer(weights, "<f2")
    image = spec["layers"][1]
    assert (image["padding"], image["spread"], image["step"], image["shape"]) == ([1, 1], 2, 1, [4, 4, 1])
    found = {}
    for phase in image["phases"]:
        assert (phase["rows"], phase["columns"]) == (2, 2)
        taps = values[phase["weights"] :][:16].reshape(4, 4)  # three features of filling
        assert (taps[:, 1:] == 0).all()
        found[phase["y"], phase["x"]] = (phase["top"], phase["left"], taps[:, 0].astype(int).tolist())
    # Taps by row of the kernel: 1 2 3 4, 5 6 7 8, 9 10 11 12, 13 14 15 16.
    assert found == {
        (0, 0): (0, 0, [16, 14, 8, 6]),
        (0, 1): (0, 1, [15, 13, 7, 5]),
        (1, 0): (1, 0, [12, 10, 4, 2]),
        (1, 1): (1, 1, [11, 9, 3, 1]),
    }


def test_weights_are_float16_and_their_number_is_known() -> None:
    """5 x 6 in panels of 8 and biases of 8; the filling is zero."""
    kernel = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    spec, weights = network.pack([Layer("image", "dense", kernel, np.ones(6, np.float32))])
    values = np.frombuffer(weights, "<f2")
    assert (len(values), spec["layers"][0]["phases"][0]["weights"], spec["layers"][0]["bias"]) == (48, 0, 40)
    np.testing.assert_array_equal(values[:40].reshape(5, 8)[:, :6], kernel.astype(np.float16))
    assert not values[:40].reshape(5, 8)[:, 6:].any()
    np.testing.assert_array_equal(values[40:], [1] * 6 + [0] * 2)


@pytest.mark.parametrize("value", [np.nan, 1e5])
def test_weights_that_float16_cannot_hold_are_refused(value: float) -> None:
    kernel = np.full((2, 4), value, np.float32)
    with pytest.raises(UserError, match="not finite, or too large for float16"):
        network.pack([Layer("image", "dense", kernel, np.zeros(4, np.float32))])


def test_side_of_the_images_is_found_or_asked_for() -> None:
    assert network.pack(a_discriminator({}))[0]["input"] == [8, 8, 3]
    pooling = {"model.resampling": "pooling", "data.channels": 1}
    assert network.pack(a_discriminator(pooling))[0]["input"] == [8, 8, 1]
    averaging = a_discriminator({"model.discriminator.head": "pool"})
    assert network.pack(averaging, sides=(8, 8))[0]["input"] == [8, 8, 3]
    with pytest.raises(ValueError, match="side of the images must be given"):
        network.pack(averaging)
