"""Curves of a study: each run is a line where its numbers are."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from dcgan_jax.reports import curves, plots

_STUDIES: dict[str, dict[str, Any]] = {
    "few images": {
        "as_given": {"runs": [{"steps": [1, 2], "distances": [4.0, 2.0]}, {"steps": [1, 2], "distances": [5.0, 3.0]}]},
        "flipped": {"runs": [{"steps": [], "distances": []}]},  # diverged before its first point
    },
    "more images": {"flipped": {"runs": [{"steps": [1, 2], "distances": [7.0, 6.0]}]}},
}


def _keep(kept: list[Figure], drawn: Figure) -> bytes:
    kept.append(drawn)
    return b"png"


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figure that is drawn last, kept open."""
    kept: list[Figure] = []
    monkeypatch.setattr(plots, "png", partial(_keep, kept))
    yield kept
    plt.close("all")


def test_each_run_is_a_line_and_each_variation_has_one_color(figure: list[Figure]) -> None:
    assert curves.draw(_STUDIES) == b"png"
    few, more = figure[0].axes
    assert [(axis.get_title(), axis.get_yscale()) for axis in (few, more)] == [
        ("few images", "log"),
        ("more images", "log"),
    ]
    assert [np.asarray(line.get_ydata()).tolist() for line in few.lines] == [[4.0, 2.0], [5.0, 3.0], []]
    first, second, flipped = (line.get_color() for line in few.lines)
    assert first == second != flipped == more.lines[0].get_color()
    assert [text.get_text() for text in figure[0].legends[0].get_texts()] == ["as given", "flipped"]
    assert few.get_ylim() == more.get_ylim()


def test_the_command_draws_files_of_results(tmp_path: Path, figure: list[Figure]) -> None:
    for name, variations in zip(("few_3", "more_9"), _STUDIES.values(), strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps({"variations": variations}))
    curves.main(tmp_path / "out.png", [tmp_path / "few_3.json", tmp_path / "more_9.json"])
    assert (tmp_path / "out.png").read_bytes() == b"png"
    assert [axis.get_title() for axis in figure[0].axes] == ["few 3", "more 9"]
