"""Importing weights: those of the authors, of PyTorch, and our own.

The authors' networks are written out in NumPy as Theano computes them. Its convolutions flip the kernel, its maps are
[batch, features, height, width], its weights [out, in, k, k] (in a transposed convolution [in, out, k, k]), and the
authors' networks normalise with batch statistics.
"""

import math
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from configs import pytorch_example
from dcgan_jax import import_weights
from dcgan_jax.analysis import guided_backprop
from dcgan_jax.exchange import torch_layout, torch_state
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.runs import run_folder, trained, weights_file
from tests import tiny

BATCH = 6
Array = np.ndarray
Stages = tuple[tuple[int, int], ...]

NETWORKS: dict[str, dict[str, Any]] = {
    # As faces and SVHN.
    "5x5": {"model.kernel_size": 5},
    # As ImageNet: 3x3, strides alternate.
    "3x3": {
        "model.kernel_size": 3,
        "model.generator.stages": ((6, 2), (5, 1), (4, 2)),
        "model.discriminator.stages": ((4, 1), (5, 2), (6, 2)),
    },
}


def config_of(network: str = "5x5", changes: Mapping[str, Any] = {}) -> ConfigDict:
    return tiny.config({**NETWORKS[network], **changes})


def random_arrays(config: ConfigDict) -> tuple[list[Array], list[Array]]:
    """Parameters of generator and discriminator in the authors' order and shapes; no two units are alike."""
    generator = np.random.default_rng(0)
    k = config.model.kernel_size

    def weights(*shape: int) -> Array:
        return (0.3 * generator.standard_normal(shape)).astype(np.float32)

    def gain_and_shift(features: int) -> list[Array]:
        return [1 + weights(features), weights(features)]

    stages = config.model.generator.stages
    units = stages[0][0] * math.prod(models.first_sides(image_shape(config.data), stages))
    g = [weights(config.model.z_dim, units), *gain_and_shift(units)]
    outputs = [features for features, _ in stages[1:]] + [config.data.channels]
    for i, ((features, _), output) in enumerate(zip(stages, outputs, strict=True), 1):
        g += [weights(features, output, k, k)]
        g += gain_and_shift(output) if i < len(stages) else []

    stages = config.model.discriminator.stages
    inputs = [config.data.channels] + [features for features, _ in stages[:-1]]
    d = []
    for i, ((features, _), channels) in enumerate(zip(stages, inputs, strict=True), 1):
        d += [weights(features, channels, k, k)]
        d += gain_and_shift(features) if i > 1 else []
    units = stages[-1][0] * math.prod(models.first_sides(image_shape(config.data), stages))
    return g, [*d, weights(units, 1)]


def write(folder: Path, g: list[Array], d: list[Array]) -> Path:
    folder.mkdir()
    for name, arrays in (("gen", g), ("discrim", d)):
        for i, array in enumerate(arrays, 1):
            np.save(folder / f"200_{name}_params.jl_{i:02d}.npy", array)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "weights", *random_arrays(config_of()))


# --- The authors' networks ----------------------------------------------------------------------------------------


def theano_conv(x: Array, w: Array, stride: int, flip: bool = True) -> Array:
    """out[n, o, i, j] = sum w[o, c, a, b] x[n, c, stride i + k - 1 - a - pad, ...], border_mode (pad, pad)."""
    k, side = w.shape[-1], x.shape[-1] // stride
    pad = (k - 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((len(x), len(w), side, side))
    for n, o, i, j in product(*map(range, out.shape)):
        window = padded[n, :, stride * i :, stride * j :][:, :k, :k]
        out[n, o, i, j] = (window * (w[o, :, ::-1, ::-1] if flip else w[o])).sum()
    return out


def theano_deconv(x: Array, w: Array, stride: int, flip: bool = True) -> Array:
    """Gradient of `theano_conv` with respect to its input: each pixel is spread over a window, then the border cut."""
    k, side = w.shape[-1], x.shape[-1] * stride
    pad = (k - 1) // 2
    out = np.zeros((len(x), w.shape[1], side + k, side + k))
    for n, o, i, j in product(*map(range, x.shape)):
        window = out[n, :, stride * i :, stride * j :][:, :k, :k]
        window += x[n, o, i, j] * (w[o, :, ::-1, ::-1] if flip else w[o])
    return out[:, :, pad : pad + side, pad : pad + side]


def batchnorm(x: Array, gain: Array, shift: Array) -> Array:
    """lib/ops.py: over the batch, and over the maps of a feature."""
    axes = (0,) if x.ndim == 2 else (0, 2, 3)
    shape = (1, -1) if x.ndim == 2 else (1, -1, 1, 1)
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-8) * gain.reshape(shape) + shift.reshape(shape)


