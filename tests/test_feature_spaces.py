"""What measures are called, and which space a data set gets."""

import numpy as np
import pytest

from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.metrics import feature_spaces, inception_v3
from tests import tiny


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("pytorch-fid", ["fid", "kid", "inception_score", "inception_recall"]),
        ("torch-fidelity", ["fid", "kid", "inception_score", "inception_recall"]),
        ("clean", ["clean_fid", "clean_kid", "clean_inception_score", "clean_inception_recall"]),
    ],
)
def test_inception(monkeypatch: pytest.MonkeyPatch, rule: str, names: list[str]) -> None:
    """Another network stands for Inception: 130 images are two batches, of which 130 rows count."""

    def make_extract(variables: dict[str, float], rule: str) -> object:
        assert variables == {"scale": 2.0}

        def extract(images: np.ndarray) -> inception_v3.Outputs:
            assert len(images) == 128
            rows = images.reshape(128, -1)
            return inception_v3.Outputs(rows * variables["scale"], rows + 1.0, rows)  # type: ignore[arg-type]

        return extract

    monkeypatch.setattr(inception_v3, "load_weights", lambda file: inception_v3.Weights({"scale": 2.0}, "abc"))
    monkeypatch.setattr(inception_v3, "make_extract", make_extract)
    space = feature_spaces.inception(rule=rule)
    assert [space.measure(name) for name in ("frechet", "kernel", "score", "recall")] == names
    assert space.identity == {"features": "inception", "weights_sha256": "abc", "resize": rule}
    images = tiny.images(130)
    features, logits = space.embed(images)
    np.testing.assert_array_equal(features, images.reshape(130, -1) * 2.0)
    np.testing.assert_array_equal(logits, images.reshape(130, -1))  # those without the bias


def test_the_probe_where_something_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[ImageDataset] = []

    class Probe:
        variables = {"w": np.ones(3)}  # noqa: RUF012
        targets = {"label": None}  # noqa: RUF012

        def embed(self, images: np.ndarray, progress: str = "") -> np.ndarray:
            return np.full((len(images), 2), 7, np.float32)

    def open_or_train(dataset: ImageDataset) -> Probe:
        known.append(dataset)
        return Probe()

    monkeypatch.setattr(feature_spaces.attribute_probe, "open_or_train", open_or_train)
    assert feature_spaces.without_download(tiny.dataset()).name == "pixels" and not known
    space = feature_spaces.without_download(tiny.dataset(classes=2))
    assert space.name == "probe" and space.measure("frechet") == "probe_frechet" and len(known) == 1
    assert space.embed(tiny.images(5)).features.shape == (5, 2)
    assert len(space.identity["weights_sha256"]) == 64


def test_pixels_are_means_of_blocks() -> None:
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[0, :2, :2, 1] = [[255, 0], [255, 0]]
    features = feature_spaces.of_pixels().embed(image).features
    assert features.shape == (1, 8 * 8 * 3)
    assert features[0, 1] == 0.5 and features.sum() == 0.5
