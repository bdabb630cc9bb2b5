"""Tables of docs/performance.md are made from results, and nothing else on the page changes."""

import json
import re
from pathlib import Path
from typing import Any

from dcgan_jax.benchmark import report

OURS = {
    "system": "dcgan_jax",
    "precision": "float32",
    "variant": "compiled, our heap",
    "settings": "jax 0.12.0, conv auto, float32",
    "images_per_second": 27.96,
    "achieved_flops": 3.5e11,
    "peak_memory_bytes": 2.5e9,
}
TORCH = OURS | {"system": "torch", "settings": "torch 2.13", "images_per_second": 12.0}
# Of before there were variants.
OLD: dict[str, Any] = {
    "processor": {"model": "Older", "flags": ["avx2"]},
    "gemm_flops": {"jax": {"float32": 2e11}},
    "activation_bytes": 4e8,
    "systems": [OURS, TORCH | {"variant": "eager, our heap"}],
    "best": {"torch": {"precision": "float32", "variant": "eager, our heap"}},
    "ratio": 2.345,
    "ratios": {"float32": 2.345},
}
NEW: dict[str, Any] = OLD | {
    "processor": {"model": "Model", "flags": ["avx2", "amx_bf16"]},
    "gemm_flops": {
        "jax": {"float32": 2e11, "bfloat16": 7e11},
        "torch": {"float32": 2.1e11, "bfloat16": 8e11},
    },
    "systems": [
        OURS,
        OURS | {"precision": "bfloat16", "images_per_second": 1234.5, "achieved_flops": 1.4e12},
        TORCH | {"variant": "eager, our heap", "images_per_second": 11.0},
        TORCH,
        TORCH | {"precision": "bfloat16", "images_per_second": 24.0},
    ],
    "best": {"torch": {"precision": "bfloat16", "variant": "compiled, our heap"}},
    "ratio": 3.5,
    "ratio_min": 3.25,
    "ratio_max": 3.75,
    "ratios": {"float32": 2.345, "bfloat16": 3.5},
}
TABLES = ("peers", "machines", "costs", "scaling")
PAGE = "top\n" + "middle\n".join(f"<!-- {name} -->\nold\n<!-- end -->\n" for name in TABLES) + "bottom\n"


def test_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    row = {"width": 0.5, "batch_size": 16, "activation_bytes": 4e8, **OURS}
    results = {
        "paper-batch64-python3.11": OLD,
        "paper-batch64-python3.12": NEW,
        "paper-batch128-python3.12": OLD,
        "lax-paper-batch64-python3.12": {"ratio": 9.04},
        "scaling-python3.12": {"scaling": [row]},
    }
    for name, result in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    report.main(tmp_path, page)
    text = page.read_text()
    case = "64 px, 5x5, the paper's network, batch 64"
    lines = text.splitlines()
    assert (
        f"| {case} | 3.11 | 0.12.0 | Older | 28.0 | not run | 12.0 | not run | 2.35 | not run "
        "| float32, eager, our heap | **2.35** |"
    ) in lines
    assert (
        f"| {case} | 3.12 | 0.12.0 | Model | 28.0 | 1,234 | 12.0 | 24.0 | 2.35 | 3.50 "
        "| bfloat16, compiled, our heap | **3.50** (3.25 to 3.75) |"
    ) in lines
    assert "| 3.11 | Older | avx2 | 200 | not run | not run | not run |" in lines
    assert "| 3.12 | Model | avx2 amx_bf16 | 200 | 700 | 210 | 800 |" in lines
    assert f"| {case} | 350 | 1400 | 175% | 200% | 2.50 GB | 0.40 GB | 9.0 times slower |" in lines
    assert "| the same, batch 128 | 350 | not run | 175% | not run | 2.50 GB | 0.40 GB | not run |" in lines
    assert "| 0.5 | 16 | 28.0 | 350 | 2.50 GB | 0.40 GB |" in text
    assert "old" not in text and text.startswith("top\n") and "\nmiddle\n" in text and text.endswith("bottom\n")
    report.main(tmp_path, page)
    assert page.read_text() == text


def test_every_measured_case_has_a_row() -> None:
    script = Path("launch/benchmark.sh").read_text()
    assert set(re.findall(r"measure (\S+) .*--peer=torch", script)) == report.CASES.keys()