def authors_generator(z: Array, arrays: list[Array], stages: Stages, flip: bool = True) -> Array:
    rest: Iterator[Array] = iter(arrays)
    h = np.maximum(batchnorm(z @ next(rest), next(rest), next(rest)), 0)
    side = round((h.shape[1] / stages[0][0]) ** 0.5)
    h = h.reshape(len(z), stages[0][0], side, side)
    for _, stride in stages[:-1]:
        h = np.maximum(batchnorm(theano_deconv(h, next(rest), stride, flip), next(rest), next(rest)), 0)
    return np.tanh(theano_deconv(h, next(rest), stages[-1][1], flip))


def authors_discriminator(images: Array, arrays: list[Array], stages: Stages, flip: bool = True) -> Array:
    """The logit; the authors' network ends in its sigmoid."""
    rest: Iterator[Array] = iter(arrays)

    def leaky(x: Array) -> Array:
        return np.where(x > 0, x, 0.2 * x)

    h = leaky(theano_conv(images, next(rest), stages[0][1], flip))
    for _, stride in stages[1:]:
        h = leaky(batchnorm(theano_conv(h, next(rest), stride, flip), next(rest), next(rest)))
    return (h.reshape(len(h), -1) @ next(rest))[:, 0]


# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["5x5", "3x3"])
def test_imported_networks_compute_what_the_authors_do(network: str, tmp_path: Path) -> None:
    config = config_of(network)
    g, d = random_arrays(config)
    state = import_weights.import_weights(config, write(tmp_path / "weights", g, d)).state
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)

    def run(model: Any, player: Any, inputs: Array) -> Array:
        variables = {"params": player.params, "batch_stats": player.batch_stats}
        (result, _), _ = model.apply(variables, jnp.asarray(inputs), train=True, mutable=["batch_stats"])
        return np.asarray(result, np.float64)

    z = np.random.default_rng(1).uniform(-1, 1, (BATCH, config.model.z_dim)).astype(np.float32)
    images = run(generator, state.generator, z)
    expected = authors_generator(z, g, config.model.generator.stages).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images, expected, atol=2e-5)
    # The comparison would notice: without flips the authors' network is another one.
    unflipped = authors_generator(z, g, config.model.generator.stages, flip=False).transpose(0, 2, 3, 1)
    assert np.abs(images - unflipped).max() > 0.5

    real = np.random.default_rng(2).uniform(-1, 1, images.shape).astype(np.float32)
    logits = run(discriminator, state.discriminator, real)
    channels_first = real.transpose(0, 3, 1, 2)
    expected = authors_discriminator(channels_first, d, config.model.discriminator.stages)
    np.testing.assert_allclose(logits, expected, atol=5e-5)
    unflipped = authors_discriminator(channels_first, d, config.model.discriminator.stages, flip=False)
    assert np.abs(logits - unflipped).max() > 0.5


