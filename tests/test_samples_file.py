"""Samples in files: what is read, and what is refused."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.evaluation import samples_file
from dcgan_jax.machine.errors import UserError
from tests import tiny


def test_a_folder_but_for_its_sheet(tmp_path: Path) -> None:
    tiny.image_folder(tmp_path, count=5)
    Image.new("RGB", (80, 80)).save(tmp_path / "sheet.png")
    np.testing.assert_array_equal(samples_file.read(tmp_path, (8, 8, 3)), tiny.images(5))


@pytest.mark.parametrize("name", ["images", "arr_0", "x"])
def test_an_npz_file(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "samples.npz", **{name: tiny.images(5)})  # type: ignore[arg-type]  # for mypy it might be allow_pickle
    np.testing.assert_array_equal(samples_file.read(tmp_path / "samples.npz", (8, 8, 3)), tiny.images(5))


def test_grey_and_colour(tmp_path: Path) -> None:
    """Luma by hand: 0.299 R + 0.587 G + 0.114 B."""
    np.savez(tmp_path / "grey.npz", images=np.full((2, 8, 8, 1), 7, np.uint8))
    assert (samples_file.read(tmp_path / "grey.npz", (8, 8, 3)) == np.full((2, 8, 8, 3), 7)).all()
    colour = np.zeros((2, 8, 8, 3), np.uint8)
    colour[..., 0] = 100
    np.savez(tmp_path / "colour.npz", images=colour)
    assert (samples_file.read(tmp_path / "colour.npz", (8, 8, 1)) == np.full((2, 8, 8, 1), 30)).all()


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    tiny.image_folder(tmp_path, count=3)
    Image.new("RGB", (9, 8)).save(tmp_path / "odd.png")
    with pytest.raises(UserError, match=r"odd.png is 9 x 8, not 8 x 8 like the data"):
        samples_file.read(tmp_path, (8, 8, 3))
    np.savez(tmp_path / "samples.npz", images=tiny.images(2, size=16))
    with pytest.raises(UserError, match=r"samples.npz are 16 x 16, not 8 x 8 like the data"):
        samples_file.read(tmp_path / "samples.npz", (8, 8, 3))


def test_samples_that_are_not_square(tmp_path: Path) -> None:
    tiny.image_folder(tmp_path, count=3, width=12)
    np.testing.assert_array_equal(samples_file.read(tmp_path, (8, 12, 3)), tiny.images(3, width=12))
    with pytest.raises(UserError, match="is 12 x 8, not 8 x 12 like the data"):
        samples_file.read(tmp_path, (12, 8, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 3))}, "holds float64 of shape"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "not uint8 [count, height, width, 1 or 3]"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, "holds 2 arrays, none of them 'images' or 'arr_0'"),
        ({}, "holds 0 arrays"),
        ({"images": np.array([{}], object)}, "neither a folder nor a .npz file that can be read"),
    ],
)
def test_other_npz_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "samples.npz", **arrays)  # type: ignore[arg-type]  # as above
    with pytest.raises(UserError) as error:
        samples_file.read(tmp_path / "samples.npz", (8, 8, 3))
    assert message in str(error.value)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "samples.zip", "w") as file:
        file.writestr("image.png", b"no array")
    with pytest.raises(UserError, match=r"neither a folder nor a .npz file"):
        samples_file.read(tmp_path / "samples.zip", (8, 8, 3))


def test_what_is_neither(tmp_path: Path) -> None:
    for name, content in (("missing.npz", None), ("text.npz", b"text"), ("array.npz", b"")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"neither a folder nor a .npz file"):
            samples_file.read(tmp_path / name, (8, 8, 3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"No image found"):
        samples_file.read(tmp_path / "empty", (8, 8, 3))
