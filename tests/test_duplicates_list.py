"""A list of duplicates that is made on one machine and used on another."""

from pathlib import Path

import numpy as np
import pytest

from configs import default
from dcgan_jax.datasets import opening
from dcgan_jax.machine.errors import UserError
from tests import tiny


def settings(tmp_path: Path, listing: str) -> dict[str, object]:
    (tmp_path / "duplicates.txt").write_text(listing)
    source = tiny.image_folder(tmp_path / "images", count=5)
    return {
        "source": source,
        "image_size": 8,
        "cache_dir": str(tmp_path / "packs"),
        "duplicates": str(tmp_path / "duplicates.txt"),
    }


def test_what_is_listed_is_left_out(tmp_path: Path) -> None:
    data = default.get_config().data
    data.update(settings(tmp_path, "003.png\t001.png\n004.png\t000.png\n"))
    dataset = opening.open_or_build(data, progress=False)
    assert dataset.keys == ["000.png", "001.png", "002.png"]
    np.testing.assert_array_equal(dataset.images, tiny.images(5)[:3])
    (tmp_path / "duplicates.txt").write_text("003.png\t001.png\n")
    assert len(opening.open_or_build(data, progress=False).images) == 4  # another list is another pack
    assert len(opening.open_others(data).images) == 5


@pytest.mark.parametrize(("listing", "message"), [("003.png", "is no list of duplicates"), ("a\tb\tc\n", "is no list")])
def test_lists_that_are_none(tmp_path: Path, listing: str, message: str) -> None:
    data = default.get_config().data
    data.update(settings(tmp_path, listing))
    with pytest.raises(UserError, match=message):
        opening.open_or_build(data, progress=False)
    (tmp_path / "duplicates.txt").unlink()
    with pytest.raises(UserError, match="is no list of duplicates"):
        opening.open_or_build(data, progress=False)
    data.dedup = True
    with pytest.raises(UserError, match="give one of them"):
        opening.open_or_build(data, progress=False)
