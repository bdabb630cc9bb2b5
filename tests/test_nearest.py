"""Nearest neighbours against NumPy, on a trained run and as a command."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.evaluation import nearest_neighbor
from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import nearest
from dcgan_jax.nets import pixels
from dcgan_jax.runs import trained
from dcgan_jax.runs.sampler import BATCH_SIZE
from dcgan_jax.runs.trained import Run
from tests import tiny
from tests.trained import evaluate


def distances(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[queries, rows], in float64."""
    return np.linalg.norm(queries[:, None].astype(np.float64) - rows[None], axis=2)


def test_neighbors_against_numpy() -> None:
    """Rows come in parts, several times with the same label."""
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(40, 12)).astype(np.float32), rng.normal(size=(90, 12)).astype(np.float32)
    labels = np.repeat([2, 0, 1, 0, 2, 1], 15)
    neighbors = nearest.Neighbors(queries)
    assert np.all(np.isinf(neighbors.distances()))
    for begin in range(0, 90, 15):
        neighbors.add(jnp.asarray(rows[begin : begin + 15]), int(labels[begin]))
    apart = distances(queries, rows)
    np.testing.assert_allclose(neighbors.distances(), apart.min(1), rtol=1e-5)
    np.testing.assert_array_equal(neighbors.labels(), labels[apart.argmin(1)])


def test_an_image_is_its_own_neighbor() -> None:
    images, labels = tiny.images(20), np.arange(20) % 3
    neighbors = nearest.Neighbors(pixels.to_network(jnp.asarray(images), "tanh").reshape(20, -1))
    nearest.add_images(neighbors, images, labels, "tanh", "")
    np.testing.assert_allclose(neighbors.distances(), 0, atol=5e-3)
    np.testing.assert_array_equal(neighbors.labels(), labels)


def varied(run: Run) -> Run:
    """After one step a generator draws nearly the same image always; larger weights draw different ones."""
    larger = jax.tree.map(lambda leaf: 30 * leaf, run.state.generator.params)
    generator = run.state.generator.replace(params=larger)
    return dataclasses.replace(run, state=run.state.replace(generator=generator))


def test_samples_are_those_of_sampling_whatever_the_parts(conditional_run: Path) -> None:
    """300 samples of two classes, at once and in two parts, against `Run.sample`."""
    run = varied(trained.load(conditional_run))
    drawn = run.sample(300, seed=4)
    stream = nearest.make_stream(run.generator, 4)

    def collect(begin: int, end: int) -> dict[int, np.ndarray]:
        """Distinct images by label; padding repeats some."""
        found: dict[int, list[np.ndarray]] = {0: [], 1: []}
        for rows, label in stream(**run.variables, begin=begin, end=end, progress=""):
            assert rows.shape == (BATCH_SIZE, 8 * 8 * 3)
            found[label].append(np.asarray(pixels.to_uint8(rows, "tanh")))
        return {label: np.unique(np.concatenate(parts), axis=0) for label, parts in found.items()}

    whole, first, rest = collect(0, 300), collect(0, 101), collect(101, 300)
    for label in (0, 1):
        expected = np.unique(drawn[label::2].reshape(150, -1), axis=0)
        np.testing.assert_array_equal(whole[label], expected)
        both = np.concatenate([first[label], rest[label]])
        np.testing.assert_array_equal(np.unique(both, axis=0), expected)
        assert len(both) == len(expected) == 150


def test_measures_during_training() -> None:
    """Against all pairs of images and samples."""
    config = tiny.config({"model.num_classes": 2})
    images, labels = tiny.images(16), np.arange(16) % 2
    drawn = tiny.images(60, seed=1)
    found = nearest.make_measure(config, images, labels)(drawn)
    apart = distances(images.reshape(16, -1) / 127.5, drawn.reshape(60, -1) / 127.5)
    assert found["nnd"] == pytest.approx(apart.min(1).mean(), rel=1e-3)
    assert found["nnc_accuracy"] == pytest.approx((apart.argmin(1) % 2 == labels).mean())


