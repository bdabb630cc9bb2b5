"""Tables of experiments on the docs' pages: every kind by hand, and the pages agree with the files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dcgan_jax.reports import experiments, tables

FOLDER = Path("docs/experiments")
PAGES = (Path("docs/paper.md"), Path("docs/quality.md"), Path("docs/own_images.md"))
OUTCOME: dict[str, Any] = {"c": 1e-4, "accuracy": 0.7561, "std": None, "features": 12288, "edge": False}
SVM: dict[str, Any] = {
    "per_class": 0,
    "layers": 0,
    "trained": OUTCOME,
    "k_means": OUTCOME | {"accuracy": 0.7, "features": 4800, "c": 1e-2, "edge": True},
    "table": [
        {"what": "trained: accuracy, 12,288 features, C = 0.0001", "here": "75.6 %", "paper": "82.8 %"},
        {"what": "the paper's Exemplar CNN, 1,024 units", "here": "", "paper": "84.3 %"},
    ],
    "command": "python -m x --a",
}
FEW = SVM | {
    "per_class": 400,
    "trained": OUTCOME | {"accuracy": 0.673, "std": 0.0026},
    "conv1": OUTCOME | {"features": 2048, "std": 0.001},
    "table": [],
    "command": "python -m x --b",
}
FEW.pop("k_means")


def test_places_are_rewritten_and_nothing_else() -> None:
    text = "a\n<!-- one x -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\nc <!-- end -->\n"
    found = tables.rewrite(text, lambda name: f"({name})")
    expected = (
        "a\n<!-- one x -->\n\n(one x)\n\n<!-- end -->\nb\n<!-- two -->\n\n(two)\n\n<!-- end -->\nc <!-- end -->\n"
    )
    assert found == expected and tables.rewrite(found, lambda name: f"({name})") == found
    assert tables.table([("a", "b"), ("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_linear_svm() -> None:
    lines = experiments.linear_svm([("all", SVM), ("few", FEW)]).splitlines()
    assert lines == [
        "| features | number | all labels | 400 labels a class |",
        "| --- | --- | --- | --- |",
        "| trained, all layers | 12,288 | 75.6 % (C = 0.0001) | 67.3 ± 0.3 % (C = 0.0001) |",
        "| one layer of k-means, 1,200 units | 4,800 | 70.0 % (C = 0.01*) |  |",
        "| trained, conv1 alone | 2,048 |  | 75.6 ± 0.1 % (C = 0.0001) |",
        "| the paper's DCGAN | 28,672 | 82.8 % |  |",
        "| the paper's Exemplar CNN | 1,024 units | 84.3 % |  |",
        "",
        "    python -m x --a",
        "    python -m x --b",
    ]
    four = experiments.linear_svm([("few", FEW | {"layers": 4, "command": "python " + 30 * "--a=b " + "--c"})])
    assert four.splitlines()[2].startswith("| trained, conv1 to conv4 | 12,288 | 67.3")
    assert four.splitlines()[-2:] == ["    python " + 16 * "--a=b " + "\\", "        " + 14 * "--a=b " + "--c"]


def test_nearest_neighbor() -> None:
    found = {"error": 0.0343, "nnd": 4.2641}
    dcgan = {
        "real": found | {"num": 50_000},
        "real_split": None,
        "generated": [found | {"num": 100, "error": 0.05}],
        "command": "x",
    }
    dense = {"real": found | {"num": 50_000}, "generated": [found | {"num": 200}], "command": "y"}
    lines = experiments.nearest_neighbor([("mnist_half", dcgan), ("dense", dense)]).splitlines()
    assert lines == [
        "| trained on | mnist half | dense |",
        "| --- | --- | --- |",
        "| 50,000 real images | 3.43 % (4.264) | 3.43 % (4.264) |",
        "| 100 samples | 5.00 % (4.264) |  |",
        "| 200 samples |  | 3.43 % (4.264) |",
        "",
        "    x",
        "    y",
    ]


def test_study() -> None:
    """A difference that survives the correction is bold; what could not be measured is left out."""
    row: dict[str, Any] = {
        "last": 11.66,
        "last_std": 1.72,
        "best": 11.0,
        "spread": 0.678,
        "precision": 0.875,
        "recall": 0.5,
        "coverage": 0.75,
    }
    row |= {"second": 12.04, "diverged": 0, "difference": None}
    apart = {"mean": 5.0, "low": 1.04, "high": 8.96, "p_holm": 0.031}
    names = ("last", "last_std", "best", "spread", "precision", "recall", "coverage", "second")
    gone: dict[str, Any] = dict.fromkeys(names, None) | {"diverged": 2, "difference": None}
    variations = {
        "paper": row,
        "no_norm": row | {"difference": apart},
        "relu": row | {"difference": apart | {"p_holm": 0.051}, "diverged": 1},
        "gone": gone,
    }
    lines = experiments.study([("x", {"variations": variations, "command": "c"})]).splitlines()
    same = "11.0 | 0.68 | 0.88 | 0.50 | 0.75 | 12.0"
    assert lines[2:6] == [
        f"| paper | 11.7 ± 1.7 | {same} |  |  |",
        f"| no norm | 11.7 ± 1.7 | {same} | **+5.0 (+1.0 to +9.0)** | 0.031 |",
        f"| relu | 11.7 ± 1.7; 1 diverged | {same} | +5.0 (+1.0 to +9.0) | 0.051 |",
        "| gone | ; 2 diverged |  |  |  |  |  |  |  |  |",
    ]


def test_small_sets() -> None:
    """A block for each number of images, under what the training images themselves have, if they are as many."""
    row: dict[str, Any] = {"last": 7.15, "last_std": 0.36, "best": 7.0, "precision": 0.9, "recall": 0.41}
    row |= {"memorized": 0.055, "gap": 0.63, "second": 7.48, "diverged": 0, "difference": None}
    apart = {"mean": 12.83, "low": 8.0, "high": 17.66, "p_holm": 0.012}
    result = {
        "real": {"distance": 5.69, "precision": 0.8, "recall": 0.86, "second_distance": 6.17},
        "samples": 1000,
        "variations": {"as_given": row, "augmented": row | {"last": 19.98, "difference": apart}},
        "command": "c",
    }
    lines = experiments.small_sets([("faces_300", result), ("faces_1000", result)]).splitlines()
    assert lines[2:6] == [
        "| 300 | as given | 7.2 ± 0.4 | 7.0 | 0.90 | 0.41 | 0.06 | 0.63 | 7.5 |  |  |",
        "|  | augmented | 20.0 ± 0.4 | 7.0 | 0.90 | 0.41 | 0.06 | 0.63 | 7.5 | **+12.8 (+8.0 to +17.7)** | 0.012 |",
        "| 1,000 | the training images | 5.7 |  | 0.80 | 0.86 |  |  | 6.2 |  |  |",
        "|  | as given | 7.2 ± 0.4 | 7.0 | 0.90 | 0.41 | 0.06 | 0.63 | 7.5 |  |  |",
    ]
    assert lines[-2:] == ["    c", "    c"]


def test_dedup() -> None:
    planted = {"shifted": {"recall": 0.3044, "precision": 1.0}, "brightened": {"recall": 1.0, "precision": 0.987}}
    found = {"images": 1534, "radius": 2, "removed": 3, "planted": planted, "command": "c"}
    assert experiments.dedup([("x_2", found)]).splitlines() == [
        "| images | radius | duplicates | shifted: recall, precision | brightened: recall, precision |",
        "| --- | --- | --- | --- | --- |",
        "| 1,534 | 2 | 3 | 0.304, 1.00 | 1.000, 0.99 |",
        "",
        "    c",
    ]


def test_a_report_as_it_was_printed() -> None:
    row = {"what": "a", "here": "1", "paper": ""}
    lines = experiments.report([("x", {"table": [row, row | {"paper": "2"}], "command": "c"})]).splitlines()
    assert lines[:4] == ["|  | here | paper |", "| --- | --- | --- |", "| a | 1 |  |", "| a | 1 | 2 |"]
    assert experiments.report([("x", {"table": [row], "command": "c"})]).splitlines()[2] == "| a | 1 |"


def test_evaluations_of_a_training() -> None:
    lines = [{"step": 1000, "nnd": 5.456, "nnc_accuracy": 0.8732}, {"step": 2000, "nnd": 5.0, "nnc_accuracy": 0.9}]
    assert experiments.training([("x", lines)]).splitlines() == [
        "| step | 1,000 | 2,000 |",
        "| --- | --- | --- |",
        "| `nnd` | 5.46 | 5.00 |",
        "| `nnc_accuracy` | 87.3 % | 90.0 % |",
    ]
    many = experiments.training([("x", [{"step": i, "nnd": 1.0} for i in range(15)])])
    assert many.splitlines()[0] == "| step | 0 | 2 | 4 | 6 | 8 | 10 | 12 | 14 |"


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": 1}')
    (tmp_path / "b.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    assert experiments.load(tmp_path, "a") == {"x": 1}
    assert experiments.load(tmp_path, "b") == [{"x": 1}, {"x": 2}]
    with pytest.raises(KeyError):
        experiments.rewritten("<!-- unknown a -->\n<!-- end -->", tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_pages_agree_with_the_files(page: Path) -> None:
    assert experiments.rewritten(page.read_text(), FOLDER) == page.read_text()


def test_every_file_stands_on_a_page_and_names_no_place_outside() -> None:
    """Commands are those that a reader can give: no absolute paths."""
    named = {
        name for page in PAGES for place in re.findall(r"<!-- (.+?) -->", page.read_text()) for name in place.split()
    }
    for file in FOLDER.iterdir():
        assert file.stem in named, file
        assert not re.search(r"[\" =]/(work|home|tmp|root)", file.read_text()), file
    for name in (file.stem for file in FOLDER.glob("*.json")):
        assert json.loads((FOLDER / f"{name}.json").read_text())["command"].startswith("python -m dcgan_jax."), name
