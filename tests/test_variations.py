"""Each rule breaks what it says; the studies on tiny networks, and as commands."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_jax.config import flatten
from dcgan_jax.evaluation import choices, guidelines, variations
from dcgan_jax.evaluation.variations import Outcome, Study, varied
from dcgan_jax.machine.errors import UserError
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
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Changes that make a config of tiny networks on labelled images."""
    folder = tmp_path_factory.mktemp("guidelines")
    source = tiny.image_folder(folder / "images", count=40, classes=2)
    return {"num_steps": 2, "log_every": 0, "data.source": source}


def test_a_report_after_each_round_of_seeds(settings: dict[str, Any], tmp_path: Path) -> None:
    config = tiny.config(settings)
    first, last = variations.rounds(guidelines.STUDY, config, workdir=tmp_path, seeds=2, variations=["no_norm"])
    assert (first["seeds"], last["seeds"], last["images_seen"], last["samples"]) == (1, 2, 16, 20)
    assert list(last["variations"]) == ["paper", "no_norm"]
    for name, summary in last["variations"].items():
        assert [run["steps"] for run in summary["runs"]] == [[1, 2], [1, 2]]
        ends = [run["distances"][-1] for run in summary["runs"]]
        assert summary["last"] == pytest.approx(sum(ends) / 2) and min(ends) > 0
        assert summary["runs"][0] == first["variations"][name]["runs"][0]
    assert last["real_distance"] > 0
    assert run_folder.load_config(tmp_path / "no_norm" / "seed1").model.norm == "none"
    assert [row["what"] for row in last.rows()[1:]] == [
        f"{name}: distance at the end (best), spread" for name in ("paper", "no_norm")
    ]
    assert np.asarray(last.pictures[0].content).shape == (2 * 8, 12 * 8, 3)  # a row of 12 samples for each


def test_a_run_that_diverges_is_counted(settings: dict[str, Any], tmp_path: Path) -> None:
    """The first step's losses are finite; the second's are not."""
    config = tiny.config(settings | {"optimizer.generator_learning_rate": 1e38})
    found = guidelines.measure(config, workdir=tmp_path, seeds=1, variations=["no_norm"])
    assert [row["here"] for row in found.rows()[1:]] == ["all diverged"] * 2
    assert found["variations"]["no_norm"]["diverged"] == 1
    assert "training diverged" in (tmp_path / "no_norm" / "seed0" / "log.txt").read_text()


def test_a_variation_that_is_none(settings: dict[str, Any], tmp_path: Path) -> None:
    config = tiny.config(settings | {"model.norm": "none"})
    with pytest.raises(UserError, match="has 'no_norm' as it is"):
        guidelines.measure(config, workdir=tmp_path, variations=["no_norm"])


def test_an_unknown_variation(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'maxout' is not one of paper, pooling"):
        guidelines.measure(tiny.config(settings), workdir=tmp_path, variations=["maxout"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("study", "variation"), [("guidelines", "no_norm"), ("choices", "batch_32")])
def test_command(settings: dict[str, Any], tmp_path: Path, study: str, variation: str) -> None:
    file = tiny.write_config(tmp_path, settings)
    command = [sys.executable, "-m", f"dcgan_jax.evaluation.{study}", f"--config={file}", f"--workdir={tmp_path}"]
    command += ["--seeds=1", f"--variations={variation}", "--config.num_steps=4"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    out = tmp_path / "evaluation" / study
    results = json.loads((out / "results.json").read_text())
    assert list(results["variations"])[1:] == [variation] and results["seeds"] == 1
    assert (out / "samples.png").exists()
