"""Tables of docs/performance.md are made from results, and nothing else on the page changes."""

import json
from pathlib import Path

from dcgan_jax.benchmark import report

RESULT = {
    "settings": "jax 0.12.0, conv auto, float32",
    "images_per_second": 27.96,
    "images_per_second_min": 25.0,
    "images_per_second_max": 1234.5,
    "peer_images_per_second": 12.0,
    "ratio": 2.345,
    "achieved_flops": 3.5e11,
    "gemm_flops": 2e11,
    "peak_memory_bytes": 2.5e9,
    "activation_bytes": 4e8,
}
TABLES = ("peers", "costs", "scaling")
PAGE = "top\n" + "middle\n".join(f"<!-- {name} -->\nold\n<!-- end -->\n" for name in TABLES) + "bottom\n"


def test_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    (tmp_path / "paper-batch64-python3.12.json").write_text(json.dumps(RESULT))
    (tmp_path / "lax-paper-batch64-python3.12.json").write_text(json.dumps(RESULT | {"ratio": 9.04}))
    row = {"width": 0.5, "batch_size": 16, **RESULT}
    (tmp_path / "scaling-python3.12.json").write_text(json.dumps(RESULT | {"scaling": [row]}))
    report.main(tmp_path, page)
    text = page.read_text()
    case = "64 px, 5x5, the paper's network, batch 64"
    assert f"| {case} | 3.12 | 0.12.0 | 28.0 | 12.0 | **2.35** | 25.0 to 1,234 |" in text
    assert f"| {case} | 350 | 175% | 2.50 GB | 0.40 GB | 9.0 times slower |" in text
    assert "| 0.5 | 16 | 28.0 | 350 | 2.50 GB | 0.40 GB |" in text
    assert "old" not in text and text.startswith("top\n") and "\nmiddle\n" in text and text.endswith("bottom\n")
    report.main(tmp_path, page)
    assert page.read_text() == text
