"""Files of PyTorch: those that we write, and those of others as the importer sees them.

Tests with torch are skipped where it is not installed. example_generator.pth, example_discriminator.pth and example.npz
in torch_files were made by `python -m tests.torch_example` with torch 2.13: noise, a part of the images, logits.
"""

import importlib.util
import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from configs import pytorch_example
from dcgan_jax.exchange import torch_layout, torch_state
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import torch_file
from dcgan_jax.nets import layers, models
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.runs.sampler import Sampler
from dcgan_jax.runs.trained import Run
from dcgan_jax.train_state import GANState, Player, build_gan
from tests import tiny

FILES = Path(__file__).parent / "torch_files"


def example_config(changes: Mapping[str, Any] = {}) -> ConfigDict:
    """configs/pytorch_example.py at a 32nd of its width: 16-8-4-2 maps, noise of 8."""
    config = pytorch_example.get_config()
    config.update_from_flattened_dict({"model.width": 1 / 32, "model.z_dim": 8, "conv": "lax", **changes})
    return config


def run_of(config: ConfigDict, folder: Path) -> Run:
    """A run whose parameters and statistics are of a trained network's size, none of them 0 or 1."""
    rng, gan = np.random.default_rng(0), build_gan(config)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        low, high = (0.5, 2.0) if path[-1].key in ("var", "gain") else (-0.4, 0.4)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), jnp.float32)

    shapes = tiny.abstract_state(config)
    g, d = (
        Player(**jax.tree_util.tree_map_with_path(draw, player.variables), opt_state=())
        for player in (shapes.generator, shapes.discriminator)
    )
    return Run(folder, config, GANState(jnp.asarray(7, jnp.int32), g, d, ema=None), gan, Sampler(gan))


def draw(run: Run, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Images in the network's range."""
    images: Any = run.generator.apply(run.variables, z, labels, train=False)
    return np.asarray(images[0])


def judge(run: Run, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    logits: Any = run.discriminator.apply(run.state.discriminator.variables, images, labels, train=False)
    return np.asarray(logits[0])


def noise(count: int, run: Run) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, run.config.model.z_dim)).astype(np.float32)


# --- What is written -----------------------------------------------------------------------------------------------


def test_the_example_is_written_under_its_names(tmp_path: Path) -> None:
    """Those of tests/torch_files/example_*.pth, which PyTorch wrote, with their shapes and dtypes."""
    written = torch_state.write(tmp_path / "new", run_of(example_config(), tmp_path))
    assert [file.name for file in written] == ["generator.pt", "discriminator.pt"]
    for file in written:
        ours = torch_file.read_state_dict(file)
        theirs = torch_file.read_state_dict(FILES / f"example_{file.stem}.pth")
        assert [(name, one.shape, one.dtype) for name, one in ours.items()] == [
            (name, one.shape, one.dtype) for name, one in theirs.items()
        ]
        assert ours[next(name for name in ours if name.endswith("tracked"))] == 7


