"""Every file in configs/: it loads, builds the networks that its header promises, and trains."""

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import default
from dcgan_jax import training
from dcgan_jax.config import flatten, load_config
from dcgan_jax.machine.errors import UserError
from dcgan_jax.train_state import build_gan, create_state
from tests import tiny

FOLDER = Path(default.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")

# Learned parameters of generator and discriminator, worked out by hand from the sizes in the headers.
SIZES = {
    "default": (18_885_760, 17_232_768),
    "faces": (18_885_760, 17_232_768),
    # 100 x 4,096 + 25 x (256 x 128 + 128 x 64 + 64 x 32 + 32 x 3), and gains and shifts of 4,096 + 128 + 64 + 32; of D
    # the same kernels, gains and shifts of 64 + 128 + 256, and 4,096 for the logit.
    "folder": (5_142_080, 4_315_584),
    "lsun": (18_885_760, 17_232_768),
    "imagenet32": (6_690_688, 4_586_112),
    "svhn": (1_446_976, 1_033_664),
    "mnist": (6_820_538, 6_688_202),
    "mnist_dense": (1_982_112, 1_872_906),
    "cifar10": (3_448_576, 2_637_312),
    "cifar10_best": (3_448_576, 2_637_312),
    # 100 x 8,192 + 16 x (512 x 256 + 256 x 128 + 128 x 64 + 64 x 3), and gains and shifts of 512 + 256 + 128 + 64; of D
    # the same kernels, gains and shifts of 128 + 256 + 512, and 8,192 for the logit.
    "pytorch_example": (3_576_704, 2_765_568),
    # The generator of faces.py; of D kernels of 25 x (3 x 64 + 64 x 64 + 64 x 128 + 128 x 128 + 128 x 256 + 256 x 256 +
    # 256 x 512 + 512 x 512 + 512 x 1,024 + 1,024 x 1,024), gains and shifts of 64 + 2 x (128 + 256 + 512 + 1,024), and
    # 2 x 2 x 1,024 for the logit.
    "ten_layers": (18_885_760, 52_343_104),
    "toy_bedrooms": (1_107_904, 694_656),
    "toy_faces": (1_107_904, 694_656),
}


def load(name: str, *overrides: str) -> ConfigDict:
    """The config as the command line makes it."""
    values, arguments = flags.FlagValues(), ["program", f"--config={FOLDER / name}.py", *overrides]
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    with mock.patch.object(sys, "argv", arguments):  # where ml_collections looks for overrides
        values(arguments)
    return values.config


def learned(config: ConfigDict) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of the parameters of both networks, by name."""
    state = jax.eval_shape(functools.partial(create_state, build_gan(config)))

    def shapes(params: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}

    return shapes(state.generator.params), shapes(state.discriminator.params)


def sizes(config: ConfigDict) -> tuple[int, ...]:
    return tuple(sum(int(np.prod(shape)) for shape in shapes.values()) for shapes in learned(config))


def started(config: ConfigDict) -> ConfigDict:
    """The config as a run on a CPU begins with it."""
    with tempfile.TemporaryDirectory() as folder:
        return training.decided(config, Path(folder))


def test_every_file_is_here() -> None:
    assert set(NAMES) == set(SIZES)


@pytest.mark.parametrize("name", NAMES)
def test_loads_locked(name: str) -> None:
    config = load(name, "--config.batch_size=16", "--config.model.generator.stages=((8, 2), (4, 2))")
    assert config.is_locked and config.batch_size == 16
    assert config.model.generator.stages == ((8, 2), (4, 2))
    with pytest.raises(AttributeError, match='Did you mean "batch_size"'):
        config.batchsize = 3
    with pytest.raises(AttributeError, match='Did you mean "kernel_size"'):
        load(name, "--config.model.kernelsize=3")
    # A config changes values of the default's fields, not fields or their types.
    fields = jax.tree.map(type, default.get_config().to_dict(), is_leaf=lambda node: isinstance(node, tuple))
    assert jax.tree.map(type, config.to_dict(), is_leaf=lambda node: isinstance(node, tuple)) == fields


@pytest.mark.parametrize("name", NAMES)
def test_full_size(name: str) -> None:
    assert sizes(started(load(name))) == SIZES[name]


def test_full_size_of_the_pytorch_example() -> None:
    """github.com/pytorch/examples/dcgan: 3,576,704 + 2,765,568."""
    config = load(
        "faces",
        "--config.model.kernel_size=4",
        "--config.model.width=0.5",
        "--config.model.generator.projection_norm=channel",
    )
    assert sizes(config) == (3_576_704, 2_765_568)


def test_svhn_is_the_released_network() -> None:
    """Shapes of 200_gen_params.jl_01.npy, ... and 200_discrim_params.jl_01.npy, ... in github.com/Newmu/dcgan_code."""

    def ours(shape: tuple[int, ...]) -> tuple[int, ...]:
        """[small, large, k, k] -> [k, k, large, small]"""
        return (*shape[2:], shape[1], shape[0])

    generator, discriminator = learned(load("svhn"))
    assert generator == {
        "projection/kernel": (100, 4096),
        "projection_norm/gain": (4096,),
        "projection_norm/shift": (4096,),
        "deconv1": ours((256, 128, 5, 5)),
        "deconv1_norm/gain": (128,),
        "deconv1_norm/shift": (128,),
        "deconv2": ours((128, 64, 5, 5)),
        "deconv2_norm/gain": (64,),
        "deconv2_norm/shift": (64,),
        "deconv3": ours((64, 3, 5, 5)),
    }
    assert discriminator == {
        "conv1": ours((64, 3, 5, 5)),
        "conv2": ours((128, 64, 5, 5)),
        "conv2_norm/gain": (128,),
        "conv2_norm/shift": (128,),
        "conv3": ours((256, 128, 5, 5)),
        "conv3_norm/gain": (256,),
        "conv3_norm/shift": (256,),
        "logit/kernel": (4096, 1),
    }


def test_mnist_is_the_authors_conditional_network() -> None:
    """Shapes in mnist/train_cond_dcgan.py: ten labels at every layer, no gains and shifts."""
    generator, discriminator = learned(load("mnist"))
    assert generator == {
        "hidden1/kernel": (100 + 10, 1024),
        "projection/kernel": (1024 + 10, 128 * 7 * 7),
        "deconv1": (5, 5, 64, 128 + 10),
        "deconv2": (5, 5, 1, 64 + 10),
    }
    assert discriminator == {
        "conv1": (5, 5, 1 + 10, 64),
        "conv2": (5, 5, 64 + 10, 128),
        "hidden1/kernel": (128 * 7 * 7 + 10, 1024),
        "logit/kernel": (1024 + 10, 1),
    }


@pytest.mark.parametrize("name", NAMES)
def test_takes_a_step(name: str) -> None:
    config = started(load(name, "--config.batch_size=4", "--config.conv=lax"))
    config.model.width = config.model.width / 64
    # The step does not depend on these; equal configs share one compilation.
    config.data.source, config.num_steps, config.checkpoint_every = "", 1, 1
    states, (metrics, later) = tiny.run_steps(config)
    assert all(np.isfinite([*metrics.values(), *later.values()])), (metrics, later)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
    for player in ("generator", "discriminator"):
        before, after = (getattr(state, player).params for state in states[:2])
        # The first step of Adam is as long as the learning rate, for all but tiny gradients.
        rate = config.optimizer[f"{player}_learning_rate"]
        assert tiny.largest_difference(before, after) == pytest.approx(rate, rel=0.1)
    # Fresh networks on the fence: ln 2 a term, and sigmoid(0).
    assert metrics["d_loss"] == pytest.approx(2 * np.log(2), abs=0.2)
    assert metrics["g_loss"] == pytest.approx(np.log(2), abs=0.2)
    assert metrics["d_real"] == pytest.approx(0.5, abs=0.1) and metrics["d_fake"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("size", "maps"),
    [(28, (128, 256)), (32, (128, 256, 512)), (64, (128, 256, 512, 1024)), (96, (128, 256, 512, 1024)),
     (128, (128, 256, 512, 1024, 1024))],
)  # fmt: skip
def test_the_size_of_a_folders_images_gives_the_stages(size: int, maps: tuple[int, ...], tmp_path: Path) -> None:
    source = tiny.image_folder(tmp_path / "my, images", count=6, classes=3)
    config = load_config(f"{FOLDER}/folder.py:{tmp_path}/my, images,{size}")
    assert config.data.source == source and config.data.image_size == size
    assert [features for features, _ in config.model.discriminator.stages] == list(maps)
    assert config.model.generator.stages == config.model.discriminator.stages[::-1]
    assert config.model.num_classes == 3


@pytest.mark.parametrize(
    ("size", "sides", "stages"),
    [("64x96", (64, 96), 4), ("96x64", (96, 64), 4), ("20x32", (20, 32), 2), ("64x64", (64, 0), 4)],
)
def test_a_folder_of_images_that_are_not_square(size: str, sides: tuple[int, int], stages: int, tmp_path: Path) -> None:
    config = load_config(f"{FOLDER}/folder.py:{tmp_path}/missing,{size}")
    assert (config.data.image_size, config.data.image_width) == sides
    assert len(config.model.generator.stages) == len(config.model.discriminator.stages) == stages


@pytest.mark.parametrize("size", ["64x100", "100x64", "8x64", "64x512"])
def test_sides_that_fit_no_stages(size: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"size {size} does not fit: .*and both multiples of it"):
        load_config(f"{FOLDER}/folder.py:{tmp_path},{size}")


@pytest.mark.parametrize(("images", "batch"), [(3, 2), (5, 4), (31, 16), (33, 32)])
def test_a_batch_is_no_larger_than_a_folder(images: int, batch: int, tmp_path: Path) -> None:
    source = tiny.image_folder(tmp_path / "images", count=images).removeprefix("folder:")
    assert load_config(f"{FOLDER}/folder.py:{source}").batch_size == batch


@pytest.mark.parametrize(("classes", "held_out"), [(120, 0), (111, 0), (105, 12), (2, 12)])
def test_what_is_held_out_leaves_an_image_of_each_class(classes: int, held_out: int, tmp_path: Path) -> None:
    """Of 120 images; fewer than ten, which no evaluation takes, are none."""
    source = tiny.image_folder(tmp_path / "images", count=120, classes=classes)
    config = load_config(f"{FOLDER}/folder.py:{source.removeprefix('folder:')}", {"model.num_classes": 0})
    assert config.data.held_out == held_out and (config.eval_every > 0) == (held_out > 0)


def test_a_folder_without_classes_is_unconditional(tmp_path: Path) -> None:
    tiny.image_folder(tmp_path / "flat")
    for split in ("train", "test"):
        tiny.image_folder(tmp_path / "splits" / split)
    for name in ("flat", "splits", "missing"):
        config = load_config(f"{FOLDER}/folder.py:{tmp_path}/{name}")
        assert (config.model.num_classes, config.data.image_size) == (0, 64), name
    assert flatten(load_config(FOLDER / "lsun.py"))["model.generator.stages"] == config.model.generator.stages


@pytest.mark.parametrize("size", [15, 30, 100, 512])
def test_sizes_that_fit_no_stages(size: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"size {size} does not fit: give 16 to 256"):
        load_config(f"{FOLDER}/folder.py:{tmp_path},{size}")