def test_state_around_the_weights(folder: Path) -> None:
    config = config_of(changes={"ema_decay": 0.9})
    (folder / "another.pth").touch()  # the authors' files go before
    state = import_weights.import_weights(config, folder).state
    assert int(state.step) == 0
    assert tiny.largest_difference(state.ema, state.generator.params) == 0
    for player in (state.generator, state.discriminator):
        # Adam's counter and moments, over the tree of the imported parameters.
        assert all((leaf == 0).all() for leaf in map(np.asarray, jax.tree.leaves(player.opt_state)))
    averages = state.discriminator.batch_stats["conv2_norm"]
    assert (averages["mean"] == 0).all() and (averages["var"] == 1).all()
    # The generator's are frozen statistics: uniform noise has mean 0 and variance 1/3. 12,800 draws.
    projection = np.asarray(state.generator.params["projection"]["kernel"], np.float64)
    averages = state.generator.batch_stats["projection_norm"]
    variance = (projection**2).sum(0) / 3
    np.testing.assert_allclose(averages["mean"] / np.sqrt(variance), 0, atol=4.5 / np.sqrt(12_800))
    np.testing.assert_allclose(averages["var"], variance * 127 / 128, rtol=0.06)


def test_columns_of_maps_that_are_not_square() -> None:
    """Column 6 f + 3 y + x of two maps of 2 x 3 pixels becomes column 6 y + 2 x + f."""
    columns = import_weights._columns_last(np.arange(12.0)[None], 2, (2, 3))
    assert columns.tolist() == [[0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]]


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no files \*gen_params\.jl_NN\.npy: give the folder"):
        import_weights.import_weights(config_of(), tmp_path)


def test_too_few_files(folder: Path) -> None:
    (folder / "200_gen_params.jl_07.npy").unlink()
    with pytest.raises(UserError, match=r"gen_params\.jl_06\.npy is the last file, .* more parameters"):
        import_weights.import_weights(config_of(), folder)


