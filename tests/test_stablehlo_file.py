"""Tests of dcgan_jax.exchange.stablehlo_file: JAX alone draws what the run draws."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import dcgan_jax
from dcgan_jax.exchange import stablehlo_file
from dcgan_jax.machine.errors import UserError
from tests import networks

# Runs a script in a process that has neither this package nor anything else that a user of JAX may lack.
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["dcgan_jax", "flax", "ml_collections", "optax", "orbax", "tensorflow", "onnx"]))
runpy.run_path(sys.argv[1])
"""


@pytest.mark.parametrize(
    "changes",
    [{}, {"model.num_classes": 3, "model.z_distribution": "normal", "conv": "auto"}],
    ids=["plain", "classes"],
)
def test_the_script_draws_what_the_run_draws(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run", changes, ["cat", "dog", "emu"] if changes else None))
    folder = tmp_path / "program"
    folder.mkdir()
    written = stablehlo_file.write(folder, run)
    assert sorted(written) == sorted(folder.iterdir())
    assert len((folder / "run.py").read_text().splitlines()) <= 10
    command = [sys.executable, "-c", ALONE, str(folder / "run.py")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    rng = np.random.default_rng(0)
    z = rng.normal(size=(16, 5)) if changes else rng.uniform(-1, 1, (16, 5))
    images, expected = np.load(tmp_path / "images.npy"), run.generate(z.astype(np.float32))
    assert images.dtype == np.uint8 and images.std() > 30
    np.testing.assert_allclose(images.astype(int), expected.astype(int), atol=1)
    readme = (folder / "README.md").read_text()
    assert "weights of step 7" in readme and f"JAX {jax.__version__} wrote it" in readme
    assert ("labels: int32 [N], numbers of cat, dog, emu" in readme) == bool(changes)
    assert ("float32 [N, 5], standard normal;" in readme) == bool(changes)


def test_one_program_for_every_platform_and_number_of_images(tmp_path: Path) -> None:
    run = dcgan_jax.load(networks.trained_file(tmp_path, {"model.kernel_size": 5, "conv": "winograd"}))
    program = jax.export.deserialize(bytearray(stablehlo_file.make_program(run)))
    assert program.platforms == ("cpu", "cuda", "tpu")
    z = run.noise(130)  # more than a batch of the sampler
    expected = run.generate(z).astype(int)
    for count in (1, 130):
        images = np.asarray(program.call(z[:count]))
        np.testing.assert_allclose(images.astype(int), expected[:count], atol=1)


def test_a_program_of_other_weights_is_no_good(tmp_path: Path) -> None:
    changes = {"model.output": "sigmoid", "precision": "bfloat16"}
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run", changes))
    stablehlo_file.write(tmp_path, run)
    found = stablehlo_file.check(tmp_path, run)[stablehlo_file.PROGRAM]
    assert found.endswith(("by 0 of 255 (16 images)", "by 1 of 255 (16 images)"))
    other = replace(run, state=jax.tree.map(lambda leaf: leaf + leaf, run.state))
    with pytest.raises(UserError, match=r"jax_exported is no good: its images differ from JAX's by \d+ levels"):
        stablehlo_file.check(tmp_path, other)
