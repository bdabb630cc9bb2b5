"""Reference statistics: what stands in the file, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import feature_spaces, reference
from tests import tiny

SPACE = feature_spaces.of_pixels()


def dataset(path: Path, **meta: str) -> ImageDataset:
    return dataclasses.replace(tiny.dataset(count=40), path=path, meta={"source": "mine", "sha256": "abc", **meta})


def test_moments_and_features_are_those_of_the_images(tmp_path: Path) -> None:
    found = reference.build(SPACE, dataset(tmp_path), 30)
    chosen = np.random.default_rng(0).permutation(40)[:30]
    features = tiny.images(40)[chosen].reshape(30, -1) / 255  # 8 pixels a side: a block is a pixel
    assert found.moments.count == 30
    np.testing.assert_allclose(found.moments.mean, features.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.moments.covariance, np.cov(features.T), atol=1e-7)
    np.testing.assert_allclose(np.sort(found.features, 0), np.sort(features, 0), rtol=1e-6)
    assert found.identity["count"] == 30 and found.identity["source"] == "mine"


def test_shape_and_fit_are_named_where_they_are_unusual(tmp_path: Path) -> None:
    """So references of before stay valid."""
    square = reference.identify(SPACE, dataset(tmp_path), 30)
    assert "image_width" not in square and "fit" not in square
    padded = dataclasses.replace(dataset(tmp_path), meta={"image_width": 12, "fit": "pad"})
    identity = reference.identify(SPACE, padded, 30)
    assert (identity["image_width"], identity["fit"]) == (12, "pad")


def test_large_sets_keep_some_features_in_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MOST_FEATURES", 10)
    found = reference.build(SPACE, dataset(tmp_path))
    features = tiny.images(40).reshape(40, -1) / 255
    assert found.moments.count == 40 and found.features.shape == (10, 192)
    apart = np.abs(found.features[:, None] - features[None]).max(-1)
    numbers = apart.argmin(1)
    assert apart.min(1).max() < 1e-6 and len(set(numbers)) == 10
    assert list(numbers) != sorted(numbers)
    assert set(numbers) == set(np.random.default_rng(0).permutation(40)[:10])  # none is left out for where it lies


def test_a_file_gives_the_same_numbers(tmp_path: Path) -> None:
    built = reference.open_or_build(tmp_path / "mine.npz", SPACE, dataset(tmp_path))
    again = reference.open_or_build(tmp_path / "mine.npz", SPACE, dataset(tmp_path))
    assert again.identity == built.identity
    np.testing.assert_array_equal(again.moments.scatter, built.moments.scatter)
    np.testing.assert_array_equal(again.features, built.features)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.npz"]


def test_the_same_images_in_another_folder_will_do(tmp_path: Path) -> None:
    reference.open_or_build(tmp_path / "mine.npz", SPACE, dataset(tmp_path))
    again = reference.open_or_build(tmp_path / "mine.npz", SPACE, dataset(tmp_path, source="elsewhere"))
    assert again.identity["source"] == "mine"


def test_other_images_or_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    reference.open_or_build(path, SPACE, dataset(tmp_path))
    with pytest.raises(UserError, match=r"statistics of something else:\n  sha256: 'abc' in the file, 'def' now"):
        reference.open_or_build(path, SPACE, dataset(tmp_path, sha256="def"))
    with pytest.raises(UserError, match=r"count: 40 in the file, 30 now"):
        reference.open_or_build(path, SPACE, dataset(tmp_path), 30)
    other = dataclasses.replace(SPACE, identity={"features": "inception", "resize": "clean"})
    with pytest.raises(UserError, match=r"features: 'pixels' in the file, 'inception' now"):
        reference.open_or_build(path, other, dataset(tmp_path))


def test_files_beside_the_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each identity; a damaged one is made again."""
    for count in (30, 20):
        assert reference.open_or_build(None, SPACE, dataset(tmp_path), count).moments.count == count
    assert len(list(tmp_path.glob("reference_pixels_*.npz"))) == 2
    with monkeypatch.context() as patched:
        patched.setattr(reference, "build", pytest.fail)
        reference.open_or_build(None, SPACE, dataset(tmp_path), 30)
    for file in tmp_path.glob("reference_pixels_*.npz"):
        file.write_bytes(b"damaged")
    assert reference.open_or_build(None, SPACE, dataset(tmp_path), 30).moments.count == 30
    monkeypatch.setattr(reference, "build", pytest.fail)
    reference.open_or_build(None, SPACE, dataset(tmp_path), 30)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    assert reference.open_or_build(None, SPACE, dataset(tmp_path), 30).moments.count == 30


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_what_is_no_reference(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"is not a file of reference statistics, or is damaged"):
        reference.open_or_build(tmp_path / "mine.npz", SPACE, dataset(tmp_path))


@pytest.mark.parametrize("change", [{"identity": "[1]"}, {"count": [1, 2]}, {"scatter": np.zeros(3)}])
def test_other_arrays(tmp_path: Path, change: dict[str, Any]) -> None:
    content = {
        "identity": "{}",
        "count": 3,
        "mean": np.zeros(2),
        "scatter": np.zeros((2, 2)),
        "features": np.ones((3, 2)),
    }
    np.savez(tmp_path / "mine.npz", **content)  # type: ignore[arg-type]  # for mypy it might be allow_pickle
    reference.load(tmp_path / "mine.npz", {})
    np.savez(tmp_path / "mine.npz", **(content | change))  # type: ignore[arg-type]  # as above
    with pytest.raises(UserError, match=r"is not a file of reference statistics, or is damaged"):
        reference.load(tmp_path / "mine.npz", {})


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", identity=np.array([{"version": 1}], object))
    with pytest.raises(UserError, match=r"is not a file of reference statistics"):
        reference.load(tmp_path / "mine.npz", {})