def test_a_file_is_built_as_torch_builds_it(tmp_path: Path) -> None:
    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(5), "none": np.zeros((0, 2), np.float32)}
    file = tmp_path / "a.pt"
    file.write_bytes(torch_state.dumps(state))
    with zipfile.ZipFile(file) as archive:
        names = [member.filename for member in archive.infolist()]
        assert names == ["archive/data.pkl", "archive/byteorder", *(f"archive/data/{i}" for i in range(3)), names[-1]]
        assert (names[-1], archive.read(names[-1])) == ("archive/version", b"3\n")
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        content = file.read_bytes()
        assert archive.read("archive/data/0") == content[content.index(state["a"].tobytes()) :][:24]
        assert content.index(state["a"].tobytes()) % 64 == 0
        opcodes = [
            (opcode.name, argument) for opcode, argument, _ in pickletools.genops(archive.read("archive/data.pkl"))
        ]
    assert opcodes[0] == ("PROTO", 2)
    named = {argument for name, argument in opcodes if name == "GLOBAL"}
    tensors = {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "torch LongStorage"}
    assert named == {"collections OrderedDict", *tensors}
    found = torch_file.read_state_dict(file)
    assert list(found) == list(state)
    for name, value in state.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(found[name], value)
    assert torch_state.dumps(state) == content  # no date, no random number


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({}, (True, True)),
        ({"model.kernel_size": 5}, (False, False)),
        ({"model.generator.projection_norm": "unit"}, (False, True)),
        ({"model.generator.stages": ((512, 2), (256, 2), (128, 2), (128, 2))}, (False, True)),
        ({"model.discriminator.stages": ((64, 2), (64, 2), (256, 2), (512, 2))}, (True, False)),
        ({"model.discriminator.stages": ((64, 2), (128, 2), (256, 2), (512, 1))}, (True, False)),
        ({"model.output": "sigmoid"}, (False, True)),
        ({"model.norm": "all"}, (False, False)),
        ({"model.resampling": "pooling"}, (False, False)),
        ({"model.generator.activation": "tanh"}, (False, True)),
        ({"model.discriminator.activation": "relu"}, (True, False)),
        ({"model.discriminator.head": "pool"}, (True, False)),
        ({"model.discriminator.hidden": (64,)}, (True, False)),
        ({"model.discriminator.spectral_norm": True}, (True, False)),
        ({"model.num_classes": 2}, (False, False)),
        ({"data.image_size": 32}, (False, False)),
        ({"data.image_width": 96}, (False, False)),
        ({"data.channels": 1, "model.z_dim": 5, "model.width": 1.0, "model.norm_epsilon": 1e-8}, (True, True)),
    ],
)
def test_which_networks_are_the_example(changes: Any, alike: tuple[bool, bool]) -> None:
    config = example_config(changes)
    found = []
    for network in (models.build_generator(config), models.build_discriminator(config)):
        sides = models.first_sides(image_shape(config.data), network.stages)
        found.append(torch_layout.follows_example(network, sides))
    assert tuple(found) == alike


def test_a_network_of_each_kind(tmp_path: Path) -> None:
    """The generator is another one than the example's, the discriminator is not."""
    run = run_of(example_config({"model.generator.projection_norm": "unit"}), tmp_path)
    written = torch_state.write(tmp_path, run)
    assert [file.name for file in written] == ["generator.pt", "discriminator.pt", "networks.json", "dcgan_torch.py"]
    assert list(torch_file.read_state_dict(written[0]))[:2] == ["projection.weight", "projection.bias"]
    assert list(torch_file.read_state_dict(written[1]))[:2] == ["main.0.weight", "main.2.weight"]
    spec = json.loads(written[2].read_text())
    assert [layer["name"] for layer in spec["generator"]] == ["projection", "deconv1", "deconv2", "deconv3", "image"]
    assert "discriminator" not in spec and (spec["z_dim"], spec["range"]) == (8, [-1, 1])


def test_a_generator_alone(tmp_path: Path) -> None:
    run = run_of(example_config(), tmp_path)
    alone = Run(tmp_path, run.config, run.state.replace(discriminator=None), run.gan, run.sampler)
    assert [file.name for file in torch_state.write(tmp_path, alone)] == ["generator.pt"]


@pytest.mark.parametrize("epsilon", [1e-5, 1e-8, 1e-2])
def test_gains_make_up_for_another_epsilon(epsilon: float, tmp_path: Path) -> None:
    """gain / sqrt(variance + epsilon) is that of a BatchNorm2d, which adds 1e-5."""
    run = run_of(example_config({"model.norm_epsilon": epsilon}), tmp_path)
    state = torch_layout.to_state_dict(run.generator, run.variables, (4, 4), 0)
    scale = state["main.4.weight"] / np.sqrt(state["main.4.running_var"] + 1e-5)
    layer = run.variables["params"]["deconv1_norm"], run.variables["batch_stats"]["deconv1_norm"]
    np.testing.assert_allclose(scale, layer[0]["gain"] / np.sqrt(layer[1]["var"] + epsilon), rtol=1e-6)


