"""Images that a folder keeps from training."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs import folder
from dcgan_jax import training
from dcgan_jax.datasets import image_dataset, opening, pack
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import run_folder
from tests import tiny


def data_of(tmp_path: Path, **changes: Any) -> Any:
    """Of a folder of 13 images in two classes, 7 and 6."""
    source = tiny.image_folder(tmp_path / "images", count=13, size=8, classes=2)
    fields = {"data.source": source, "data.cache_dir": str(tmp_path / "packs")}
    return tiny.config({**fields, **{f"data.{name}": value for name, value in changes.items()}}).data


def test_they_are_spread_evenly_and_the_rest_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four of 13: numbers 0, 3, 6 and 9."""
    everything = opening.open_or_build(data_of(tmp_path))
    data = data_of(tmp_path, held_out=4)
    training_images, held_out = opening.open_or_build(data), opening.open_others(data, split="held_out")
    said = [line.split(" into ")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("Packing")]
    assert said[1:] == [f"Packing {data.source}: 9 images", f"Packing {data.source}, held_out: 4 images"]
    assert everything.labels is not None and held_out.labels is not None and training_images.labels is not None
    chosen = [0, 3, 6, 9]
    np.testing.assert_array_equal(held_out.images, everything.images[chosen])
    np.testing.assert_array_equal(held_out.labels, everything.labels[chosen])
    np.testing.assert_array_equal(training_images.images, np.delete(everything.images, chosen, axis=0))
    np.testing.assert_array_equal(training_images.labels, np.delete(everything.labels, chosen))
    assert len({everything.path, training_images.path, held_out.path}) == 3
    assert training_images.class_names == ["class0", "class1"]


def test_a_pack_that_is_carried_says_how_many(tmp_path: Path) -> None:
    """The same number fits, or none; a pack has no images but its own."""
    path = opening.open_or_build(data_of(tmp_path, held_out=4)).path
    for held_out in (0, 4):
        carried = tiny.config({"data.source": f"pack:{path}", "data.held_out": held_out}).data
        assert len(opening.open_or_build(carried).images) == 9
    with pytest.raises(UserError, match=r"data.held_out is 3, but .* was packed with 4"):
        opening.open_or_build(tiny.config({"data.source": f"pack:{path}", "data.held_out": 3}).data)
    with pytest.raises(UserError, match=r"has no held-out images, .*--config.eval.source=pack:/path --config.eval.sp"):
        opening.open_others(carried, split="held_out")


@pytest.mark.parametrize(("shared", "refused"), [(0, False), (1, False), (2, True), (60, True)])
def test_test_images_that_are_training_images_are_found(shared: int, refused: bool) -> None:
    """Of 100: one in a hundred is no matter. They come from elsewhere, so no name tells."""
    training, others = tiny.dataset(count=150, seed=0), tiny.dataset(count=100, seed=1)
    images = np.concatenate([others.images[shared:], training.images[:shared]])
    testing = dataclasses.replace(others, images=images, path=Path("x"), meta={**others.meta, "sha256": "y"})
    assert testing.share_in(training) == shared / 100
    what = f"{shared} % of the test images are training images|training and test images are the same"
    with pytest.raises(UserError, match=what) if refused else contextlib.nullcontext():
        opening.need_apart(training, testing, "x")


def test_the_share_of_large_sets_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of 400 of 1,000 images; 100 of each are looked at: some 10 of them are found, and stand for all."""
    monkeypatch.setattr(image_dataset, "_DIGESTED", 100)
    training = tiny.dataset(count=1000, seed=0)
    part = dataclasses.replace(training, images=training.images[300:700], meta={"sha256": "y"})
    assert 0.5 < part.share_in(training) <= 1.0
    assert tiny.dataset(count=400, seed=1).share_in(training) == 0.0


@pytest.mark.parametrize(("bad", "refused"), [(3, False), (4, True)])
def test_bad_images_are_a_share_of_all_of_them(tmp_path: Path, bad: int, refused: bool) -> None:
    """One in a hundred of 300 images; all that are bad are among the 30 that are held out: numbers 0, 10, 20, ..."""
    tiny.image_folder(tmp_path / "images", count=300, size=8)
    for file in sorted((tmp_path / "images").iterdir())[: 10 * bad : 10]:
        file.write_bytes(b"no image")
    source = {"data.source": f"folder:{tmp_path}/images", "data.cache_dir": str(tmp_path / "packs")}
    data = tiny.config({**source, "data.held_out": 30}).data
    assert len(opening.open_or_build(data).images) == 270
    with pytest.raises(UserError, match="4 of the 30 images") if refused else contextlib.nullcontext():
        assert len(opening.open_others(data, split="held_out").images) == 27


def test_an_array_is_read_image_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its labels are known before: no class loses its last image. Class 1 is number 0 alone."""
    file, images = tmp_path / "set.npz", tiny.images(12)
    np.savez(file, images=images, labels=np.array([1, *[0] * 11]))
    data = tiny.config({"data.source": f"array:{file}", "data.cache_dir": str(tmp_path), "data.held_out": 3}).data
    rest, held_out = opening.open_or_build(data), opening.open_others(data, split="held_out")
    np.testing.assert_array_equal(held_out.images, images[[1, 4, 8]])
    np.testing.assert_array_equal(rest.images, np.delete(images, [1, 4, 8], axis=0))
    items = pack.sources.open_source(data).list_items()
    assert not isinstance(items.references, list)


