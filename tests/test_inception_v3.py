"""The Inception v3 of FID against pytorch-fid's numbers, and where its weights come from."""

import hashlib
import io
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcgan_jax.machine.errors import UserError
from dcgan_jax.metrics import inception_v3
from tests import golden_inception


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return golden_inception.weights(inception_v3.torch_shapes())


def test_names_and_shapes_are_those_of_pytorch_fid() -> None:
    shapes = inception_v3.torch_shapes()
    assert len(shapes) == 472
    assert sum(np.prod(shape) for shape in shapes.values()) == 23_885_392
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    lines = "\n".join(sorted(f"{name} {list(shape)}" for name, shape in shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == golden_inception.SHAPES_SHA256


def test_pools_leave_the_padding_out() -> None:
    """Of ones all means are 1; of -1 at a corner, the maximum is not the padding's 0."""
    ones = jnp.ones((1, 4, 4, 1))
    np.testing.assert_array_equal(inception_v3._average_pool(ones), ones)
    np.testing.assert_array_equal(inception_v3._max_pool(-ones), -ones)


@pytest.mark.parametrize("side", [139, pytest.param(299, marks=pytest.mark.long)])
def test_against_pytorch_fid(side: int, weights: dict[str, np.ndarray]) -> None:
    variables = inception_v3.convert(weights, "seeded")
    outputs = inception_v3.make_extract(variables, "none")(golden_inception.images(side))
    expected = golden_inception.EXPECTED[side]
    found: dict[str, Any] = {
        "features": outputs.features[0, np.array(golden_inception.FEATURES)],
        "logits": outputs.logits[0, np.array(golden_inception.LOGITS)],
        "unbiased_logits": outputs.unbiased_logits[0, np.array(golden_inception.LOGITS)],
        "rms": np.array([np.sqrt(np.square(values).mean()) for values in (outputs.features, outputs.logits)]),
    }
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4 * expected["rms"][0], err_msg=name)


def test_a_file_of_weights(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A file that is named is used whatever its checksum, which is told."""
    file = tmp_path / "mine.pth"
    file.write_bytes(saved({**weights, "fc.num_batches_tracked": np.zeros(1, np.float32)}))
    variables, sha256 = inception_v3.load_weights(file)
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    params: Any = variables["params"]
    np.testing.assert_array_equal(params["fc_kernel"], weights["fc.weight"].T)
    kernel = params["Mixed_6b"]["branch7x7_2"]["kernel"]
    np.testing.assert_array_equal(kernel, weights["Mixed_6b.branch7x7_2.conv.weight"].transpose(2, 3, 1, 0))
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    expected = jax.eval_shape(inception_v3.InceptionV3().init, jax.random.key(0), images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)


def test_weights_of_another_network() -> None:
    empty = {name: np.zeros(shape, np.float32) for name, shape in inception_v3.torch_shapes().items()}
    with pytest.raises(UserError, match=r"x.pth has a AuxLogits.fc.weight: not the Inception v3 of FID, whose weights"):
        inception_v3.convert({**empty, "AuxLogits.fc.weight": np.zeros(1, np.float32)}, "x.pth")
    with pytest.raises(UserError, match=r"fc.bias is float32 \[1000\], not float \[1008\]"):
        inception_v3.convert({**empty, "fc.bias": np.zeros(1000, np.float32)}, "x.pth")
    del empty["fc.bias"]
    with pytest.raises(UserError, match=r"x.pth has no fc.bias"):
        inception_v3.convert(empty, "x.pth")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dcgan_jax" / "weights"


class Response(io.BytesIO):
    headers: dict[str, str] = {}  # noqa: RUF012


def test_a_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"weights"
    monkeypatch.setattr(inception_v3, "CHECKSUM", hashlib.sha256(content).hexdigest()[:8])
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> Response:
        asked.append(url)
        return Response(content)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    for _ in range(2):  # the second time it is there
        file = inception_v3.find_weights()
        assert file == cache / "pt_inception-2015-12-05-6726825d.pth" and file.read_bytes() == content
    assert asked == [inception_v3.URL]
    assert list(cache.iterdir()) == [file]


def test_a_damaged_download_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Response(b"<html>"))
    with pytest.raises(UserError, match=r"could not be downloaded \(what came has the SHA-256 \w{8}\.\.\.\)"):
        inception_v3.load_weights()
    assert list(cache.iterdir()) == []


def test_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(UserError) as caught:
        inception_v3.load_weights()
    for told in ("no route", "pt_inception-2015-12-05-6726825d.pth", "91.2 MB", "6726825d...", "github", str(cache)):
        assert told in str(caught.value)


def test_a_damaged_file_in_the_cache(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / inception_v3.WEIGHTS).write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"is damaged: its SHA-256 begins with \w{8}, not 6726825d. Delete it"):
        inception_v3.load_weights()


def test_files_that_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.pth: No such file"):
        inception_v3.load_weights(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("text")
    with pytest.raises(UserError, match=r"text.pth is not a file of torch.save"):
        inception_v3.load_weights(tmp_path / "text.pth")


def saved(tensors: dict[str, np.ndarray]) -> bytes:
    """float32 arrays as torch.save writes them."""
    tree = [b"\x80\x02}("]
    for number, (name, array) in enumerate(tensors.items()):
        strides = tuple(stride // 4 for stride in array.strides)
        storage = (text("storage"), b"ctorch\nFloatStorage\n", text(str(number)), text("cpu"), whole(array.size))
        lies = [b"(" + b"".join(map(whole, numbers)) + b"t" for numbers in (array.shape, strides)]
        tree += [text(name), b"ctorch._utils\n_rebuild_tensor_v2\n((", *storage, b"tQK\x00", *lies, b"\x89}tR"]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("mine/data.pkl", b"".join(tree) + b"u.")
        for number, array in enumerate(tensors.values()):
            archive.writestr(f"mine/data/{number}", array.tobytes())
    return stream.getvalue()


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def whole(value: int) -> bytes:
    return b"J" + int(value).to_bytes(4, "little", signed=True)