def test_too_many_files(folder: Path) -> None:
    np.save(folder / "200_discrim_params.jl_06.npy", np.zeros(3))
    with pytest.raises(
        UserError, match=r"fewer parameters than there are files: 200_discrim_params\.jl_06\.npy is left"
    ):
        import_weights.import_weights(config_of(), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.z_dim": 7}, "projection/kernel has shape (5, 24) in the files, but (7, 24) in the config's network"),
        ({"model.kernel_size": 3}, "deconv1 has shape (5, 5, 4, 6) in the files, but (3, 3, 4, 6)"),
        ({"data.image_size": 16}, "96 units of 6 maps do not fit an array (5, 24)"),
        ({"model.norm": "all"}, "need config.model.norm='paper' and config.model.norm_affine=True"),
        (
            {"model.discriminator.stages": ((4, 2), (6, 1), (6, 2))},
            "the config's network has a convolution where the files have an array (24, 1)",
        ),
        ({"model.norm_affine": False}, "need config.model.norm='paper' and config.model.norm_affine=True"),
        (
            {"model.generator.projection_norm": "channel"},
            "projection_norm/gain has shape (24,) in the files, but (6,)",
        ),
        ({"model.num_classes": 3}, "only networks without labels"),
        ({"model.generator.hidden": (3,)}, "without dense hidden layers"),
        ({"model.discriminator.hidden": (3,)}, "without dense hidden layers"),
    ],
)
def test_config_of_another_network(changes: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        import_weights.import_weights(config_of("5x5", changes), folder)


def command(monkeypatch: pytest.MonkeyPatch, config: ConfigDict, weights: str, workdir: Path, layers: int = 0) -> None:
    """What the command does with these flags."""
    for name, value in (("CONFIG", config), ("WEIGHTS", weights), ("WORKDIR", str(workdir)), ("LAYERS", layers)):
        monkeypatch.setattr(import_weights, f"_{name}", SimpleNamespace(value=value), raising=False)
    import_weights.main()


def test_a_run_is_made_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command writes is a run like any other; a second import does not overwrite it."""
    workdir, config = tmp_path / "run", config_of()
    command(monkeypatch, config, str(folder), workdir)
    run = trained.load(workdir)
    assert run.config.to_dict() == config.to_dict()
    expected = import_weights.import_weights(config, folder).state
    assert tiny.largest_difference(run.state, expected) == 0

    before = sorted(run_folder.checkpoints(workdir).rglob("*"))
    with pytest.raises(UserError, match=r"already holds a run: choose another --workdir"):
        import_weights.main()
    assert sorted(run_folder.checkpoints(workdir).rglob("*")) == before


# --- The first layers alone ----------------------------------------------------------------------------------------


def test_first_layers_of_an_incomplete_discriminator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of the authors' ImageNet network: there are no files of G, and those of a layer of D are missing."""
    config = config_of("3x3")
    folder = write(tmp_path / "weights", *random_arrays(config))
    for file in [*folder.glob("*gen_params*"), folder / "200_discrim_params.jl_05.npy"]:
        file.unlink()
    with pytest.raises(
        UserError, match=r"no files \*gen_params.*or --layers, if the first layers of the discriminator"
    ):
        import_weights.import_weights(config, folder)
    with pytest.raises(UserError, match=r"has no 200_discrim_params\.jl_05\.npy\. .*--layers takes those alone"):
        import_weights.import_weights(config, folder, layers=3)
    with pytest.raises(UserError, match="--layers=4, but the discriminator has 3 convolutions"):
        import_weights.import_weights(config, folder, layers=4)

    command(monkeypatch, config, str(folder), tmp_path / "run", layers=2)
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[:4]] == [
        "200_discrim_params.jl_01.npy [4, 3, 3, 3] -> conv1 [3, 3, 3, 4]",
        "200_discrim_params.jl_02.npy [5, 4, 3, 3] -> conv2 [3, 3, 4, 5]",
        "200_discrim_params.jl_03.npy [5] -> conv2_norm/gain [5]",
        "200_discrim_params.jl_04.npy [5] -> conv2_norm/shift [5]",
    ]
    assert lines[4:] == [
        "not imported, at initial values: the generator, and the discriminator's layers behind conv2",
        f"imported into {tmp_path / 'run'}",
    ]
    assert run_folder.imported_layers(tmp_path / "run") == 2
    params, fresh = trained.load(tmp_path / "run").state.discriminator.params, tiny.fresh_state(config)
    second = np.load(folder / "200_discrim_params.jl_02.npy")
    np.testing.assert_array_equal(params["conv2"][0, 1, 3, 2], second[2, 3, 2, 1])
    np.testing.assert_array_equal(params["conv2_norm"]["shift"], np.load(folder / "200_discrim_params.jl_04.npy"))
    for name in ("conv3", "conv3_norm", "logit"):
        assert tiny.largest_difference(params[name], fresh.discriminator.params[name]) == 0
    # Nothing takes the layers that were not imported for trained ones.
    run = trained.load(tmp_path / "run")
    run.need_discriminator(whole=False)
    for use in (guided_backprop.measure, lambda run: run.discriminate(run.sample(2))):
        with pytest.raises(UserError, match=r"run has the first 2 layers of an imported discriminator, .* all of them"):
            use(run)
    assert run.weights.discriminator is None
    assert "discriminator.pt" not in [file.name for file in torch_state.write(tmp_path / "out", run)]


# --- PyTorch -------------------------------------------------------------------------------------------------------

TORCH_FILES = Path(__file__).parent / "torch_files"
NET_G, NET_D = (TORCH_FILES / f"example_{name}.pth" for name in ("generator", "discriminator"))


def example_config(changes: Mapping[str, Any] = {}) -> ConfigDict:
    """configs/pytorch_example.py at the size of tests/torch_files."""
    config = pytorch_example.get_config()
    config.update_from_flattened_dict({"model.width": 1 / 32, "model.z_dim": 8, "conv": "lax", **changes})
    return config


def nested(file: Path, states: Mapping[str, Mapping[str, Array]]) -> Path:
    """A checkpoint that holds state_dicts by name, as one state_dict with longer names: both are read alike."""
    flat = {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}
    file.write_bytes(torch_state.dumps(flat))
    return file


