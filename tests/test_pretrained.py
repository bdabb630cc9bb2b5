"""Tests of the networks that come with the package, dcgan_jax/pretrained/."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import dcgan_jax
from dcgan_jax.runs import weights_file

FOLDER = Path(weights_file.__file__).parents[1] / "pretrained"
NAMES = weights_file.pretrained()


def test_the_names_that_the_readme_gives() -> None:
    assert NAMES == ["cifar10", "faces", "mnist", "toy_bedrooms", "toy_faces"]


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 12_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_network_draws_its_sheet(name: str) -> None:
    """Within a few levels: other processors round differently, and many layers follow."""
    run = dcgan_jax.load(name)
    sheet = np.asarray(Image.open(FOLDER / name / "samples.png"))
    size, _, channels = run.generator.image_shape
    first = sheet[:size, : 8 * size].reshape(size, 8, size, channels).swapaxes(0, 1)
    difference = np.abs(run.sample(8).astype(int) - first)
    assert difference.max() <= 4 and difference.mean() < 0.1
    assert first.std() > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_data_licence_and_size(name: str) -> None:
    _, head, card = (FOLDER / name / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["license"]
    run = dcgan_jax.load(name)
    assert f"{run.step:,} steps" in card and run.config.data.source.split(":")[-1] in card
    assert "/" not in run.config.data.source.partition(":")[2] and not run.config.data.cache_dir


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_was_measured(name: str) -> None:
    card = (FOLDER / name / "README.md").read_text()
    assert re.search(r"^\| probe_frechet \| [\d.]+, of 10,000 samples \|$", card, re.MULTILINE), card


@pytest.mark.parametrize("name", ["cifar10", "toy_bedrooms"])
def test_these_bring_their_discriminators(name: str) -> None:
    run = dcgan_jax.load(name)
    logits, _ = run.discriminate(run.sample(2))
    assert np.isfinite(logits).all()
