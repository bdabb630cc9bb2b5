"""Tests of dcgan_jax.runs.weights_file, and of runs that are loaded from such files."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import dcgan_jax
from dcgan_jax import training
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import layers, pixels
from dcgan_jax.runs import trained, weights_file
from dcgan_jax.runs.trained import Run
from dcgan_jax.runs.weights_file import Weights
from tests import tiny


def write(folder: Path, weights: Weights) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / weights_file.FILE
    path.write_bytes(weights_file.encode(weights))
    return path


def sized(run: Run) -> Weights:
    """A run's weights with kernels that float16 holds exactly, large enough for images that are not grey."""
    weights = run.weights
    variables = jax.tree.map(
        lambda leaf: (
            np.asarray(np.float16(np.asarray(leaf) * 16), np.float32) if np.ndim(leaf) > 1 else np.asarray(leaf)
        ),
        weights.generator,
    )
    return replace(weights, generator=variables)


def test_a_file_draws_what_the_weights_draw(trained_run: Path, tmp_path: Path) -> None:
    run = dcgan_jax.load(trained_run)
    weights = sized(run)
    path = write(tmp_path / "export", weights)
    z = run.noise(3)
    expected = run.sampler.generate(weights.generator, np.resize(z, (128, 5)), None)[:3]
    assert np.std(expected) > 5
    for place in (path, tmp_path / "export", str(tmp_path / "export")):
        loaded = dcgan_jax.load(place)
        np.testing.assert_array_equal(loaded.generate(z), expected)
        assert (loaded.step, loaded.workdir, loaded.class_names) == (1, tmp_path / "export", None)
        assert loaded.at(None).step == loaded.at("best").step == loaded.at(1).step == 1
    logits, _ = loaded.discriminate(np.asarray(expected))
    original, _ = run.discriminate(np.asarray(expected))
    np.testing.assert_allclose(logits, original, rtol=2e-3, atol=1e-5)


def test_a_spectrally_normalised_discriminator_is_the_same_from_a_file(source: str, tmp_path: Path) -> None:
    """In Flax and as plain layers, which the page, ONNX and PyTorch get."""
    changes = {"model.discriminator.spectral_norm": True, "model.norm": "none", "num_steps": 2}
    run = training.train(tiny.config({"data.source": source, **changes}), tmp_path / "run")
    loaded = dcgan_jax.load(write(tmp_path / "export", run.weights))
    assert tiny.largest_difference(loaded.state.discriminator.batch_stats, run.state.discriminator.batch_stats) == 0
    images = tiny.images(6)
    expected, _ = run.discriminate(images)
    found, _ = loaded.discriminate(images)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-4)
    plain = layers.discriminator_layers(loaded.discriminator, loaded.state.discriminator.variables)
    as_layers, _ = layers.apply(plain, np.asarray(pixels.to_network(jnp.asarray(images), "tanh")))
    np.testing.assert_allclose(as_layers[:, 0], found, rtol=1e-4, atol=1e-6)


def test_averaged_weights_are_stored_with_their_statistics(trained_run: Path, tmp_path: Path) -> None:
    """The file has no average: what the run draws with is all that it holds."""
    run = dcgan_jax.load(trained_run)
    averaged = jax.tree.map(lambda leaf: 2 * leaf, run.state.generator.params)
    run = replace(run, state=run.state.replace(ema=averaged))
    loaded = dcgan_jax.load(write(tmp_path, run.weights))
    assert loaded.state.ema is None
    for name, (found, expected) in {
        "kernel": (loaded.variables["params"]["deconv1"], averaged["deconv1"]),
        "mean": (
            loaded.variables["batch_stats"]["projection_norm"]["mean"],
            run.variables["batch_stats"]["projection_norm"]["mean"],
        ),
    }.items():
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6, err_msg=name)


def test_classes_keep_their_names(conditional_run: Path, tmp_path: Path) -> None:
    run = dcgan_jax.load(conditional_run)
    loaded = dcgan_jax.load(write(tmp_path, run.weights))
    assert loaded.class_names == ["class0", "class1"] and loaded.find_label("class1") == 1


def test_paths_of_the_machine_stay_out(trained_run: Path, tmp_path: Path) -> None:
    content = weights_file.encode(dcgan_jax.load(trained_run).weights)
    assert str(trained_run.parent).encode() not in content
    loaded = dcgan_jax.load(write(tmp_path, dcgan_jax.load(trained_run).weights))
    assert loaded.config.data.source == "folder:images"


@pytest.mark.parametrize(
    ("source", "shared"),
    [
        ("folder:/home/me/faces", "folder:faces"),
        ("lsun:data/bedroom_val_lmdb", "lsun:bedroom_val_lmdb"),
        ("hf:owner/faces", "hf:owner/faces"),
        ("hf:/home/me/faces", "hf:faces"),
        ("tfds:mnist", "tfds:mnist"),
        ("toy_faces", "toy_faces"),
    ],
)
def test_a_source_keeps_its_name_and_loses_its_place(source: str, shared: str) -> None:
    config = weights_file.shared_config(tiny.config({"data.source": source, "eval.source": source}))
    assert (config.data.source, config.eval.source) == (shared, shared)