def test_pytorchs_files_become_a_run_that_draws_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = np.load(TORCH_FILES / "example.npz")
    command(monkeypatch, example_config(), f"{NET_G},{NET_D}", tmp_path / "run")
    lines = [line.split("  ->  ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["main.0.weight [8, 16, 4, 4]".ljust(len(lines[0][0])), "projection/kernel [8, 256]"]
    assert "main.13.weight" not in str(lines) and len(lines) == 5 + 4 * 4 + 5 + 3 * 4 + 1
    run = trained.load(tmp_path / "run")
    images = run.generate(golden["z"])
    assert golden["images"].std() > 0.1
    expected = np.rint((golden["images"] + 1) * 127.5)
    assert np.abs(images[:, :32, 16:48] - expected).max() <= 1  # float32 rounds to the other side of a half
    (drawn, _), variables = run.generator.apply(run.variables, golden["z"], train=False, mutable=[])
    assert not variables
    np.testing.assert_allclose(drawn[:, :32, 16:48], golden["images"], atol=1e-5)
    result: Any = run.discriminator.apply(run.state.discriminator.variables, drawn, train=False)
    np.testing.assert_allclose(result[0], golden["logits"], atol=1e-5)
    # And back: what is written of the run is what PyTorch wrote, but for the count of its batches.
    for written, file in zip(torch_state.write(tmp_path / "out", run), (NET_G, NET_D), strict=True):
        found, before = torch_state.read(written), torch_state.read(file)
        assert list(found) == list(before)
        for name in (name for name in found if not name.endswith("tracked")):
            np.testing.assert_allclose(found[name], before[name], rtol=1e-6, err_msg=name)


def test_names_of_checkpoints(tmp_path: Path) -> None:
    """Both networks in one file, wrapped, beside a third one; or one under any names, found by its shapes."""
    g, d = torch_state.read(NET_G), torch_state.read(NET_D)
    for names in (("netG", "netD"), ("generator_state_dict", "discriminator_state_dict"), ("module.G", "state_dict.D")):
        file = nested(tmp_path / "both.pth", {names[0]: g, names[1]: d, "netG_average": g})
        found = import_weights._players([file])
        assert {player: list(tensors) for player, (_, tensors) in found.items()} == {
            "generator": [f"{names[0]}.{name}" for name in g],
            "discriminator": [f"{names[1]}.{name}" for name in d],
        }
    alone = nested(tmp_path / "alone.pth", {"state_dict.module": g})
    safetensors.numpy.save_file(d, tmp_path / "d.safetensors")
    found = import_weights._players([alone, tmp_path / "d.safetensors"])
    assert {player: path.name for player, (path, _) in found.items()} == {
        "generator": "alone.pth",
        "discriminator": "d.safetensors",
    }
    with pytest.raises(UserError, match="both hold a generator: give one of them"):
        import_weights.import_weights(example_config(), [NET_G, alone])
    with pytest.raises(UserError, match="--layers=2 is for a folder of the authors' files"):
        import_weights.import_weights(example_config(), NET_D, layers=2)


def test_a_generator_alone_leaves_the_discriminator_as_it_begins() -> None:
    """The names do not matter, their order does."""
    config, state = example_config(), torch_state.read(NET_G)
    found, mapped, *_ = import_weights.import_weights(config, NET_G)
    fresh = tiny.fresh_state(config)
    assert tiny.largest_difference(found.discriminator.params, fresh.discriminator.params) == 0
    kernel = np.asarray(found.generator.params["deconv2"])
    np.testing.assert_array_equal(kernel[1, 3], state["main.6.weight"][:, :, 1, 3].T)
    np.testing.assert_array_equal(found.generator.batch_stats["deconv2_norm"]["var"], state["main.7.running_var"])
    assert [one.source for one in mapped] == [name for name in state if not name.endswith("tracked")]
    generator, like = models.build_generator(config), fresh.generator.variables
    renamed = {
        re.sub(r"main.(\d+)", lambda found: f"layer{99 - int(found[1])}", name): one for name, one in state.items()
    }
    again, _ = torch_layout.from_state_dict(generator, renamed, like, (4, 4), "g.pth")
    assert tiny.largest_difference(again, found.generator.variables) == 0


def test_pytorchs_files_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As PyTorch's example leaves them, among pictures. With a generator alone, the discriminator is not used."""
    folder, config = tmp_path / "outf", example_config()
    folder.mkdir()
    (folder / "fake_samples_epoch_000.png").touch()
    shutil.copy(NET_G, folder / "netG_epoch_0.pth")
    command(monkeypatch, config, str(folder), tmp_path / "alone")
    assert "not imported, at initial values: the discriminator\n" in capsys.readouterr().out
    alone = trained.load(tmp_path / "alone")
    for whole in (True, False):
        with pytest.raises(UserError, match="alone holds a generator only, and this needs the discriminator"):
            alone.need_discriminator(whole)
    shutil.copy(NET_D, folder / "netD_epoch_0.pth")
    command(monkeypatch, config, str(folder), tmp_path / "both")
    assert "not imported" not in capsys.readouterr().out
    both, files = trained.load(tmp_path / "both"), import_weights.import_weights(config, [NET_G, NET_D])
    assert both.has_discriminator and tiny.largest_difference(both.state, files.state) == 0
    shutil.copy(NET_G, folder / "netG_epoch_1.pth")
    with pytest.raises(UserError, match=r"netG_epoch_0.pth and .*netG_epoch_1.pth both hold a generator: give one"):
        import_weights.import_weights(config, folder)


def test_biases_before_a_normalisation_are_taken_off_its_mean() -> None:
    """mean(x + b) - b: dcgan.torch has biases, which its normalisation removes. Behind none, they are refused."""
    config = example_config()
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tiny.abstract_state(config)).generator.variables
    generator, tensors = models.build_generator(config), torch_state.read(NET_G)
    plain, _ = torch_layout.from_state_dict(generator, tensors, like, (4, 4), "g.pth")
    bias = np.arange(16, dtype=np.float32)
    found, _ = torch_layout.from_state_dict(generator, {**tensors, "main.0.bias": bias}, like, (4, 4), "g.pth")
    shifted = plain["batch_stats"]["projection_norm"]["mean"] - found["batch_stats"]["projection_norm"]["mean"]
    np.testing.assert_allclose(shifted, bias, atol=1e-6)
    with pytest.raises(UserError, match=r"g.pth: main.12.bias is not zero, but our deconv4 has no bias"):
        torch_layout.from_state_dict(generator, {**tensors, "main.12.bias": bias[1:4]}, like, (4, 4), "g.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.norm_epsilon": 1e-8},
            "config.model.norm_epsilon is 1e-08, but PyTorch's networks have 1e-05: give --",
        ),
        ({"model.generator.projection_norm": "unit"}, "give --config.model.generator.projection_norm=channel"),
        ({"model.num_classes": 2}, "give --config.model.num_classes=0"),
        ({"model.discriminator.spectral_norm": True}, "give --config.model.discriminator.spectral_norm=False"),
        ({"model.z_dim": 9}, "main.0.weight is [8, 16, 4, 4], but the config's projection needs [9, 16, 4, 4] there"),
        ({"model.kernel_size": 5}, "main.3.weight is [16, 8, 4, 4], but the config's deconv1 needs [16, 8, 5, 5]"),
        ({"data.channels": 1}, "main.12.weight is [2, 3, 4, 4], but the config's deconv4 needs [2, 1, 4, 4] there"),
        (
            {"model.generator.stages": ((512, 2), (256, 2), (128, 2), (64, 2), (32, 2)), "data.image_size": 128},
            "main.12.weight is [2, 3, 4, 4], but the config's deconv4 needs [2, 1, 4, 4] there",
        ),
        (
            {"model.generator.stages": ((512, 2), (256, 2), (128, 2)), "data.image_size": 32},
            "main.9.weight is [4, 2, 4, 4], but",
        ),
    ],
)
def test_configs_of_other_networks_than_pytorchs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        import_weights.import_weights(example_config(changes), NET_G)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("main.12.weight"), "has fewer layers than the config's network: deconv4 is missing"),
        (lambda state: state.update({"main.15.weight": np.zeros(3, np.float32)}), "more layers .*: main.15 is left"),
        (
            lambda state: state.pop("main.4.running_var"),
            "main.4 has .*, but the config's deconv1_norm needs .*running",
        ),
        (lambda state: state["main.3.weight"].fill(np.nan), "main.3.weight has numbers that are not finite"),
        (lambda state: state["main.4.running_var"].fill(-1e-6), "main.4.running_var has negative variances"),
        (lambda state: state.update({"main.0.weight": np.zeros((8, 16, 4, 4), np.int64)}), "main.0.weight holds int64"),
        (lambda state: [state.pop(name) for name in list(state) if state[name].ndim == 4], "has no convolutions"),
    ],
)
def test_state_dicts_of_other_networks(change: Any, message: str, tmp_path: Path) -> None:
    state = torch_state.read(NET_G)
    change(state)
    (tmp_path / "g.pth").write_bytes(torch_state.dumps(state))
    with pytest.raises(UserError, match=f"g.pth.*{message}"):
        import_weights.import_weights(example_config(), tmp_path / "g.pth")


