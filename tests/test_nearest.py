"""Nearest neighbours against NumPy, and the command on a trained run."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.metrics import nearest
from dcgan_jax.nets import pixels
from dcgan_jax.runs import trained
from dcgan_jax.train_state import GANState
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


def varied(state: GANState) -> GANState:
    """After one step a generator draws nearly the same image always; larger weights draw different ones."""
    larger = jax.tree.map(lambda leaf: 30 * leaf, state.generator.params)
    return state.replace(generator=state.generator.replace(params=larger))


def test_samples_are_those_of_sampling_whatever_the_parts(conditional_run: Path) -> None:
    """300 samples of two classes, at once and in two parts, against `sample.make_draw_images`."""
    config, state = trained.load_run(conditional_run)
    state = varied(state)
    drawn = np.concatenate(list(trained.make_draw_images(config)(state, 300, seed=4)))
    stream, variables = nearest.make_stream(config, 4), trained.make_sampling_variables(config)(state)

    def collect(begin: int, end: int) -> dict[int, np.ndarray]:
        """Distinct images by label; padding repeats some."""
        found: dict[int, list[np.ndarray]] = {0: [], 1: []}
        for rows, label in stream(**variables, begin=begin, end=end, what=""):
            assert rows.shape == (trained.BATCH_SIZE, 8 * 8 * 3)
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


def test_command(conditional_run: Path) -> None:
    process = evaluate("nearest_neighbor", conditional_run, "--num=40,300", "--test_split=train")
    assert process.returncode == 0, process.stderr
    out = conditional_run / "evaluation" / "nearest_neighbor"
    results = json.loads((out / "results.json").read_text())
    assert results["real"] == pytest.approx({"error": 0, "nnd": 0, "num": 32}, abs=5e-3)  # tested on themselves
    few, many = results["generated"]
    assert (few["num"], many["num"]) == (40, 300)
    assert many["nnd"] <= few["nnd"]
    assert (out / "samples.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num=1",), "--num=1 must be whole numbers from 2 (a sample of each class)"),
        (("--num=1e6",), "--num=1e6 must be whole numbers"),
        (("--test_split=test",), "data.split is 'test', but folder: sources have no splits"),
    ],
)
def test_bad_input(conditional_run: Path, flags: tuple[str, ...], message: str) -> None:
    process = evaluate("nearest_neighbor", conditional_run, *flags)
    assert process.returncode == 2
    assert message in process.stderr and "Traceback" not in process.stderr


def test_an_unconditional_run(trained_run: Path) -> None:
    process = evaluate("nearest_neighbor", trained_run)
    assert process.returncode == 2
    assert "unconditional" in process.stderr and "Traceback" not in process.stderr