def test_a_file_without_discriminator_says_so(trained_run: Path, tmp_path: Path) -> None:
    run = dcgan_jax.load(trained_run)
    loaded = dcgan_jax.load(write(tmp_path, replace(run.weights, discriminator=None)))
    assert not loaded.has_discriminator and run.has_discriminator
    np.testing.assert_allclose(loaded.sample(2).astype(int), run.sample(2).astype(int), atol=1)
    with pytest.raises(UserError, match="holds a generator only"):
        loaded.discriminate(loaded.sample(2))


def test_another_step_is_refused(trained_run: Path, tmp_path: Path) -> None:
    path = write(tmp_path, dcgan_jax.load(trained_run).weights)
    with pytest.raises(UserError, match="holds step 1 only: leave --step=2 out"):
        dcgan_jax.load(path, step=2)
    with pytest.raises(UserError, match="holds step 1 only"):
        dcgan_jax.load(path).at(7)


@pytest.fixture(scope="module")
def content(trained_run: Path) -> bytes:
    """A file that can be read."""
    return weights_file.encode(dcgan_jax.load(trained_run).weights)


def _header(content: bytes, change: Callable[[dict], None]) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _without(name: str, content: bytes) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors = load_tensors(content)
    del tensors[name]
    return save_tensors(tensors, metadata)


def _config(**changes: object) -> Callable[[dict], None]:
    def change(header: dict) -> None:
        config = json.loads(header["__metadata__"]["config"])
        config["model"].update(changes)
        header["__metadata__"]["config"] = json.dumps(config)

    return change


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "cannot be read: SafetensorError"),
    "text": (lambda content: b"hello" * 100, "cannot be read: SafetensorError"),
    "a pickle": (lambda content: b"\x80\x02cos\nsystem\n(S'false'\ntR.", "cannot be read: SafetensorError"),
    "cut short": (lambda content: content[:-10], "cannot be read: SafetensorError"),
    "huge header": (lambda content: struct.pack("<Q", 2**60) + content[8:], "cannot be read: SafetensorError"),
    "huge shape": (
        lambda content: _header(content, lambda header: header["generator.deconv1"].update(shape=[2**40, 2**40])),
        "cannot be read: SafetensorError",
    ),
    "foreign": (lambda content: save_tensors(load_tensors(content)), "was not exported by dcgan_jax"),
    "newer": (lambda content: _header(content, lambda h: h["__metadata__"].update(version="9")), "version 9"),
    "no config": (lambda content: _header(content, lambda h: h["__metadata__"].pop("config")), "damaged metadata"),
    "an aspect of nothing": (
        lambda content: _header(content, lambda h: h["__metadata__"].update(aspect="0.0")),
        "aspect is 0.0, not a positive number",
    ),
    "a list as config": (
        lambda content: _header(content, lambda h: h["__metadata__"].update(config="[]")),
        "not the config of a run",
    ),
    "deep": (
        lambda content: _header(content, lambda h: h["__metadata__"].update(config='{"a":' * 5000 + "1" + "}" * 5000)),
        "damaged metadata|not the config",
    ),
    "another width": (
        lambda content: _header(content, _config(width=2.0)),
        r"generator.\w+.mean is F32 \[\d+\]; the network of its config has \[\d+\]",
    ),
    "an unknown field": (lambda content: _header(content, _config(depth=2)), "model.depth"),
    "a number of classes": (
        lambda content: _header(content, lambda h: h["__metadata__"].update(class_names="3")),
        "class_names is 3, not a list of names",
    ),
    "one tensor less": (lambda content: _without("discriminator.conv2", content), "lacks discriminator.conv2"),
    "one tensor more": (
        lambda content: _header(content, _config(norm="none")),
        "holds discriminator.conv2_norm.gain, which the network of its config does not have",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_malicious_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    spoil, message = BROKEN[name]
    path = tmp_path / weights_file.FILE
    path.write_bytes(spoil(content))
    with pytest.raises(UserError, match=message):
        dcgan_jax.load(path)


def test_weights_beyond_float16_are_refused(trained_run: Path) -> None:
    weights = dcgan_jax.load(trained_run).weights
    spoiled = jax.tree.map(lambda leaf: leaf * np.float32(1e9) + 1e6 if np.ndim(leaf) > 1 else leaf, weights.generator)
    with (
        np.errstate(over="ignore"),
        pytest.raises(UserError, match=r"generator.deconv1 has values that are not finite in float16"),
    ):
        weights_file.encode(replace(weights, generator=spoiled))


def test_a_run_of_the_same_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_run: Path) -> None:
    monkeypatch.setattr(weights_file, "_PRETRAINED", tmp_path / "packaged")
    (tmp_path / "packaged" / "mine").mkdir(parents=True)
    write(tmp_path / "packaged" / "mine", dcgan_jax.load(trained_run).weights)
    assert weights_file.pretrained() == ["mine"] == dcgan_jax.pretrained()
    monkeypatch.chdir(tmp_path)
    named = trained.load("mine")
    assert named.workdir == Path("mine") and named.file == tmp_path / "packaged" / "mine" / weights_file.FILE
    os.symlink(trained_run, tmp_path / "mine")
    assert trained.load("mine").file is None
    with pytest.raises(UserError, match=r"dcgan_jax.pretrained"):
        trained.load("nobody")


def test_the_command_line_samples_from_a_file(trained_run: Path, tmp_path: Path) -> None:
    path = write(tmp_path, dcgan_jax.load(trained_run).weights)
    command = [sys.executable, "-m", "dcgan_jax.sample", f"--workdir={path}", f"--out={tmp_path / 'out'}", "--num=2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