def test_with_pytorch_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's networks, G with the biases of dcgan.torch -> a checkpoint -> a run -> their classes, strictly."""
    torch = pytest.importorskip("torch")
    from tests import torch_example

    first = torch_example.randomise(torch_example.generator(bias=True), 3)
    judge = torch_example.randomise(torch_example.discriminator(), 4)
    states = {"epoch": 3, "netG": torch.nn.DataParallel(first).state_dict(), "netD": judge.state_dict()}
    torch.save({**states, "optimizerG": torch.optim.Adam(first.parameters()).state_dict()}, tmp_path / "both.pth")
    command(monkeypatch, example_config(), str(tmp_path / "both.pth"), tmp_path / "run")
    run = trained.load(tmp_path / "run")
    z = run.noise(3)
    images = torch_example.draw(first, z)
    assert images.std() > 0.1
    ours: Any = run.generator.apply(run.variables, z, train=False)
    np.testing.assert_allclose(ours[0], images, atol=1e-5)
    logits: Any = run.discriminator.apply(run.state.discriminator.variables, images, train=False)
    np.testing.assert_allclose(logits[0], torch_example.judge(judge, images), atol=1e-5)
    again = {"generator": torch_example.generator(), "discriminator": torch_example.discriminator()}
    torch_state.write(tmp_path / "out", run)
    for name, network in again.items():
        network.load_state_dict(torch.load(tmp_path / "out" / f"{name}.pt", weights_only=True), strict=True)
        network.eval()
    np.testing.assert_allclose(torch_example.draw(again["generator"], z), images, atol=1e-5)
    np.testing.assert_allclose(
        torch_example.judge(again["discriminator"], images), torch_example.judge(judge, images), atol=1e-5
    )


