"""The page of all experiments."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dcgan_jax.analysis import __main__
from dcgan_jax.reports.report import Picture, Report, Row, publish


def test_a_section_holds_everything(tmp_path: Path) -> None:
    pictures = [Picture("a.png", np.zeros((2, 2, 3), np.uint8), "A <black> square."), Picture("b.gif", b"GIF", "")]
    rows = [Row("change", "1.5", "13.3"), Row("  of <it>", "2")]
    publish(tmp_path, Report("Walks & more", {"step": 3, "change": 1.5}, rows, pictures, {"change": 13.3}))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["change"] == 1.5 and results["paper"] == {"change": 13.3}
    section = __main__.section(results, tmp_path)
    assert "<h2>Walks &amp; more</h2>" in section
    assert "<td>change</td><td>1.5</td><td>13.3</td>" in section
    assert "A &lt;black&gt; square." in section and "of &lt;it&gt;" in section
    assert section.count("data:image/png;base64,") == 1
    assert "data:image/gif;base64,R0lG" in section


def test_page_of_a_run(labelled_run: Path) -> None:
    """Two random classes cannot be told apart: what needs the probe does not apply, and says why; the rest is there."""
    command = [sys.executable, "-m", "dcgan_jax.analysis", f"--workdir={labelled_run}"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    page = (labelled_run / "analysis" / "index.html").read_text()
    assert "Walking in the latent space" in page and "What the discriminator&#x27;s features see" in page
    assert "carries no boxes" in page and "no real-valued attribute" in page
    assert "samples show label=class" in page or "Vector arithmetic" in page
    assert 'src="http' not in page and "href" not in page
