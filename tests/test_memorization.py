"""Copies of training images count as memorised; other images of the same kind rarely do."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_spaces
from dcgan_jax.metrics.memorization import Memorization, nearest_distances
from tests import tiny


def test_nearest_distances_by_hand() -> None:
    rows = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
    queries = np.array([[3, 4], [0, 1], [9, 12]], np.float32)
    np.testing.assert_allclose(nearest_distances(queries, rows), [0, 1, 5], atol=1e-3)


def test_shares() -> None:
    """Of 200 other images one in twenty is nearer than 95 % of the held-out ones, but for chance."""
    training, held_out, others = (
        dataclasses.replace(tiny.dataset(count=200, seed=seed), path=Path(str(seed))) for seed in range(3)
    )
    space = feature_spaces.of_pixels()
    memorization = Memorization(space, training, held_out, mirrored=False)
    assert memorization.share(space.embed(training.images).features) == 1
    assert memorization.share(space.embed(held_out.images).features) == 0.05
    assert memorization.share(space.embed(others.images).features) < 0.12
    half = np.concatenate([training.images[:100], others.images[:100]])
    rest = memorization.share(space.embed(others.images[:100]).features)
    assert memorization.share(space.embed(half).features) == 0.5 + rest / 2


def test_images_above_their_nearest_training_images() -> None:
    """Training images in another order, each a level brighter: below each is the one that it was made of."""
    training, held_out = (dataclasses.replace(tiny.dataset(9, seed=seed), path=Path(str(seed))) for seed in range(2))
    chosen = np.array([4, 0, 8])
    brighter = training.images[chosen] // 2 * 2 + 1
    sheet = Memorization(feature_spaces.of_pixels(), training, held_out, mirrored=False).nearest_sheet(brighter)
    np.testing.assert_array_equal(sheet[:8], np.concatenate(list(brighter), 1))
    np.testing.assert_array_equal(sheet[8:], np.concatenate(list(training.images[chosen]), 1))


def test_copies_count_also_if_some_held_out_images_are_copies() -> None:
    """A tenth of the held-out images is among the training images too: nothing is nearer than they are."""
    training, held_out, others = (
        dataclasses.replace(tiny.dataset(count=100, seed=seed), path=Path(str(seed))) for seed in range(3)
    )
    mixed = dataclasses.replace(held_out, images=np.concatenate([training.images[:10], held_out.images[:90]]))
    space = feature_spaces.of_pixels()
    memorization = Memorization(space, training, mixed, mirrored=False)
    assert memorization.share(space.embed(training.images).features) == 1
    assert memorization.share(space.embed(others.images).features) == 0
    with pytest.raises(UserError, match=r"held-out images are those of training"):
        Memorization(space, training, dataclasses.replace(training, path=Path("a copy")), mirrored=False)


def test_mirror_images_of_mirrored_training_images_are_copies() -> None:
    """A generator that saw both ways round and copies either: all of its samples are copies, half of them mirrored."""
    training, held_out, others = (
        dataclasses.replace(tiny.dataset(count=200, seed=seed), path=Path(str(seed))) for seed in range(3)
    )
    space = feature_spaces.of_pixels()
    copies = np.concatenate([training.images[:100], training.images[100:, :, ::-1]])
    mirrored, as_given = (Memorization(space, training, held_out, mirrored=both) for both in (True, False))
    assert mirrored.share(space.embed(copies).features) == 1
    assert 0.5 <= as_given.share(space.embed(copies).features) < 0.6
    assert mirrored.training_features.shape[0] == 400
    assert mirrored.share(space.embed(held_out.images).features) == 0.05  # the limit knows of mirror images, too
    assert mirrored.share(space.embed(others.images).features) < 0.12
    sheet = mirrored.nearest_sheet(copies[[0, 199]])
    np.testing.assert_array_equal(sheet[8:], np.concatenate([training.images[0], training.images[199, :, ::-1]], 1))