GENERAL: dict[str, dict[str, Any]] = {
    "3x3": {},
    "4x4, conditional, grey, sigmoid, hidden layers": {
        "model.kernel_size": 4,
        "model.num_classes": 3,
        "data.channels": 1,
        "model.output": "sigmoid",
        "model.generator.hidden": (7,),
        "model.discriminator.hidden": (7,),
    },
    "5x5, pooling": {"model.kernel_size": 5, "model.resampling": "pooling", "model.discriminator.head": "pool"},
    "4x4, strides 1 and 2": {
        "model.kernel_size": 4,
        "model.norm": "all",
        "model.generator.stages": ((6, 1), (4, 2)),
        "model.discriminator.stages": ((4, 2), (6, 1)),
    },
    "dense": {
        "model.generator.stages": (),
        "model.discriminator.stages": (),
        "model.generator.hidden": (9, 8),
        "model.discriminator.hidden": (9, 8),
        "model.num_classes": 3,
    },
}


@pytest.mark.parametrize("name", GENERAL)
def test_pytorch_draws_and_judges_as_we_do(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    run = run_of(tiny.config(GENERAL[name]), tmp_path)
    files = torch_state.write(tmp_path / "out", run)
    assert [file.name for file in files] == ["generator.pt", "discriminator.pt", "networks.json", "dcgan_torch.py"]
    spec = importlib.util.spec_from_file_location("dcgan_torch", tmp_path / "out" / "dcgan_torch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    z = noise(4, run)
    labels = np.array([0, 2, 1, 1], np.int32) if run.config.model.num_classes else None
    given = () if labels is None else (torch.from_numpy(labels.astype(np.int64)),)
    images = draw(run, z, labels)
    assert images.std() > 0.05
    with torch.no_grad():
        theirs = module.load("generator")(torch.from_numpy(z), *given)
        logits = module.load("discriminator")(theirs, *given)[:, 0]
    np.testing.assert_allclose(theirs.permute(0, 2, 3, 1), images, atol=1e-5)
    np.testing.assert_allclose(logits, judge(run, images, labels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-8])
def test_the_examples_classes_load_it_strictly(epsilon: float, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tests import torch_example

    run = run_of(example_config({"model.norm_epsilon": epsilon}), tmp_path)
    torch_state.write(tmp_path, run)
    networks = {"generator": torch_example.generator(), "discriminator": torch_example.discriminator()}
    for name, network in networks.items():
        network.load_state_dict(torch.load(tmp_path / f"{name}.pt", weights_only=True), strict=True)
        network.eval()
    z = noise(3, run)
    images = draw(run, z)
    assert images.std() > 0.05
    np.testing.assert_allclose(torch_example.draw(networks["generator"], z), images, atol=1e-5)
    logits = torch_example.judge(networks["discriminator"], images)
    np.testing.assert_allclose(logits, judge(run, images), rtol=1e-4, atol=1e-5)


# --- What is read --------------------------------------------------------------------------------------------------


def zip_of(file: Path, tree: bytes, members: Mapping[str, bytes] = {}, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", tree)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file


def test_dictionaries_within_a_checkpoint(tmp_path: Path) -> None:
    """The pickle that torch_state writes, as the value of a key, beside plain values and an optimizer's state."""
    state = {"main.0.weight": np.arange(4, dtype=np.float32)}
    inner = torch_state._pickle(state)[2:-1]
    text = b"\x80\x02}(X\x05\x00\x00\x00epochK\x03X\x04\x00\x00\x00netG" + inner
    loop = text + b"X\x04\x00\x00\x00optG}(K\x00}uX\x04\x00\x00\x00nameX\x01\x00\x00\x00xu."
    file = zip_of(tmp_path / "a.pth", loop, {"data/0": state["main.0.weight"].tobytes()})
    found = torch_state.read(file)
    assert list(found) == ["netG.main.0.weight"]
    np.testing.assert_array_equal(found["netG.main.0.weight"], [0, 1, 2, 3])
    with pytest.raises(UserError, match="its 'epoch' is not a tensor"):
        torch_file.read_state_dict(file)


def test_safetensors_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    tensors = {f"main.{i}.weight": np.full(2, i, np.float32) for i in (10, 2, 0)}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    found = torch_state.read(tmp_path / "a.safetensors")
    assert list(found) == ["main.0.weight", "main.2.weight", "main.10.weight"]
    assert found["main.10.weight"][0] == 10


def test_files_that_are_refused(tmp_path: Path) -> None:
    file, tensors = tmp_path / "a.pth", tmp_path / "a.safetensors"

    def refused(message: str, path: Path = file) -> None:
        with pytest.raises(UserError, match=re.escape(path.name) + ".*" + message):
            torch_state.read(path)

    zip_of(file, pickle.dumps({"epoch": 3, "netG": {"lr": 0.1}}, 2))
    refused("holds no tensors: save the networks' state_dicts")
    zip_of(file, pickle.dumps([1, 2], 2))
    refused("holds list")
    itself: dict[str, Any] = {"epoch": 3}
    itself["itself"] = itself
    zip_of(file, pickle.dumps(itself, 2))
    refused("holds no tensors")
    wide: dict[str, Any] = {}
    for _ in range(60):  # 2^60 paths
        wide = {"a": wide, "b": wide}
    zip_of(file, pickle.dumps(wide, 2))
    refused("holds no tensors")
    zip_of(file, pickle.dumps({"netG": print}, 2))
    refused("asks for __builtin__.print, .*refused")
    # A bomb: a compressed megabyte of zeros, and one storage behind many tensors.
    state = {"a": np.zeros(2**18, np.float32)}
    zip_of(file, torch_state._pickle(state), {"data/0": state["a"].tobytes()}, zipfile.ZIP_DEFLATED)
    refused("compressed")
    tree = torch_state._pickle({f"a{i}": np.zeros(2000, np.float32) for i in range(6)})
    tree = re.sub(rb"X\x01\x00\x00\x00[1-5](?=X\x03\x00\x00\x00cpu)", b"X\x01\x00\x00\x000", tree)
    zip_of(file, tree, {"data/0": bytes(8000)})
    refused("more than 4 times as large as the file: refused")
    whole = (FILES / "example_discriminator.pth").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        refused("")

    tensors.write_bytes(b"\xff" * 100)
    refused("is damaged, or not a .safetensors file", tensors)
    tensors.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    refused("is damaged, or not a .safetensors file", tensors)
    content = safetensors.numpy.save({"a": np.zeros(5, np.float32)})
    tensors.write_bytes(content[:-1])
    refused("is damaged, or not a .safetensors file", tensors)
    tensors.write_bytes(content.replace(b"[5]", b"[6]"))
    refused("is damaged, or not a .safetensors file", tensors)
    refused("there is no such file", tmp_path / "none.safetensors")
    refused("No such file", tmp_path / "none.pth")


def test_what_pytorch_wrote_draws_the_same_images() -> None:
    """Files and images of PyTorch 2.13; see test_import_weights.py for whole runs."""
    golden = np.load(FILES / "example.npz")
    config = example_config()
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tiny.abstract_state(config))
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    found = {}
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        tensors = torch_state.read(FILES / f"example_{name}.pth")
        like = getattr(state, name).variables
        found[name], mapped = torch_layout.from_state_dict(network, tensors, like, (4, 4), "file")
        first = ("projection/kernel", (8, 256)) if name == "generator" else ("conv1", (4, 4, 3, 2))
        assert mapped[0][2:] == first and mapped[0].source == "main.0.weight"
    images, _ = layers.apply(layers.generator_layers(generator, found["generator"]), golden["z"])
    assert golden["images"].std() > 0.1
    np.testing.assert_allclose(images[:, :32, 16:48], golden["images"], atol=1e-5)
    logits, _ = layers.apply(layers.discriminator_layers(discriminator, found["discriminator"]), images)
    np.testing.assert_allclose(logits[:, 0], golden["logits"], atol=1e-5)
    # And back: what we write of it is what PyTorch wrote.
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        written = torch_layout.to_state_dict(network, found[name], (4, 4), 7)
        for key, value in torch_state.read(FILES / f"example_{name}.pth").items():
            np.testing.assert_allclose(written[key], value, rtol=1e-6, err_msg=key)
