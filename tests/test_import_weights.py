"""Importing the authors' weights: the imported networks against theirs, written out in NumPy as Theano computes them.

Theano's convolutions flip the kernel, its maps are [batch, features, height, width], its weights [out, in, k, k] (in a
transposed convolution [in, out, k, k]), and the authors' networks normalise with batch statistics.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dcgan_jax import import_weights
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import models
from dcgan_jax.runs import run_folder, trained
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
    side = models.first_side(config.data.image_size, stages)
    units = stages[0][0] * side * side
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
    side = models.first_side(config.data.image_size, stages)
    return g, [*d, weights(stages[-1][0] * side * side, 1)]


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
    state = import_weights.import_weights(config, write(tmp_path / "weights", g, d))
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
    state = import_weights.import_weights(config, folder)
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


def test_a_run_is_made_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command writes is a run like any other; a second import does not overwrite it."""
    workdir, config = tmp_path / "run", config_of()
    for name, value in (("_CONFIG", config), ("_WEIGHTS", str(folder)), ("_WORKDIR", str(workdir))):
        monkeypatch.setattr(import_weights, name, SimpleNamespace(value=value), raising=False)
    import_weights.main()
    run = trained.load(workdir)
    assert run.config.to_dict() == config.to_dict()
    expected = import_weights.import_weights(config, folder)
    assert tiny.largest_difference(run.state, expected) == 0

    before = sorted(run_folder.checkpoints(workdir).rglob("*"))
    with pytest.raises(UserError, match=r"already holds a run: choose another --workdir"):
        import_weights.main()
    assert sorted(run_folder.checkpoints(workdir).rglob("*")) == before
