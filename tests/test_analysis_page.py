"""The page of all experiments."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcgan_jax.analysis import page
from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports.report import Figure, Picture, Report, publish
from dcgan_jax.runs import trained
from dcgan_jax.runs.trained import Run


def test_a_section_holds_everything(tmp_path: Path) -> None:
    pictures = [Picture("a.png", np.zeros((2, 2, 3), np.uint8), "A <black> square."), Picture("b.gif", b"GIF", "")]
    pictures.append(Picture("c.mp4", b"MP4", "A film."))
    figures = [Figure("step", 3), Figure("change", 1.5, "change", paper=13.3), Figure("", text="  of <it>", here="2")]
    publish(tmp_path, Report("Walks & more", figures, pictures))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["change"] == 1.5 and results["paper"] == {"change": 13.3}
    section = page.section(results, tmp_path)
    assert "<h2>Walks &amp; more</h2>" in section
    assert "<td>change</td><td>1.5</td><td>13.3</td>" in section
    assert "A &lt;black&gt; square." in section and "of &lt;it&gt;" in section
    assert section.count("data:image/png;base64,") == 1
    assert '<img alt="" src="data:image/gif;base64,R0lG">' in section
    assert '<video autoplay loop muted src="data:video/mp4;base64,TVA0"></video>' in section


def test_page_of_a_run(labelled_run: Path) -> None:
    """Two random classes cannot be told apart: what needs the probe does not apply, and says why; the rest is there."""
    command = [sys.executable, "-m", "dcgan_jax.analysis", f"--workdir={labelled_run}"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    text = (labelled_run / "analysis" / "index.html").read_text()
    assert "Walking in the latent space" in text and "What the discriminator&#x27;s features see" in text
    assert "carries no boxes" in text and "no real-valued attribute" in text
    assert "samples show label=class" in text or "Vector arithmetic" in text
    assert 'src="http' not in text and "href" not in text


def test_a_failure_is_reported_and_does_not_end_the_others(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("analysis"))
    run, calls = trained.load(tmp_path / "run"), []

    def refuse(run: Run, folder: Path) -> Report:
        raise UserError("there are no <boxes>")

    def fail(run: Run, folder: Path) -> Report:
        raise ZeroDivisionError("by zero")

    def walk(run: Run, folder: Path) -> Report:
        calls.append(folder)
        return Report("A walk", [Figure("step", run.step), Figure("change", 1.5, "change")])

    experiments = {"window_dropout": refuse, "turn_vector": fail, "latent_walk": walk}
    outcome = page.write(run, experiments=experiments)
    assert outcome == (tmp_path / "run/analysis/index.html", ["turn_vector"])
    text = outcome.page.read_text()
    assert "there are no &lt;boxes&gt;" in text and "failed: ZeroDivisionError: by zero" in text
    assert "<h2>A walk</h2>" in text and "--step=1 --norm=running --memorization</code>" in text
    assert "Traceback" in capsys.readouterr().err
    # What is there for this checkpoint is kept, unless it is asked for again.
    page.write(run, experiments=experiments)
    assert len(calls) == 1
    page.write(run, rerun=True, experiments=experiments)
    assert calls == 2 * [tmp_path / "run/analysis/latent_walk"]
