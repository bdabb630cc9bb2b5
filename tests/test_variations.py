"""Each rule breaks what it says, and the command on tiny networks."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from dcgan_jax.config import flatten
from dcgan_jax.evaluation import choices, guidelines, variations
from dcgan_jax.evaluation.variations import Outcome, Study, varied
from dcgan_jax.runs import run_folder
from tests import tiny


@pytest.mark.parametrize("study", [guidelines.STUDY, choices.STUDY], ids=lambda study: study.name)
def test_a_variation_changes_its_fields_and_nothing_else(study: Study) -> None:
    config = tiny.config({"num_steps": 128, "batch_size": 16})
    kept = varied(config, {}, 3)
    assert (kept.seed, kept.checkpoint_every) == (3, 32)
    before = flatten(kept)
    for variation in study.variations.values():
        after = flatten(varied(config, variation.changes, 3))
        if "batch_size" in variation.changes:
            assert after["num_steps"] * after["batch_size"] == 128 * 16
            after |= {"num_steps": 128, "checkpoint_every": 32}
        else:
            assert after["num_steps"] == 128
        changed = {field: value for field, value in after.items() if value != before[field]}
        assert changed.items() <= variation.changes.items() and (changed or study is choices.STUDY)


def test_summary_leaves_out_what_diverged() -> None:
    outcomes = [
        Outcome([1, 2], [5.0, 7.0], [1.0, 0.5], False),
        Outcome([1, 2], [9.0, 3.0], [1.0, 0.7], False),
        Outcome([1], [1.0], [0.0], True),
    ]
    summary = variations.summarise(outcomes)
    assert summary["diverged"] == 1
    assert (summary["last"], summary["last_std"]) == (5.0, pytest.approx(8**0.5))
    assert (summary["best"], summary["spread"]) == (4.0, 0.6)
    assert math.isnan(variations.summarise(outcomes[2:])["last"])


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets --config to tiny networks on labelled images."""
    folder = tmp_path_factory.mktemp("guidelines")
    source = tiny.image_folder(folder / "images", count=40, classes=2)
    return tiny.write_config(folder, {"num_steps": 2, "log_every": 0, "data.source": source})


def guide(config: Path, workdir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    module = "dcgan_jax.evaluation.guidelines"
    command = [sys.executable, "-m", module, f"--config={config}", f"--workdir={workdir}", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_command(config_file: Path, tmp_path: Path) -> None:
    process = guide(config_file, tmp_path, "--seeds=1", "--variations=no_norm")
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "evaluation" / "guidelines" / "results.json").read_text())
    assert list(results["variations"]) == ["paper", "no_norm"]
    for summary in results["variations"].values():
        assert summary["runs"][0]["steps"] == [1, 2]
        assert summary["last"] == summary["runs"][0]["distances"][-1] > 0
    assert run_folder.load_config(tmp_path / "no_norm" / "seed0").model.norm == "none"
    assert (tmp_path / "evaluation" / "guidelines" / "samples.png").exists()


def test_a_run_that_diverges_is_counted(config_file: Path, tmp_path: Path) -> None:
    """The first step's losses are finite; the second's are not."""
    flags = ("--seeds=1", "--variations=no_norm", "--config.optimizer.generator_learning_rate=1e38")
    process = guide(config_file, tmp_path, *flags)
    assert process.returncode == 0, process.stderr
    assert "all diverged" in process.stdout
    assert "training diverged" in (tmp_path / "no_norm" / "seed0" / "log.txt").read_text()


def test_a_variation_that_is_none(config_file: Path, tmp_path: Path) -> None:
    process = guide(config_file, tmp_path, "--variations=no_norm", "--config.model.norm=none")
    assert process.returncode == 2
    assert "has 'no_norm' as it is" in process.stderr


def test_an_unknown_variation(config_file: Path, tmp_path: Path) -> None:
    process = guide(config_file, tmp_path, "--variations=maxout")
    assert process.returncode == 2
    assert "'maxout' is not one of paper, pooling" in process.stderr and "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())