def test_a_part_of_the_rest(tmp_path: Path) -> None:
    """num_examples counts what is left: three of the nine, evenly, and all that are held out."""
    data = data_of(tmp_path, held_out=4, num_examples=3)
    rest = opening.open_or_build(data_of(tmp_path, held_out=4)).images
    assert [int(np.flatnonzero((rest == image).all((1, 2, 3)))[0]) for image in opening.open_or_build(data).images] == [
        0,
        3,
        6,
    ]
    assert len(opening.open_others(data, split="held_out").images) == 4


def test_no_class_loses_its_last_image(tmp_path: Path) -> None:
    """Classes of 1, 1, 9 and 1 images. Of numbers 0, 3, 6 and 9 the first is the last of its class: 2 is the next."""
    for name, count in (("a", 1), ("b", 1), ("c", 9), ("d", 1)):
        tiny.image_folder(tmp_path / "images" / name, count=count, size=8, seed=ord(name))
    data = tiny.config(
        {"data.source": f"folder:{tmp_path}/images", "data.cache_dir": str(tmp_path / "packs"), "data.held_out": 4}
    ).data
    rest, held_out = opening.open_or_build(data), opening.open_others(data, split="held_out")
    assert rest.labels is not None and held_out.labels is not None
    assert rest.labels.tolist() == [0, 1, 2, 2, 2, 2, 2, 3] and held_out.labels.tolist() == [2, 2, 2, 2]
    images = np.stack([*tiny.images(1, seed=97), *tiny.images(1, seed=98), *tiny.images(9, seed=99)])
    np.testing.assert_array_equal(held_out.images, images[[2, 3, 6, 9]])
    assert rest.class_names == held_out.class_names == ["a", "b", "c", "d"]


def test_another_source_is_whole(tmp_path: Path) -> None:
    other = tiny.image_folder(tmp_path / "others", count=5, size=8, seed=1)
    assert len(opening.open_others(data_of(tmp_path, held_out=4), source=other).images) == 5


def test_packs_of_earlier_versions_keep_their_names(tmp_path: Path) -> None:
    """0 leaves no trace in the fingerprint."""
    assert "held_out" not in pack.sources.open_source(data_of(tmp_path)).fingerprint
    assert pack.sources.open_source(data_of(tmp_path, held_out=2)).fingerprint["held_out"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 12}, "data.held_out is 12, but .* has 13 images, .* give 11 or less"),
        ({"held_out": 4, "split": "test"}, "have no splits but 'held_out'|sources have no splits"),
        ({"split": "held_out"}, "have no splits"),
        ({"held_out": 4, "source": "toy_bedrooms"}, "toy_bedrooms has splits: leave it at 0"),
    ],
)
def test_what_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opening.open_or_build(data_of(tmp_path, **changes))


def test_a_folder_config_evaluates_on_images_it_holds_out(tmp_path: Path) -> None:
    """A training of `configs/folder.py`: copies are counted by images that were not trained on."""
    images = tmp_path / "mine"
    images.mkdir()
    for i, pixels in enumerate(tiny.images(120, size=16)):
        Image.fromarray(pixels).save(images / f"{i:03d}.png")
    config = folder.get_config(f"{images},16")
    assert (config.data.held_out, config.eval.split, config.data.flip) == (12, "held_out", "x")
    few = {"num_steps": 2, "eval_every": 1, "checkpoint_every": 1, "sample_every": 0, "log_every": 1, "conv": "lax"}
    config.update(**few)
    config.model.width = 0.01
    config.eval.num_samples = 20
    config.data.cache_dir = str(tmp_path / "packs")
    run = training.train(config, tmp_path / "run")
    rows = [row for row in run_folder.read_metrics(run.workdir) if "pixels_frechet" in row]
    assert [row["step"] for row in rows] == [1, 2] and all(0 <= row["pixels_memorized"] <= 1 for row in rows)
    assert run_folder.best_step(run.workdir, [1, 2]) in (1, 2)
