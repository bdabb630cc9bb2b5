"""Seeded features and what other packages make of them, so that the tests need none of these packages."""

import numpy as np

# By torch-fidelity 0.4.0 (KID: 20 subsets of 50, in float64; IS: the fake features as logits), prdc 0.2 (k=5) and
# pytorch-fid 0.3.0.
EXPECTED = {
    "kid_mean": 1.046806140539992,
    "kid_std": 2.082374092766733,
    "is_mean": 2.162710595494913,
    "is_std": 0.14564689166047262,
    "frechet": 2.081970588784472,
    "precision": 0.9923076923076923,
    "recall": 0.92,
    "density": 1.2292307692307693,
    "coverage": 0.96,
}


def golden_features() -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Real and fake features, float32 [300, 24] and [260, 24], and `EXPECTED`."""
    rng = np.random.RandomState(0)  # whose stream NumPy keeps as it is
    mix = rng.normal(size=(6, 24))
    real = np.maximum(rng.normal(size=(300, 6)) @ mix + 0.1 * rng.normal(size=(300, 24)), 0)
    fake = np.maximum(0.8 * rng.normal(size=(260, 6)) @ mix + 0.2 + 0.1 * rng.normal(size=(260, 24)), 0)
    return real.astype(np.float32), fake.astype(np.float32), EXPECTED
