"""How much memory this process has used at most."""

import resource
import sys
from pathlib import Path

import jax


def peak_resident_bytes() -> int:
    """Largest resident size of this process, in bytes.

    Linux: of this program alone; getrusage's figure begins with that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, but bytes on macOS
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes() -> int | None:
    """The most that arrays have taken on the first device; None where it does not say, as on CPUs."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")
