"""The protocols of the linear SVM, on a trained run and as a command."""

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

from dcgan_jax.evaluation import l2_svm, linear_svm
from dcgan_jax.evaluation.linear_svm import Protocol, Split
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import trained
from dcgan_jax.runs.trained import Run
from tests import tiny
from tests.trained import evaluate


def test_a_draw_has_as_many_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    drawn = linear_svm.draw_per_class(labels, 5, np.random.default_rng(0))
    assert len(set(drawn)) == 15
    np.testing.assert_array_equal(np.bincount(labels[drawn]), [5, 5, 5])


def split(count: int, seed: int) -> Split:
    """Three classes; two features tell them apart, the other 30 are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    features = rng.normal(0, 0.5, (count, 32)).astype(np.float32)
    features[np.arange(count), np.minimum(labels, 1)] += np.where(labels < 2, 3, 0)
    return Split(features, labels.astype(np.int32))


def test_all_labels_beat_few_and_few_have_a_spread() -> None:
    train, test = split(600, 0), split(300, 1)
    everything = linear_svm.evaluate(train, test, 3, Protocol((1e-3, 1e-1), 0, 4, 4, 0), "")
    few = linear_svm.evaluate(train, test, 3, Protocol((1e-3, 1e-1), 5, 4, 4, 0), "")
    assert everything["accuracy"] > 0.95 > few["accuracy"] > 0.5
    assert everything["std"] is None and few["std"] > 0
    assert everything["c"] in (1e-3, 1e-1) and len(everything["held_out"]) == 2
    again = linear_svm.evaluate(train, test, 3, Protocol((1e-3, 1e-1), 5, 4, 4, 0), "")
    assert few | {"fit_seconds": 0} == again | {"fit_seconds": 0}


def test_c_is_chosen_on_held_out_examples_that_no_classifier_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example has a number as its first feature, so it can be told which were fitted, and which were scored."""
    train, fitted, scored = split(600, 0), [], []
    train.features[:, 0] = np.arange(600)
    fit, predict = l2_svm.fit, l2_svm.LinearClassifier.predict

    def spied_fit(x: Any, *args: Any, **options: Any) -> l2_svm.LinearClassifier:
        fitted.append(set(np.asarray(x)[:, 0]))
        return fit(x, *args, **options)

    def spied_predict(self: l2_svm.LinearClassifier, x: Any) -> np.ndarray:
        scored.append(set(np.asarray(x)[:, 0]))
        return predict(self, x)

    monkeypatch.setattr(l2_svm, "fit", spied_fit)
    monkeypatch.setattr(l2_svm.LinearClassifier, "predict", spied_predict)
    linear_svm.evaluate(train, split(300, 1), 3, Protocol((1e-3, 1e-1), 20, 3, 2, 0), "")
    held_out = scored[0]
    assert len(held_out) == 120 and scored[:6] == [held_out] * 6
    assert all(len(numbers) == 60 and not numbers & held_out for numbers in fitted)
    assert len({frozenset(numbers) for numbers in fitted}) == 3 + 2  # draws to choose and to test are all different


def test_the_best_c_wins() -> None:
    """With next to no weight on the loss the classifier learns nothing of a problem that is easy with more."""
    outcome = linear_svm.evaluate(split(600, 0), split(300, 1), 3, Protocol((1e-9, 1e-1), 20, 3, 3, 0), "")
    assert outcome["c"] == 1e-1 and outcome["held_out"][1] > outcome["held_out"][0]


def test_too_few_examples_to_draw() -> None:
    with pytest.raises(ValueError, match="3 examples of each class, but one has 2"):
        linear_svm.draw_per_class(np.array([0, 0, 0, 1, 1]), 3, np.random.default_rng(0))


def source_of(run: Run) -> str:
    """The images that a run was trained on stand for another labelled set."""
    source: str = run.config.data.source
    return source


@pytest.fixture(scope="module")
def other_images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Other images of the same classes."""
    return tiny.image_folder(tmp_path_factory.mktemp("svm") / "test", count=12, classes=2)


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
    assert found.rows()[0]["what"].startswith("trained: accuracy, 88 features, C = ")
    assert not list(labelled_run.glob("tmp*"))


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
    process = evaluate("linear_svm", labelled_run, *flags, "--draws=2", "--c=1e-3,1e-2")
    assert process.returncode == 0, process.stderr
    results = json.loads((labelled_run / "evaluation" / "linear_svm" / "results.json").read_text())
    assert (results["grid"], results["per_class"], results["test_draws"]) == ([1e-3, 1e-2], 5, 2)
    assert results["paper"] == linear_svm.PAPER


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
