"""Hashes: equal for the same image, resumable; and which images they call duplicates, against all pairs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.datasets import semantic_hash
from dcgan_jax.datasets.semantic_hash import Settings


def hashes_with_near_ones() -> np.ndarray:
    """200 random hashes and 100 copies of some of them with 0 to 5 bits changed."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (300, 128), np.uint8)
    bits[200:] = bits[rng.integers(0, 200, 100)]
    for i in range(200, 300):
        bits[i, rng.choice(128, i % 6, replace=False)] ^= 1
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize("radius", [0, 1, 3, 8])
def test_originals_against_all_pairs(radius: int) -> None:
    hashes = hashes_with_near_ones()
    bits = np.unpackbits(hashes, axis=1)
    near = (bits[:, None] != bits[None]).sum(2) <= radius
    expected: list[int] = []
    for i in range(300):
        expected.append(next((j for j in range(i) if near[i, j] and expected[j] == j), i))
    found = semantic_hash.originals(hashes, radius)
    np.testing.assert_array_equal(found, expected)
    assert 15 < (found != np.arange(300)).sum() <= 101


def test_what_resembles_a_duplicate_only_is_kept() -> None:
    """0 and 1 differ in a bit, 1 and 2 in another: 1 goes, 2 stays."""
    hashes = np.zeros((3, 16), np.uint8)
    hashes[1:, 0], hashes[2, 1] = 1, 1
    assert semantic_hash.originals(hashes, 1).tolist() == [0, 0, 2]


def test_radius_out_of_range() -> None:
    with pytest.raises(ValueError, match="radius must be 0 to 16, not 17"):
        semantic_hash.originals(hashes_with_near_ones(), 17)


def test_standardised_images_have_no_brightness_and_no_contrast() -> None:
    image = np.random.default_rng(1).integers(0, 100, (1, 32, 32, 3), np.uint8)
    plain, other = (np.asarray(semantic_hash.standardise(jnp.asarray(x))) for x in (image, 2 * image + 30))
    assert plain.mean() == pytest.approx(0, abs=1e-5) and plain.std() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(plain, other, atol=1e-5)
    np.testing.assert_array_equal(semantic_hash.standardise(jnp.full_like(image, 7)), 0)


@pytest.fixture
def images() -> np.ndarray:
    """Smooth images, 60 of them, the last ten equal to the first ten."""
    rng = np.random.default_rng(2)
    small = rng.integers(0, 256, (50, 4, 4, 3), np.uint8)
    images = small.repeat(8, 1).repeat(8, 2)
    return np.concatenate([images, images[:10]])


def test_hashes_survive_an_interruption(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while training and again while hashing, the hashes are those of a run that was never stopped."""
    settings = Settings(steps=6)
    monkeypatch.setattr(semantic_hash, "_SAVE_EVERY", 2)
    monkeypatch.setattr(semantic_hash, "_BLOCK", 16)
    straight = semantic_hash.hash_images(images, tmp_path / "straight", settings)
    np.testing.assert_array_equal(straight[50:], straight[:10])
    assert len(np.unique(straight, axis=0)) == 50

    class Stop(Exception):
        pass

    def stop_after(calls: int, name: str) -> None:
        """Lets `semantic_hash.name` be called that often."""
        original, left = getattr(semantic_hash, name), iter(range(calls))

        def call(*args: object) -> object:
            if next(left, None) is None:
                raise Stop
            return original(*args)

        monkeypatch.setattr(semantic_hash, name, call)
        with pytest.raises(Stop):
            semantic_hash.hash_images(images, tmp_path / "stopped", settings)
        monkeypatch.setattr(semantic_hash, name, original)

    stop_after(4, "batch_numbers")
    stop_after(2, "encode")
    (partial,) = (tmp_path / "stopped").glob("*/hashes.partial")
    with partial.open("ab") as file:
        file.write(b"a block cut short")
    np.testing.assert_array_equal(semantic_hash.hash_images(images, tmp_path / "stopped", settings), straight)

    # Damaged files are made again.
    (done,) = (tmp_path / "stopped").glob("*/hashes.npy")
    done.write_bytes(b"no array")
    done.with_name("autoencoder.msgpack").write_bytes(b"no msgpack")
    np.testing.assert_array_equal(semantic_hash.hash_images(images, tmp_path / "stopped", settings), straight)


def test_two_processes_share_the_work(images: np.ndarray, tmp_path: Path) -> None:
    """Threads here: a lock on a file that is opened twice excludes them as it does processes."""
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(semantic_hash.hash_images, images, tmp_path, Settings(steps=2)) for _ in range(2)]
    first, second = (future.result() for future in futures)
    np.testing.assert_array_equal(first, second)
    assert len(first) == 60
