"""A run of images that are not square, from the first step to the last export (long)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dcgan_jax
from dcgan_jax import export, training
from dcgan_jax.exchange import torch_state
from dcgan_jax.nets import layers
from dcgan_jax.runs import run_folder
from dcgan_jax.runs.trained import Run
from tests import tiny
from tests.test_sample import draw
from tests.trained import analyse

HEIGHT, WIDTH = 16, 24
CHANGES = {
    "data.image_size": HEIGHT,
    "data.image_width": WIDTH,
    "sample_every": 1,
    "checkpoint_every": 1,
    "eval.metrics": ("nnd", "features"),
    "eval.num_samples": 20,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after a step and resumed for another."""
    folder = tmp_path_factory.mktemp("nonsquare")
    source = tiny.image_folder(folder / "images", size=HEIGHT, width=WIDTH)
    for steps, eval_every in ((1, 0), (2, 2)):
        changes = {**CHANGES, "data.source": source, "num_steps": steps, "eval_every": eval_every}
        training.train(tiny.config(changes), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run(workdir: Path) -> Run:
    return dcgan_jax.load(workdir)


@pytest.mark.long
def test_training(workdir: Path, run: Run) -> None:
    """A resumed run is the run that never stopped; its sheets are 8 x 8 images."""
    whole = training.train(run.config, workdir.with_name("whole"))
    assert tiny.largest_difference(whole.state, run.state) == 0
    assert run_folder.read_metrics(workdir)[-1].keys() >= {"nnd", "pixels_frechet"}
    for file in (workdir / "samples").glob("*.png"):
        with Image.open(file) as sheet:
            assert sheet.size == (8 * WIDTH, 8 * HEIGHT)


@pytest.mark.long
def test_samples_and_a_walk(workdir: Path, run: Run, tmp_path: Path) -> None:
    process = draw(workdir, tmp_path / "out", "--num=3", "--grid=2x2")
    assert process.returncode == 0, process.stderr
    with Image.open(tmp_path / "out" / "000002.png") as image:
        np.testing.assert_array_equal(np.asarray(image), run.sample(3)[2])
    with Image.open(tmp_path / "out_sheet.png") as sheet:
        assert sheet.size == (2 * WIDTH, 2 * HEIGHT)
    process = analyse("latent_walk", workdir)
    assert process.returncode == 0, process.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", ["hub", "onnx", "page", "safetensors", "stablehlo", "torch"])
def test_exports(name: str, run: Run, tmp_path: Path) -> None:
    """Those that can be run here are compared with JAX by `export.write` itself."""
    if name == "onnx":
        pytest.importorskip("onnxruntime")
    written = export.write(run, export.find_format(name), tmp_path / name)
    assert all(written) and all((tmp_path / name / file).stat().st_size for file in written)
    if name in ("hub", "safetensors"):
        np.testing.assert_array_equal(dcgan_jax.load(tmp_path / name).sample(2).shape, (2, HEIGHT, WIDTH, 3))
    if name == "torch":
        check_torch(run, tmp_path / name)


def check_torch(run: Run, folder: Path) -> None:
    """The dense layers, whose units are ordered (feature, row, column) in PyTorch, on the networks' own activations."""
    z = run.noise(4)
    generator = layers.generator_layers(run.generator, run.variables)
    images, maps = layers.apply(generator, z)
    found = torch_state.read(folder / "generator.pt")
    projected = np.maximum(z @ found["projection.weight"].T + found["projection.bias"], 0).reshape(4, -1, 4, 6)
    np.testing.assert_allclose(projected.transpose(0, 2, 3, 1), maps["projection"], atol=1e-5)
    discriminator = layers.discriminator_layers(run.discriminator, run.state.discriminator.variables)
    logits, maps = layers.apply(discriminator, images)
    found = torch_state.read(folder / "discriminator.pt")
    flat: Any = maps["conv2"].transpose(0, 3, 1, 2).reshape(4, -1)
    np.testing.assert_allclose(flat @ found["logit.weight"].T + found["logit.bias"], logits, atol=1e-5)
