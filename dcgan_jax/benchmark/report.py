"""Rewrites the tables of docs/performance.md from the results of launch/benchmark.sh.

    python -m dcgan_jax.benchmark.report docs/benchmarks docs/performance.md

The tables' places are named like the functions that make them (reports/tables.py).
"""

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from dcgan_jax.reports import tables

# Results whose names begin like this make a row, in this order.
CASES = {
    "paper-batch64": "64 px, 5x5, the paper's network, batch 64",
    "paper-batch128": "the same, batch 128",
    "paper-dropout-batch64": "the same, batch 64, dropout 0.5 in D",
    "example-batch64": "64 px, 4x4, half width (the PyTorch example's), batch 64",
    "toy_bedrooms-batch32": "64 px, 4x4, quarter width, averaged weights, batch 32",
    "folder128-batch32": "128 px, 5x5, quarter width, averaged weights, batch 32",
    "svhn-batch128": "32 px, 5x5, 64-128-256 maps, batch 128",
    "svhn-half-batch64": "32 px, 5x5, 32-64-128 maps, batch 64",
    "imagenet32-batch128": "32 px, six 3x3 layers, 128 to 512 maps, batch 128",
    "mnist-batch128": "28 px, 5x5, the authors' MNIST network with labels, batch 128",
}
_PRECISIONS = ("float32", "bfloat16")
_NOT_RUN = "not run"

Results = dict[str, dict[str, Any]]
Rates = dict[str, dict[str, float]]  # by library and precision


def main(results_folder: Path, page: Path) -> None:
    results = {path.stem: json.loads(path.read_text()) for path in sorted(results_folder.glob("*.json"))}
    kinds = {table.__name__: table for table in (peers, machines, costs, scaling)}
    page.write_text(tables.rewrite(page.read_text(), lambda name: kinds[name](results)))


def peers(results: Results) -> str:
    """Images per second in each precision, and ratios, a row per case and Python version."""
    ours, theirs = ([f"{name} {precision}" for precision in _PRECISIONS] for name in ("ours", "PyTorch"))
    ratios = [f"ratio {precision}" for precision in _PRECISIONS]
    rows = [("case", "Python", "jax", "processor", *ours, *theirs, *ratios, "PyTorch's best", "best / best")]
    for case, words in CASES.items():
        for version, result in _of_case(results, case):
            jax_version = re.search(r"jax ([\d.]+)", result["systems"][0]["settings"])
            best = result["best"]["torch"]
            spread = f" ({result['ratio_min']:.2f} to {result['ratio_max']:.2f})" if "ratio_min" in result else ""
            found = [result["ratios"].get(precision) for precision in _PRECISIONS]
            rows.append(
                (
                    words,
                    version,
                    jax_version[1] if jax_version else "",
                    result["processor"]["model"],
                    *(
                        _speed_of(result, name, precision)
                        for name in ("dcgan_jax", "torch")
                        for precision in _PRECISIONS
                    ),
                    *(_NOT_RUN if ratio is None else f"{ratio:.2f}" for ratio in found),
                    f"{best['precision']}, {best['variant']}",
                    f"**{result['ratio']:.2f}**{spread}",
                )
            )
    return tables.table(rows)


def machines(results: Results) -> str:
    """Processors, and GFLOP/s of a large product on them, medians over the cases."""
    columns = [(library, precision) for library in ("jax", "torch") for precision in _PRECISIONS]
    heads = (f"{'PyTorch' if library == 'torch' else library} {precision}" for library, precision in columns)
    rows = [("Python", "processor", "its instructions", *heads)]
    found: dict[tuple[str, str, str], list[Rates]] = {}
    for case in CASES:
        for version, result in _of_case(results, case):
            machine = result["processor"]
            key = (version, machine["model"], " ".join(machine["flags"]))
            found.setdefault(key, []).append(result["gemm_flops"])
    for key, products in sorted(found.items()):
        rates = [
            [p[library][precision] for p in products if precision in p.get(library, ())]
            for library, precision in columns
        ]
        rows.append((*key, *(f"{statistics.median(each) / 1e9:.0f}" if each else _NOT_RUN for each in rates)))
    return tables.table(rows)


def costs(results: Results) -> str:
    """Arithmetic in each precision, memory, and XLA's own convolutions, a row per case."""
    speeds = [f"GFLOP/s by definition, {precision}" for precision in _PRECISIONS]
    shares = [f"of a product's, {precision}" for precision in _PRECISIONS]
    rows = [("case", *speeds, *shares, "peak memory, float32", "activations", "XLA's own")]
    for case, words in CASES.items():
        if found := _of_case(results, case):
            _, result = found[-1]
            ours = {row["precision"]: row for row in result["systems"] if row["system"] == "dcgan_jax"}
            achieved = [ours[precision]["achieved_flops"] if precision in ours else None for precision in _PRECISIONS]
            products = [result["gemm_flops"]["jax"].get(precision) for precision in _PRECISIONS]
            own = [lax["ratio"] for _, lax in _of_case(results, f"lax-{case}")]
            rows.append(
                (
                    words,
                    *(_NOT_RUN if flops is None else f"{flops / 1e9:.0f}" for flops in achieved),
                    *(f"{a / b:.0%}" if a and b else _NOT_RUN for a, b in zip(achieved, products, strict=True)),
                    f"{ours['float32']['peak_memory_bytes'] / 1e9:.2f} GB",
                    f"{result['activation_bytes'] / 1e9:.2f} GB",
                    f"{own[0]:.1f} times slower" if own else _NOT_RUN,
                )
            )
    return tables.table(rows)


def scaling(results: Results) -> str:
    """Speed and memory at other batch sizes and widths."""
    rows = [("width", "batch", "images/s", "GFLOP/s by definition", "peak memory", "activations")]
    for name, result in results.items():
        if name.startswith("scaling-python"):
            for row in result["scaling"]:
                rows.append(
                    (
                        f"{row['width']:.3g}",
                        str(row["batch_size"]),
                        _speed(row["images_per_second"]),
                        f"{row['achieved_flops'] / 1e9:.0f}",
                        f"{row['peak_memory_bytes'] / 1e9:.2f} GB",
                        f"{row['activation_bytes'] / 1e9:.2f} GB",
                    )
                )
    return tables.table(rows)


def _of_case(results: Results, case: str) -> list[tuple[str, dict[str, Any]]]:
    """Python versions and results of a case."""
    matches = ((re.fullmatch(rf"{case}-python(\d+\.\d+)", name), result) for name, result in results.items())
    return [(match[1], result) for match, result in matches if match]


def _speed_of(result: dict[str, Any], system: str, precision: str) -> str:
    """Of the system's fastest variant."""
    rows = (row for row in result["systems"] if (row["system"], row["precision"]) == (system, precision))
    speeds = [row["images_per_second"] for row in rows]
    return _speed(max(speeds)) if speeds else _NOT_RUN


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
