"""How tests call analyses and evaluations; the runs that they are called on are fixtures of conftest.py."""

import subprocess
import sys
from pathlib import Path


def analyse(name: str, workdir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return _run(f"dcgan_jax.analysis.{name}", workdir, flags)


def evaluate(name: str, workdir: Path | None, *flags: str) -> subprocess.CompletedProcess[str]:
    return _run(f"dcgan_jax.evaluation.{name}", workdir, flags)


def _run(module: str, workdir: Path | None, flags: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *([f"--workdir={workdir}"] if workdir else []), *flags]
    return subprocess.run(command, capture_output=True, text=True)
