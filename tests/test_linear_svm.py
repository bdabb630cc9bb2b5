"""Rows of the linear SVM on a trained run, and the command."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.evaluation import linear_svm
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import trained
from dcgan_jax.runs.trained import Run
from tests import tiny
from tests.trained import evaluate


def source_of(run: Run) -> str:
    """The images that a run was trained on stand for another labelled set."""
    source: str = run.config.data.source
    return source


@pytest.fixture(scope="module")
def other_images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Other images of the same classes."""
    return tiny.image_folder(tmp_path_factory.mktemp("svm") / "test", count=12, classes=2, seed=1)


COLORS = {"apple": (200, 30, 30), "banana": (220, 210, 40), "cherry": (90, 10, 60), "lime": (60, 200, 60)}


def color_folder(path: Path, names: Sequence[str], count: int) -> str:
    """`count` images of one colour, with noise, in a folder per class."""
    rng = np.random.default_rng(count)
    for name in names:
        (path / name).mkdir(parents=True)
        for i in range(count):
            noisy = np.clip(np.array(COLORS[name]) + rng.normal(0, 12, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(path / name / f"{i}.png")
    return f"folder:{path}"


def test_classes_are_matched_by_name(labelled_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The test folder lacks a class: 100 % is right, 33.3 % is what comparing numbers gives."""
    run = trained.load(labelled_run)
    train = color_folder(tmp_path / "train", list(COLORS), 24)
    test = color_folder(tmp_path / "test", ["apple", "cherry", "lime"], 12)
    settings: dict[str, Any] = {"train_split": "train", "test_split": "train", "c": (1,)}
    found = linear_svm.measure(run, source=train, test_source=test, **settings)
    assert found["pixels"]["accuracy"] == 1.0
    assert "has no images of banana" in caplog.text
    with pytest.raises(UserError, match=r"classes that the first set does not have: 1 banana"):
        linear_svm.measure(run, source=test, test_source=train, **settings)
    with pytest.raises(UserError, match="the training and test images are the same"):
        linear_svm.measure(run, source=train, **settings)


def test_of_a_run(labelled_run: Path, other_images: str) -> None:
    run = trained.load(labelled_run)
    found = linear_svm.measure(
        run,
        source=source_of(run),
        test_source=other_images,
        test_split="train",
        labels_per_class=5,
        draws=2,
        test_draws=3,
        supervised_trials=2,
        supervised_steps=3,
        c=("1e-2", 1e-3),
    )
    assert found["grid"] == (1e-3, 1e-2) and (found["draws"], found["test_draws"]) == (2, 3)
    assert found["trained"]["features"] == found["untrained"]["features"] == 4 * 4 * 4 + 2 * 2 * 6
    assert found["pixels"]["features"] == 8 * 8 * 3
    assert all(0 < found[name]["accuracy"] <= 1 for name in ("trained", "untrained", "pixels", "supervised"))
    assert len(found["supervised"]["trials"]) == 2
    assert found["pixels"]["std"] is not None
    assert found.rows()[0]["what"].startswith("trained: accuracy, 88 features, C = ")
    assert not list(labelled_run.glob("tmp*"))


def test_layers_mirror_images_and_averages(labelled_run: Path, other_images: str) -> None:
    """Each convolution alone, of maxima in cells and of averages: one number a map."""
    run = trained.load(labelled_run)
    settings: dict[str, Any] = {"source": source_of(run), "test_source": other_images, "test_split": "train", "c": (1,)}
    found = linear_svm.measure(run, rows=("layers",), flip=True, **settings)
    assert (found["conv1"]["features"], found["conv2"]["features"]) == (4 * 4 * 4, 2 * 2 * 6)
    assert found["flip"] is True and "trained" not in found.values() and "pixels" not in found.values()
    averages = linear_svm.measure(run, rows=("trained", "layers"), average=True, **settings)
    assert [averages[name]["features"] for name in ("trained", "conv1", "conv2")] == [4 + 6, 4, 6]
    with pytest.raises(UserError, match="--rows: 'depth' is not one of trained, layers"):
        linear_svm.measure(run, rows=("depth",), **settings)


def test_layers_side_by_side_are_all_features(labelled_run: Path, tmp_path: Path) -> None:
    run = trained.load(labelled_run)
    images = linear_svm.Split(tiny.images(6), np.zeros(6, np.int32))
    rows = linear_svm._features(run, ["trained", "layers"], images, images, 0, False, False, 0, tmp_path)
    found = {name: np.array(sets[0].features) for name, sets in rows}
    assert list(found) == ["trained", "conv1", "conv2"] and found["trained"].std() > 0
    np.testing.assert_array_equal(np.concatenate([found["conv1"], found["conv2"]], 1), found["trained"])


def test_mirror_images_are_what_is_added(tmp_path: Path) -> None:
    images = tiny.images(6)
    sets = linear_svm._extract(
        lambda images, *_: linear_svm._pixels(images),
        linear_svm.Split(images, np.zeros(6, np.int32)),
        linear_svm.Split(images[:2], np.zeros(2, np.int32)),
        True,
        tmp_path,
        "",
    )
    expected = images[:, :, ::-1].reshape(6, -1) / np.float32(127.5) - np.float32(1)
    assert sets[0].mirrored is not None and sets[1].mirrored is not None
    np.testing.assert_array_equal(sets[0].mirrored, expected)
    np.testing.assert_array_equal(sets[1].mirrored, expected[:2])


def test_rows_of_the_papers_tables() -> None:
    few, everything = linear_svm._baselines("tfds:cifar10", 400), linear_svm._baselines("tfds:cifar10", 0)
    assert few[0].row() == {"what": "the paper's 1 layer of k-means, 4,800 units", "here": "", "paper": "63.7 ± 0.7 %"}
    assert everything[3].row()["paper"] == "84.3 %"
    assert linear_svm._baselines("tfds:svhn_cropped", 100)[4].row()["paper"] == "error 36.02 %"
    assert linear_svm._baselines("tfds:cifar10", 10) == linear_svm._baselines("tfds:mnist", 0) == []


def test_first_layers_alone(labelled_run: Path, other_images: str, tmp_path: Path) -> None:
    """Of a run whose data.json says that the others are untrained, and on demand."""
    run = trained.load(labelled_run)
    settings: dict[str, Any] = {"source": source_of(run), "test_source": other_images, "test_split": "train", "c": (1,)}
    assert linear_svm.measure(run, layers=1, **settings)["trained"]["features"] == 4 * 4 * 4
    with pytest.raises(UserError, match="--layers=3, but the discriminator has 2 convolutions"):
        linear_svm.measure(run, layers=3, **settings)
    (tmp_path / "data.json").write_text('{"layers": 1}')
    found = linear_svm.measure(dataclasses.replace(run, workdir=tmp_path), **settings)
    assert (found["layers"], found["trained"]["features"]) == (1, 4 * 4 * 4)
    (tmp_path / "data.json").write_text('{"layers": 0}')
    with pytest.raises(UserError, match="holds a generator only, and this needs the discriminator as well"):
        linear_svm.measure(dataclasses.replace(run, workdir=tmp_path), **settings)


def test_command(labelled_run: Path, other_images: str) -> None:
    source = source_of(trained.load(labelled_run))
    flags = [f"--source={source}", f"--test_source={other_images}", "--test_split=train", "--labels_per_class=5"]
    process = evaluate("linear_svm", labelled_run, *flags, "--draws=2", "--c=1e-9,1e-8")
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("pixels: the best C, ") == 1  # warnings are printed once
    results = json.loads((labelled_run / "evaluation" / "linear_svm" / "results.json").read_text())
    assert (results["grid"], results["per_class"], results["test_draws"]) == ([1e-9, 1e-8], 5, 2)
    assert results["paper"] == json.loads(json.dumps(linear_svm.PAPER))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"c": (0, 1)}, "--c=0,1 must be positive numbers"),
        ({"c": ("x",)}, "--c=x must be positive numbers"),
        ({"c": (math.nan, 1)}, "--c=nan,1 must be positive numbers"),
        ({"labels_per_class": 14}, "one class has only 12 images beside the 6 that choose C"),
    ],
)
def test_bad_input(labelled_run: Path, other_images: str, settings: dict[str, Any], message: str) -> None:
    run = trained.load(labelled_run)
    with pytest.raises(UserError, match=re.escape(message)):
        linear_svm.measure(run, source=source_of(run), test_source=other_images, test_split="train", **settings)


def test_images_without_labels(trained_run: Path) -> None:
    run = trained.load(trained_run)
    with pytest.raises(UserError, match="has no labels"):
        linear_svm.measure(run, source=source_of(run))
