"""The processor, as Linux describes it: what a figure was taken on, and whether bfloat16 is worth having."""

import os
import platform
from pathlib import Path
from typing import Any

# What decides how fast products can be: vectors of x86 and Arm, their bfloat16, and matrix units.
_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_fp16",
    "asimd", "sve", "sve2", "bf16", "svebf16", "sme",
)  # fmt: skip
# Fields of /proc/cpuinfo that tell processors of one name apart.
_NUMBERS = {"cpu family": "family", "model": "model", "stepping": "stepping", "CPU part": "part"}
# With one of these a step of the networks here is 1.1 to 1.8 times as fast in bfloat16 (docs/performance.md).
_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
_CPUINFO = Path("/proc/cpuinfo")


def fast_precision(platform: str, cpuinfo: Path = _CPUINFO) -> str:
    """'bfloat16' where training is known to be faster in it and as good, otherwise 'float32'.

    Args:
      platform: that computes, 'cpu', 'gpu' or 'tpu'. It is known of CPUs with AVX-512 BF16 or AMX only.
      cpuinfo: of the processor.
    """
    return "bfloat16" if platform == "cpu" and _BFLOAT16 & {*description(cpuinfo)["flags"]} else "float32"


def trainable_width(platform: str) -> float:
    """Width, as config.model.width, that networks for photographs can have on a platform.

    Half the paper's on CPUs: docs/own_images.md compares widths. Elsewhere the paper's.

    Args:
      platform: that computes, 'cpu', 'gpu' or 'tpu'.
    """
    return 0.5 if platform == "cpu" else 1.0


def description(cpuinfo: Path = _CPUINFO) -> dict[str, Any]:
    """'model', with the numbers behind a vague name, 'flags' that matter to products, and 'cores' for this process."""
    fields: dict[str, str] = {}
    if cpuinfo.exists():
        for line in cpuinfo.read_text().split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    numbers = [f"{name} {fields[key]}" for key, name in _NUMBERS.items() if key in fields]
    model = fields.get("model name") or platform.processor() or platform.machine()
    present = (fields.get("flags") or fields.get("Features", "")).split()
    return {
        "model": f"{model} ({', '.join(numbers)})" if numbers else model,
        "flags": [flag for flag in _FLAGS if flag in present],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