# --- Our own -------------------------------------------------------------------------------------------------------


def test_our_own_weights_file(tmp_path: Path, trained_run: Path) -> None:
    run = trained.load(trained_run)
    content = weights_file.encode(
        weights_file.Weights(run.config, run.step, run.variables, run.state.discriminator.variables, None)
    )
    (tmp_path / weights_file.FILE).write_bytes(content)
    for path in (tmp_path, tmp_path / weights_file.FILE):
        state, mapped, *_ = import_weights.import_weights(run.config, path)
        assert int(state.step) == 0
        for player in ("generator", "discriminator"):
            ours, theirs = getattr(state, player), getattr(run.state, player)
            assert tiny.largest_difference(ours.variables, theirs.variables) < 1e-3  # float16
            assert all((leaf == 0).all() for leaf in map(np.asarray, jax.tree.leaves(ours.opt_state)))
        names = {(one.source, one.name) for one in mapped}
        assert {
            ("generator.projection.kernel", "projection/kernel"),
            ("discriminator.conv2_norm.mean", "conv2_norm/mean"),
        } <= names
    with pytest.raises(UserError, match=r"config.model.output is 'sigmoid', but 'tanh' in .*: give --config.model.out"):
        import_weights.import_weights(tiny.config({"model.output": "sigmoid"}), tmp_path)
