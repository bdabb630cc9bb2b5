"""Tests of dcgan_jax.export: what lies in the folder afterwards, and when nothing does."""

import configparser
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dcgan_jax
from dcgan_jax import exchange, export
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs.trained import Run
from tests import networks

ROOT = Path(__file__).parents[1]


def run_export(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dcgan_jax.export", *flags], capture_output=True, text=True)


def test_the_command_writes_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    file, out = networks.trained_file(tmp_path), tmp_path / "new" / "out"
    process = run_export(f"--workdir={file}", "--format=onnx", f"--out={out}", "--taps")
    assert process.returncode == 0, process.stderr
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    lines = process.stdout.splitlines()
    assert len(lines) == len(list(out.iterdir())) == 2
    for line, name in zip(lines, ("generator.onnx", "discriminator.onnx"), strict=True):
        assert line.startswith(f"{out / name}: {(out / name).stat().st_size:,} bytes, ")
        assert "nodes, largest difference to JAX " in line
    assert (out / "generator.onnx").read_bytes().count(b"deconv1") > 4  # with --taps it is an output, too


def test_a_folder_with_something_in_it_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    process = run_export("--workdir=nothing_here", "--format=stablehlo", f"--out={tmp_path}")
    assert process.returncode == 2
    assert process.stderr == f"error: --out={tmp_path} is there already and not an empty folder: give a new one.\n"
    with pytest.raises(UserError, match=r"mine.txt is there already and not an empty folder"):
        export.check_out(tmp_path / "mine.txt")


def test_what_fails_the_check_leaves_nothing(tmp_path: Path) -> None:
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run"))

    def write(folder: Path, run: Run) -> list[Path]:
        (folder / "file").write_text("something")
        return [folder / "file"]

    def check(folder: Path, run: Run) -> dict[str, str]:
        assert [path.name for path in folder.iterdir()] == ["file"]
        raise UserError("it is no good")

    parent = tmp_path / "results"
    (parent / "empty").mkdir(parents=True)
    for out in (parent / "new", parent / "empty"):
        with pytest.raises(UserError, match="it is no good"):
            export.write(run, export.Format(write, check), out)
    assert [path.name for path in parent.rglob("*")] == ["empty"]
    assert export.write(run, export.Format(write), parent / "empty") == {"file": ""}
    assert sorted(path.name for path in parent.rglob("*")) == ["empty", "file"]


def test_statistics_of_a_batch_cannot_be_written(tmp_path: Path) -> None:
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run"), norm="batch")
    with pytest.raises(UserError, match="norm is 'batch', but an image in a file cannot depend on others"):
        export.write(run, export.find_format("safetensors"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["safetensors", "hub"])
def test_folders_that_the_package_itself_reads(tmp_path: Path, name: str) -> None:
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run"))
    written = export.write(run, export.find_format(name), tmp_path / "my_faces")
    assert written.keys() == {path.name for path in (tmp_path / "my_faces").iterdir()}
    z = run.noise(4)
    np.testing.assert_array_equal(dcgan_jax.load(tmp_path / "my_faces").generate(z), run.generate(z))
    if name == "hub":
        assert "# my_faces\n" in (tmp_path / "my_faces" / "README.md").read_text()


@pytest.mark.parametrize(("name", "expected"), [("torch", "generator.pt"), ("page", "explorer.html")])
def test_folders_that_other_programs_read(tmp_path: Path, name: str, expected: str) -> None:
    """What is in them is tested beside their writers."""
    run = dcgan_jax.load(networks.trained_file(tmp_path / "run"))
    written = export.write(run, export.find_format(name), tmp_path / "out")
    assert expected in written and written.keys() == {path.name for path in (tmp_path / "out").iterdir()}


def test_formats_that_there_are_not() -> None:
    with pytest.raises(UserError, match=r"format is 'onyx'; choose from 'hub', 'onnx', 'page', "):
        export.find_format("onyx")
    with pytest.raises(UserError, match="--taps is for --format=onnx, not for hub"):
        export.find_format("hub", taps=True)
    with pytest.raises(UserError, match="--license is for --format=hub, not for onnx"):
        export.find_format("onnx", license="mit")


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dcgan_jax.exchange.onnx_file", raising=False)
    monkeypatch.delattr(exchange, "onnx_file", raising=False)  # a test before this one has imported it
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"--format=onnx needs onnx, .*: pip install 'dcgan_jax\[onnx\]'"):
        export.find_format("onnx")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert {"onnx", "onnxruntime"} <= {
        line.split(">")[0] for line in settings["options.extras_require"]["onnx"].split()
    }


def test_the_page_of_formats_has_every_one() -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    for name in export.FORMATS:
        assert f"| `{name}` |" in page