@pytest.fixture(scope="module")
def other_images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Other images of the same classes."""
    return tiny.image_folder(tmp_path_factory.mktemp("nearest") / "test", count=12, classes=2, seed=1)


def test_of_a_run(conditional_run: Path, other_images: str) -> None:
    """The classifiers of real images and of samples against all pairs."""
    run = varied(trained.load(conditional_run))
    found = nearest_neighbor.measure(run, num=(300, "40"), test_source=other_images, test_split="train")
    train, test = (opening.open_others(run.config.data, source=source, split="train") for source in ("", other_images))
    apart = distances(*(dataset.images.reshape(len(dataset.images), -1) / 127.5 for dataset in (test, train)))
    assert train.labels is not None and test.labels is not None
    error = float((train.labels[apart.argmin(1)] != test.labels).mean())
    assert found["real"] == pytest.approx({"error": error, "nnd": apart.min(1).mean(), "num": 32}, rel=1e-3)
    assert found["real_split"] is None
    few, many = found["generated"]
    assert (few["num"], many["num"]) == (40, 300)
    for samples in (few, many):
        drawn = run.sample(samples["num"]).reshape(samples["num"], -1) / 127.5  # rounded, which moves nobody here
        apart = distances(test.images.reshape(len(test.images), -1) / 127.5, drawn)
        error = float((apart.argmin(1) % 2 != test.labels).mean())
        assert (samples["error"], samples["nnd"]) == pytest.approx((error, apart.min(1).mean()), rel=1e-3)
    assert few["error"] != 0.5 or many["error"] != 0.5  # which other labels would have, too
    assert many["nnd"] <= few["nnd"]
    assert [row["what"] for row in found.rows()] == [
        f"trained on {images}: test error (mean distance)" for images in ("32 real images", "40 samples", "300 samples")
    ]
    assert found.pictures[0].file == "samples.png"


def test_images_of_another_split_stand_beside(
    conditional_run: Path, other_images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the test images are in it: the classifier that has seen them makes no error on that half."""
    run = trained.load(conditional_run)
    test = opening.open_others(run.config.data, source=other_images, split="train")
    assert test.labels is not None
    half = dataclasses.replace(test, images=test.images[::2], labels=test.labels[::2], meta={"sha256": "half"})
    open_others = opening.open_others

    def opened(data: ConfigDict, **names: str) -> ImageDataset:
        return half if names.get("split") == "half" else open_others(data, **names)

    monkeypatch.setattr(opening, "open_others", opened)
    monkeypatch.setattr(opening, "_SHARED", 0.5)  # which is refused otherwise
    settings: dict[str, Any] = {"num": (40,), "test_source": other_images, "test_split": "train"}
    found = nearest_neighbor.measure(run, real_split="half", **settings)
    assert found["real_split"]["num"] == 6 and found["real"]["num"] == 32
    assert found["real_split"]["nnd"] < found["real"]["nnd"] and found["real_split"]["error"] <= 0.5
    assert found.rows()[1]["what"].startswith("trained on 6 real images")


def test_command(conditional_run: Path, other_images: str) -> None:
    flags = [f"--test_source={other_images}", "--test_split=train", "--num=40,30", "--seed=3"]
    process = evaluate("nearest_neighbor", conditional_run, *flags)
    assert process.returncode == 0, process.stderr
    out = conditional_run / "evaluation" / "nearest_neighbor"
    results = json.loads((out / "results.json").read_text())
    assert [row["num"] for row in results["generated"]] == [30, 40] and results["seed"] == 3
    assert results["paper"] == nearest_neighbor.PAPER
    assert (out / "samples.png").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num": (1,)}, "--num=1 must be whole numbers from 2 (a sample of each class)"),
        ({"num": ("1e6",)}, "--num=1e6 must be whole numbers"),
        ({"test_split": "test"}, "this kind of source has no splits"),
        ({"test_split": "train"}, "the training and test images are the same"),
        ({"real_split": "test", "test_split": "train"}, "the training and test images are the same"),
    ],
)
def test_bad_input(conditional_run: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        nearest_neighbor.measure(trained.load(conditional_run), **settings)


def test_the_papers_real_images() -> None:
    """Its 3.1 % stands beside 50,000 and 60,000: it does not say which they were."""
    config = tiny.config({"data.source": "tfds:mnist"})
    assert [nearest_neighbor._paper(config, "real", n) for n in (50_000, 60_000, 10_000)] == ["3.10 %", "3.10 %", ""]


def test_an_unconditional_run(trained_run: Path) -> None:
    with pytest.raises(UserError, match="unconditional"):
        nearest_neighbor.measure(trained.load(trained_run))
