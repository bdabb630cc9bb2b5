"""Makes the tables of docs/paper.md, quality.md and own_images.md from the results of experiments.

    python -m dcgan_jax.reports.experiments docs/experiments docs/paper.md docs/quality.md docs/own_images.md

docs/experiments holds a results.json for each experiment (report.py), as it was published, under another name, and for
evaluations during a training NAME.jsonl: the lines of the run's metrics.jsonl that have an "evaluation". The place of a
table on a page (tables.py) says its kind and the names of its files: `<!-- linear_svm authors_all authors_400 -->`.
Kinds are the functions of `KINDS`. Under each table stands the command of every file.
"""

import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_jax.reports import tables

Result = dict[str, Any]

_WIDTH = 106  # of a command's lines, which are indented and end in a backslash
_CONTINUED = "\\\n        "
_COLUMNS = 8  # evaluations of a training that a table shows
_LEVEL = 0.05  # of corrected p-values, as evaluation/significance.py marks them
_NETWORKS = {
    "trained": "trained, all layers",
    "untrained": "the same network, untrained",
    "pixels": "raw pixels",
    "k_means": "one layer of k-means, 1,200 units",
}


def main(folder: Path, pages: Sequence[Path]) -> None:
    for page in pages:
        page.write_text(rewritten(page.read_text(), folder))


def rewritten(text: str, folder: Path) -> str:
    """The page `text` with its tables made from the files in `folder`. KeyError for an unknown kind."""

    def make(name: str) -> str:
        kind, *files = name.split()
        return KINDS[kind]([(file, load(folder, file)) for file in files])

    return tables.rewrite(text, make)


def load(folder: Path, name: str) -> Any:
    """What NAME.json holds, or the list of what the lines of NAME.jsonl hold."""
    lines = folder / f"{name}.jsonl"
    if lines.exists():
        return [json.loads(line) for line in lines.read_text().splitlines()]
    return json.loads((folder / f"{name}.json").read_text())


def linear_svm(results: Sequence[tuple[str, Result]]) -> str:
    """Accuracy of features of the same network, a row for each kind and a column for each number of labels.

    Beside it the C that was chosen; an asterisk where it is at the end of its grid.
    """
    heads = [f"{r['per_class']} labels a class" if r["per_class"] else "all labels" for _, r in results]
    found = [result for _, result in results]
    names = [name for name in found[0] if isinstance(found[0][name], dict) and "accuracy" in found[0][name]]
    names += [name for r in found for name in r if name not in names and "accuracy" in _dict(r[name])]
    rows = [("features", "number", *heads)]
    for name in names:
        outcomes = [_dict(result.get(name)) for result in found]
        number = next(outcome["features"] for outcome in outcomes if outcome)
        rows.append((_network(name, found[0]["layers"]), f"{number:,}", *(_accuracy(outcome) for outcome in outcomes)))
    papers: dict[str, list[str]] = {}
    for i, result in enumerate(found):
        for row in result["table"]:
            if row["paper"] and not row["here"]:
                papers.setdefault(row["what"], [""] * len(found))[i] = row["paper"]
            elif row["paper"]:
                papers.setdefault("the paper's DCGAN, 28,672", [""] * len(found))[i] = row["paper"]
    rows += [(*_split_number(name), *cells) for name, cells in papers.items()]
    return tables.table(rows) + _commands(results)


def nearest_neighbor(results: Sequence[tuple[str, Result]]) -> str:
    """Test errors by what the classifier was trained on, a column for each run."""
    heads = [name.replace("_", " ") for name, _ in results]
    rows = [("trained on", *heads)]
    cells: dict[str, list[str]] = {}
    for i, (_, result) in enumerate(results):
        for what, found in (
            *(("real images", result[name]) for name in ("real", "real_split") if result.get(name)),
            *(("samples", outcome) for outcome in result["generated"]),
        ):
            text = f"{100 * found['error']:.2f} % ({found['nnd']:.3f})"
            cells.setdefault(f"{found['num']:,} {what}", [""] * len(results))[i] = text
    rows += [(name, *texts) for name, texts in cells.items()]
    return tables.table(rows) + _commands(results)


def study(results: Sequence[tuple[str, Result]]) -> str:
    """A study's variations (evaluation/variations.py), a row each.

    Distances are means and standard deviations over seeds; the difference from the first row has its 95 % interval, and
    is bold where it survives the correction for the number of comparisons at 5 %.
    """
    ((_, result),) = results
    measures = ("precision", "recall", "coverage")
    heads = ("at the end", "best", "spread", *measures, "second probe", "difference (95 %)", "p, Holm")
    rows = [("", *heads)]
    for name, found in result["variations"].items():
        rows.append(
            (
                name.replace("_", " "),
                _end(found),
                *(_number(found[key], digits) for key, digits in (("best", 1), ("spread", 2))),
                *(_number(found[key], 2) for key in measures),
                _number(found["second"], 1),
                *_difference(found),
            )
        )
    return tables.table(rows) + _commands(results)


