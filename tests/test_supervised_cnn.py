"""A random search that learns an easy problem."""

import numpy as np
import pytest

from dcgan_jax.evaluation import supervised_cnn
from tests import tiny


def striped(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """8-pixel images with a brighter band in one of three places, and which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 120, (count, 8, 8, 3))
    for i, label in enumerate(labels):
        images[i, 2 * label : 2 * label + 3] += 100
    return images.astype(np.uint8), labels


def test_search() -> None:
    sets = striped(90, 0), striped(100, 1), striped(100, 2)
    found = supervised_cnn.search(tiny.config(), *sets, trials=2, steps=60, seed=1)
    assert found["accuracy"] > 0.8
    assert found["held_out"] == max(found["trials"]) and len(found["trials"]) == 2
    assert found == supervised_cnn.search(tiny.config(), *sets, trials=2, steps=60, seed=1)


def test_trials_are_drawn_in_their_ranges_and_spread_by_order_of_magnitude() -> None:
    generator = np.random.default_rng(0)
    trials = [supervised_cnn.draw_trial(generator) for _ in range(400)]
    rates = np.log10([trial.learning_rate for trial in trials])
    assert rates.min() >= -4 and rates.max() <= -2
    assert np.mean(rates < -3) == pytest.approx(0.5, abs=0.1)
    assert {trial.dropout for trial in trials} == {0.0, 0.5}
