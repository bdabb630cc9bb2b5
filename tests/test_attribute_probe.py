"""The attribute probe: masks by hand, and training on images whose attributes are easy to see."""

import logging
from pathlib import Path

import numpy as np
import pytest

from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.files import Damaged
from dcgan_jax.metrics import attribute_probe
from tests import tiny


def test_box_masks_by_hand() -> None:
    """Centres of four pixels lie at 1/8, 3/8, 5/8 and 7/8."""
    boxes = np.array([[[0.25, 0.0, 0.7, 0.5], [0.0, 0.0, 0.0, 0.0]], [[0.8, 0.8, 1.0, 1.0], [0.0, 0.0, 0.2, 0.2]]])
    masks = attribute_probe.box_masks(boxes, 4, 4)
    np.testing.assert_array_equal(masks[0], [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(masks[1], [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])


def test_box_masks_of_images_that_are_not_square() -> None:
    masks = attribute_probe.box_masks(np.array([[[0.25, 0.0, 0.7, 0.5]]]), 2, 4)
    np.testing.assert_array_equal(masks[0], [[0, 1, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("sides", "stages"), [((64, 64), 4), ((16, 24), 2), ((24, 16), 2), ((8, 12), 1), ((16, 9), 0), ((4, 64), 0)]
)
def test_halvings_of_the_network(sides: tuple[int, int], stages: int) -> None:
    """As long as both sides are even and above 4."""
    assert len(attribute_probe._network((), *sides).trunk.stages) == stages


def easy_dataset(path: Path, count: int = 300, side: int = 16) -> ImageDataset:
    """Grey noise, brighter for label 1, in red for num=1, with a gradient as steep as `tilt`, and white boxes."""
    rng = np.random.default_rng(0)
    labels, num = rng.integers(0, 2, (2, count)).astype(np.int32)
    tilt = rng.uniform(3, 5, count).astype(np.float32)
    corner = rng.integers(0, 5, (count, 2)) / 8
    windows = np.concatenate([corner, corner + 0.5], 1)[:, None].astype(np.float32)
    images = np.full((count, side, side, 3), 80.0) + 60 * labels[:, None, None, None]
    images[..., 0] += 60 * num[:, None, None]
    images += 15 * (tilt - 4)[:, None, None, None] * np.linspace(-3, 3, side)[:, None, None]
    images[attribute_probe.box_masks(windows, side, side)] += 60
    images = np.clip(images + rng.normal(0, 2, images.shape), 0, 255).astype(np.uint8)
    attributes = {"num": num, "tilt": tilt, "windows": windows, "constant": np.zeros(count, np.int32)}
    path.mkdir()
    return ImageDataset(images, labels, attributes, ["dark", "bright"], {"source": "easy"}, path)


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_probe, "_STEPS", 150)
        dataset = easy_dataset(tmp_path_factory.mktemp("probe") / "pack")
        attribute_probe.open_or_train(dataset)
    return dataset


def test_it_reads_what_is_there(easy: ImageDataset) -> None:
    """From the file: training again would need the steps that the fixture took."""
    probe = attribute_probe.open_or_train(easy)
    assert list(probe.targets) == ["label", "num", "tilt", "windows"]
    found = probe.read(easy.images[:130])
    assert easy.labels is not None
    assert (found["label"].argmax(1) == easy.labels[:130]).mean() > 0.95
    assert (found["num"].argmax(1) == easy.attributes["num"][:130]).mean() > 0.95
    assert np.abs(found["tilt"] - easy.attributes["tilt"][:130]).mean() < 0.25  # an even spread would give 0.5
    masks = attribute_probe.box_masks(easy.attributes["windows"][:130], 16, 16)
    assert ((found["windows"] > 0.5) == masks).mean() > 0.9
    np.testing.assert_allclose(found["label"].sum(1), 1, rtol=1e-5)


def test_held_out_figures_are_those_of_images_not_trained_on(easy: ImageDataset) -> None:
    targets = attribute_probe.open_or_train(easy).targets
    assert targets["label"].held_out > 0.9 and targets["label"].accuracy.startswith("accuracy ")
    assert targets["tilt"].held_out > 0.8 and targets["tilt"].accuracy.startswith("correlation 0.")
    assert targets["windows"].held_out > 0.5 and "intersection over union" in targets["windows"].accuracy


def test_what_is_like_the_data_is_plausible(easy: ImageDataset) -> None:
    """About 95 % of the images themselves; neither noise nor three of them laid over each other."""
    probe = attribute_probe.open_or_train(easy)
    assert probe.plausible(easy.images[:200]).mean() > 0.85
    noise = np.random.default_rng(1).integers(0, 256, (100, *easy.images.shape[1:]), np.uint8)
    assert probe.plausible(noise).mean() < 0.1
    shuffled = easy.images[np.random.default_rng(2).permutation(300)].reshape(3, 100, *easy.images.shape[1:])
    overlays = np.round(shuffled.astype(float).mean(0)).astype(np.uint8)
    assert probe.plausible(overlays).mean() < 0.5


def test_the_limit_is_of_images_not_trained_on(easy: ImageDataset) -> None:
    """The fixed share of the held-out images, drawn by the seed, is plausible; of the training images it is not."""
    probe, count = attribute_probe.open_or_train(easy), len(easy.images)
    order = np.random.default_rng(0).permutation(count)
    held_out, training = order[: count // 10], order[count // 10 :]
    embedded = probe.embed(easy.images)
    apart = attribute_probe._distance(embedded, probe.features["mean"], probe.features["precision"])
    assert float(probe.features["limit"]) == pytest.approx(np.quantile(apart[held_out], 0.95), rel=1e-4)
    assert float(probe.features["limit"]) != pytest.approx(np.quantile(apart[training], 0.95), rel=1e-4)
    np.testing.assert_allclose(probe.features["mean"], embedded[training].mean(0), rtol=1e-4, atol=1e-5)


def test_another_seed_is_another_probe(easy: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file of its own; it reads the same labels with other weights and other held-out images."""
    monkeypatch.setattr(attribute_probe, "_STEPS", 150)
    first, second = attribute_probe.open_or_train(easy), attribute_probe.open_or_train(easy, seed=1)
    assert attribute_probe.is_trained(easy, 1) and not attribute_probe.is_trained(easy, 2)
    assert easy.labels is not None
    assert (second.read(easy.images[:130])["label"].argmax(1) == easy.labels[:130]).mean() > 0.95
    assert np.abs(first.embed(easy.images[:9]) - second.embed(easy.images[:9])).max() > 0.1
    assert first.targets["tilt"].mean != second.targets["tilt"].mean


def test_distance_by_hand() -> None:
    """Deviations (3, 4) with variances 9 and 4: sqrt(1 + 4)."""
    precision = np.diag([1 / 9, 1 / 4])
    distance = attribute_probe._distance(np.array([[4.0, 5.0]]), np.array([1.0, 1.0]), precision)
    np.testing.assert_allclose(distance, [np.sqrt(5)])
    features = np.random.default_rng(0).normal(0, [3.0, 2.0], (100_000, 2))
    np.testing.assert_allclose(attribute_probe._precision(features), precision, atol=2e-3)


def test_an_image_reads_the_same_in_any_company(easy: ImageDataset) -> None:
    probe = attribute_probe.open_or_train(easy)
    alone, together = probe.read(easy.images[5:6]), probe.read(easy.images[:140])
    for name, values in alone.items():
        np.testing.assert_allclose(values[0], together[name][5], rtol=1e-5, atol=1e-6)


def test_it_is_trained_once_and_again_when_the_file_is_damaged(
    easy: ImageDataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = easy.path / "attribute_probe.msgpack"
    before = file.read_bytes()
    monkeypatch.setattr(attribute_probe, "_STEPS", 1)
    attribute_probe.open_or_train(easy)
    assert file.read_bytes() == before
    for damaged in (before[: len(before) // 2], b"", before.replace(b"version", b"Version")):
        file.write_bytes(damaged)
        with pytest.raises(Damaged):
            attribute_probe._load(file, easy)
        with caplog.at_level(logging.WARNING):
            attribute_probe.open_or_train(easy)
        assert "is damaged" in caplog.text
        caplog.clear()
        assert len(file.read_bytes()) == len(before)
    with monkeypatch.context() as patched:
        patched.setattr(attribute_probe, "VERSION", attribute_probe.VERSION + 1)
        with pytest.raises(Damaged, match=r"its version is \d, not \d"):
            attribute_probe._load(file, easy)
    file.write_bytes(before)


def test_nothing_to_learn_from() -> None:
    with pytest.raises(UserError, match="has neither labels nor attributes"):
        attribute_probe.open_or_train(unknown(tiny.dataset()))


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="has 9 images, too few"):
        attribute_probe.open_or_train(unknown(tiny.dataset(count=9, classes=2)))


def unknown(dataset: ImageDataset) -> ImageDataset:
    dataset.meta["source"] = "folder:/x"
    return dataset