def small_sets(results: Sequence[tuple[str, Result]]) -> str:
    """Studies with held-out images, a block each: `study`, with what was memorised and the gap of D.

    A file's name ends in the number of its training images: faces_300. As many of those as of samples are in a row of
    their own, if there are so many.
    """
    measures = ("precision", "recall", "memorized", "gap")
    heads = ("at the end", "best", *measures[:3], "gap of D", "second probe", "difference (95 %)", "p, Holm")
    rows = [("images", "", *heads)]
    for file, result in results:
        count = int(file.rpartition("_")[2])
        number = f"{count:,}"
        if count >= result["samples"]:  # the distance of fewer images is larger by itself
            real = result["real"]
            distance, second = (_number(real[key], 1) for key in ("distance", "second_distance"))
            precision, recall = (_number(real[key], 2) for key in ("precision", "recall"))
            rows.append((number, "the training images", distance, "", precision, recall, "", "", second, "", ""))
            number = ""
        for name, found in result["variations"].items():
            rows.append(
                (
                    number,
                    name.replace("_", " "),
                    _end(found),
                    _number(found["best"], 1),
                    *(_number(found[key], 2) for key in measures),
                    _number(found["second"], 1),
                    *_difference(found),
                )
            )
            number = ""
    return tables.table(rows) + _commands(results)


def dedup(results: Sequence[tuple[str, Result]]) -> str:
    """Near-duplicates that were found, a row for each radius, and recall and precision of planted copies."""
    kinds = list(results[0][1]["planted"])
    heads = [f"{kind}: recall, precision" for kind in kinds]
    rows = [("images", "radius", "duplicates", *heads)]
    for _, result in results:
        planted = (
            f"{result['planted'][kind]['recall']:.3f}, {result['planted'][kind]['precision']:.2f}" for kind in kinds
        )
        rows.append((f"{result['images']:,}", str(result["radius"]), f"{result['removed']:,}", *planted))
    return tables.table(rows) + _commands(results)


def _end(found: dict[str, Any]) -> str:
    """The distance at the end, and how many runs have none."""
    diverged = f"; {found['diverged']} diverged" if found["diverged"] else ""
    return f"{_with_spread(found['last'], found['last_std'])}{diverged}"


def _difference(found: dict[str, Any]) -> tuple[str, str]:
    """That from the first row with its interval, bold where it survives the correction, and its p-value."""
    difference = found["difference"]
    if not difference:
        return "", ""
    apart = f"{difference['mean']:+.1f} ({difference['low']:+.1f} to {difference['high']:+.1f})"
    apart = f"**{apart}**" if difference["p_holm"] < _LEVEL else apart
    return apart, f"{difference['p_holm']:.2g}"


def report(results: Sequence[tuple[str, Result]]) -> str:
    """The rows of a single report as the experiment printed them."""
    ((_, result),) = results
    paper = any(row["paper"] for row in result["table"])
    rows = [("", "here", *(["paper"] if paper else []))]
    rows += [(row["what"], row["here"], *([row["paper"]] if paper else [])) for row in result["table"]]
    return tables.table(rows) + _commands(results)


def training(results: Sequence[tuple[str, Any]]) -> str:
    """Evaluations during a training: a row for each number, a column for each step; of many, eight evenly spread."""
    ((_, lines),) = results
    lines = [lines[i] for i in np.linspace(0, len(lines) - 1, min(_COLUMNS, len(lines))).round().astype(int)]
    names = [name for name in _MEASURES if name in lines[0]]
    rows = [("step", *(f"{line['step']:,}" for line in lines))]
    rows += [(f"`{name}`", *(_MEASURES[name](line[name]) for line in lines)) for name in names]
    return tables.table(rows)


_MEASURES: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(
        ("probe_frechet", "probe_precision", "probe_recall", "probe_coverage", "probe_memorized", "nnd"),
        lambda value: f"{value:.2f}",
    ),
    "nnc_accuracy": lambda value: f"{100 * value:.1f} %",
}
KINDS: dict[str, Callable[[Sequence[tuple[str, Any]]], str]] = {
    "dedup": dedup,
    "linear_svm": linear_svm,
    "nearest_neighbor": nearest_neighbor,
    "report": report,
    "small_sets": small_sets,
    "study": study,
    "training": training,
}


def _number(value: float | None, digits: int) -> str:
    """'' for what could not be measured."""
    return "" if value is None else f"{value:.{digits}f}"


def _with_spread(mean: float | None, deviation: float | None) -> str:
    return _number(mean, 1) + ("" if deviation is None else f" ± {deviation:.1f}")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _network(name: str, layers: int) -> str:
    """What features are of. `layers`: how many convolutions all of them are, 0: all there are."""
    if name == "trained" and layers:
        return f"trained, conv1 to conv{layers}"
    return _NETWORKS.get(name, f"trained, {name} alone")


def _accuracy(outcome: dict[str, Any]) -> str:
    if not outcome:
        return ""
    spread = "" if outcome["std"] is None else f" ± {100 * outcome['std']:.1f}"
    return f"{100 * outcome['accuracy']:.1f}{spread} % (C = {outcome['c']:g}{'*' if outcome.get('edge') else ''})"


def _split_number(name: str) -> tuple[str, str]:
    """A baseline's name and its number of units, which stands last in it."""
    what, _, number = name.rpartition(", ")
    return (what, number) if what and number[0].isdigit() else (name, "")


def _commands(results: Sequence[tuple[str, Result]]) -> str:
    """The command of each file, as code."""
    commands = (textwrap.wrap(result["command"], _WIDTH, break_on_hyphens=False) for _, result in results)
    return "\n\n" + "\n".join(f"    {f' {_CONTINUED}'.join(lines)}" for lines in commands)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(page) for page in sys.argv[2:]])
