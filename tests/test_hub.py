"""Tests of dcgan_jax.exchange.hub."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import dcgan_jax
from dcgan_jax import export
from dcgan_jax.exchange import hub
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import weights_file


@pytest.fixture
def run_folder(conditional_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(conditional_run, tmp_path / "run"))


def test_the_folder_draws_what_the_run_draws_and_says_what_it_is(run_folder: Path, tmp_path: Path) -> None:
    with (run_folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 1, "nnd": 2.25, "probe_recall": 0.5, "d_loss": 1.5}\n{"step": 7, "nnd": 99}\n')
    results = run_folder / "evaluation" / "quality" / "pixels" / "results.json"
    results.parent.mkdir(parents=True)
    rows = [{"step": 1, "pixels_frechet": 12.5}, {"step": 2, "recall": 0.1}]
    results.write_text(json.dumps({"num_samples": 5000, "checkpoints": rows}))
    run = dcgan_jax.load(run_folder)
    out = tmp_path / "two_classes"
    written = hub.write(out, run, license="cc-by-4.0")
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in written)
    again = dcgan_jax.load(out)
    np.testing.assert_allclose(again.sample(4).astype(int), run.sample(4).astype(int), atol=1)
    sheet = np.asarray(Image.open(out / "samples.png"))
    np.testing.assert_array_equal(sheet[:8, 8:16], run.sample(2)[1])
    _, head, card = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0" and "pipeline_tag" not in yaml.safe_load(head)
    for line in (
        "# two_classes",
        "| images | 32 of folder:images |",
        "| classes | class0, class1 |",
        "| training | 1 steps of 8 images |",
        "| pixels_frechet | 12.5, of 5,000 samples |",
        f"| nnd | 2.25, of {run.config.eval.num_samples:,} samples |",
        f"| probe_recall | 0.5, of {run.config.eval.num_samples:,} samples |",
    ):
        assert line in card.splitlines(), card
    assert "d_loss" not in card and "0.1," not in card
    assert str(tmp_path) not in card + (out / "config.json").read_text()


def test_a_card_can_be_written_of_a_file(trained_run: Path, tmp_path: Path) -> None:
    hub.write(tmp_path / "first", dcgan_jax.load(trained_run))
    results = tmp_path / "first" / "evaluation" / "quality" / "probe" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps({"num_samples": 640, "checkpoints": [{"step": 1, "probe_frechet": 3.25}]}))
    hub.write(tmp_path / "second", dcgan_jax.load(tmp_path / "first"))
    assert "| probe_frechet | 3.25, of 640 samples |" in (tmp_path / "second" / "README.md").read_text()
    first, second = (weights_file.read(tmp_path / name / weights_file.FILE) for name in ("first", "second"))
    assert first.config == second.config and first.step == second.step == 1
    jax.tree.map(np.testing.assert_array_equal, first.generator, second.generator)
    jax.tree.map(np.testing.assert_array_equal, first.discriminator, second.discriminator)
    head = (tmp_path / "second" / "README.md").read_text().split("---\n", 2)[1]
    assert yaml.safe_load(head)["pipeline_tag"] == "unconditional-image-generation"


def test_names_of_others_stay_in_their_cell(conditional_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(conditional_run, tmp_path / "run"))
    data = json.loads((folder / "data.json").read_text())
    data["class_names"] = ["a | b", "<script>\n# head"]
    (folder / "data.json").write_text(json.dumps(data))
    hub.write(tmp_path / "out", dcgan_jax.load(folder))
    lines = (tmp_path / "out" / "README.md").read_text().splitlines()
    assert "| classes | a &#124; b, &lt;script&gt; # head |" in lines


@pytest.mark.parametrize(
    "results",
    [
        {"num_samples": 9, "checkpoints": [{"step": 1, "<b>|_recall": 0.25}]},
        {"num_samples": 9, "checkpoints": ["step"]},
        {"num_samples": float("inf"), "checkpoints": [{"step": 1}]},
        {"num_samples": "many", "checkpoints": [{"step": 1}]},
        {"num_samples": 9, "checkpoints": 3},
    ],
)
def test_results_beside_foreign_weights_do_no_harm(trained_run: Path, tmp_path: Path, results: dict[str, Any]) -> None:
    hub.write_weights(tmp_path / "theirs", dcgan_jax.load(trained_run))
    file = tmp_path / "theirs" / "evaluation" / "quality" / "probe" / "results.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(results))
    hub.write(tmp_path / "out", dcgan_jax.load(tmp_path / "theirs"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<b>" not in card
    assert ("| &lt;b&gt;&#124;_recall | 0.25, of 9 samples |" in card) == ("<b>" in json.dumps(results))


def test_a_license_is_one_word(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--license='mit\\nevil: 1' is not an identifier"):
        hub.write(tmp_path / "out", dcgan_jax.load(trained_run), license="mit\nevil: 1")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_license(trained_run: Path, tmp_path: Path) -> None:
    run = dcgan_jax.load(trained_run)
    export.write(run, export.find_format("hub", license="cc-by-4.0"), tmp_path / "out")
    assert "\nlicense: cc-by-4.0\n" in (tmp_path / "out" / "README.md").read_text()
