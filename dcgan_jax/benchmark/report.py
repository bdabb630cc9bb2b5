"""Rewrites the tables of docs/performance.md from the results of launch/benchmark.sh.

    python -m dcgan_jax.benchmark.report docs/benchmarks docs/performance.md

A table stands between the lines `<!-- NAME -->` and `<!-- end -->`; whatever was between them is replaced.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Results whose names begin like this make a row, in this order.
CASES = {
    "paper-batch64": "64 px, 5x5, the paper's network, batch 64",
    "paper-batch128": "the same, batch 128",
    "example-batch64": "64 px, 4x4, half width (the PyTorch example's), batch 64",
    "svhn-batch128": "32 px, 5x5, 64-128-256 maps, batch 128",
    "svhn-half-batch64": "32 px, 5x5, 32-64-128 maps, batch 64",
}

Results = dict[str, dict[str, Any]]


def main(results_folder: Path, page: Path) -> None:
    results = {path.stem: json.loads(path.read_text()) for path in sorted(results_folder.glob("*.json"))}
    text = page.read_text()
    for name, table in {"peers": peers(results), "costs": costs(results), "scaling": scaling(results)}.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, after = text.split(begin)
        text = f"{before}{begin}\n{table}\n\n{end}{after.split(end, 1)[1]}"
    page.write_text(text)


def peers(results: Results) -> str:
    """Images per second and ratios, a row per case and Python version."""
    rows = [("case", "Python", "jax", "images/s", "PyTorch", "ratio", "least and most images/s")]
    for case, words in CASES.items():
        for name, result in results.items():
            if match := re.fullmatch(rf"{case}-python(\d+\.\d+)", name):
                jax_version = re.search(r"jax ([\d.]+)", result["settings"])
                rows.append(
                    (
                        words,
                        match[1],
                        jax_version[1] if jax_version else "",
                        _speed(result["images_per_second"]),
                        _speed(result["peer_images_per_second"]),
                        f"**{result['ratio']:.2f}**",
                        f"{_speed(result['images_per_second_min'])} to {_speed(result['images_per_second_max'])}",
                    )
                )
    return _table(rows)


def costs(results: Results) -> str:
    """Arithmetic, memory, compile time, and XLA's own convolutions, a row per case."""
    rows = [("case", "GFLOP/s by definition", "of a matrix product's", "peak memory", "activations", "XLA's own")]
    for case, words in CASES.items():
        found = [result for name, result in results.items() if name.startswith(f"{case}-python")]
        if found:
            result = found[-1]
            own = [lax["ratio"] for name, lax in results.items() if name.startswith(f"lax-{case}-python")]
            rows.append(
                (
                    words,
                    f"{result['achieved_flops'] / 1e9:.0f}",
                    f"{result['achieved_flops'] / result['gemm_flops']:.0%}",
                    f"{result['peak_memory_bytes'] / 1e9:.2f} GB",
                    f"{result['activation_bytes'] / 1e9:.2f} GB",
                    f"{own[0]:.1f} times slower" if own else "not run",
                )
            )
    return _table(rows)


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
    return _table(rows)


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.1f}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *body))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
