"""How tests call the analyses; the runs that they analyse are fixtures of conftest.py."""

import subprocess
import sys
from pathlib import Path


def analyse(name: str, workdir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"dcgan_jax.analysis.{name}", f"--workdir={workdir}", *flags]
    return subprocess.run(command, capture_output=True, text=True)
