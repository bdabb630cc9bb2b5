"""What a measured process computes on: what is expected, what it may take of it, and what it found.

JAX falls back to the CPU, with a line in the log at most, when an accelerator cannot be used: its driver is too old, or
another process holds it. A figure of the wrong device is worse than none.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

import jax

from dcgan_jax.machine.errors import UserError

PLATFORMS = ("cpu", "gpu", "tpu")
# What JAX_PLATFORMS may say, besides PLATFORMS.
_NAMES = {"cuda": "gpu", "rocm": "gpu"}
# PCI: Google's vendor number, and the classes of its devices that are no TPU: storage and network.
_GOOGLE, _NO_TPU = "0x1ae0", ("0x01", "0x02")


def expected_platform(root: Path = Path("/")) -> str | None:
    """'cpu', 'gpu' or 'tpu': what JAX_PLATFORMS says, or the accelerator that this machine has; None: neither.

    Args:
      root: of the file system. An NVIDIA GPU is known by /dev/nvidia0, a TPU as launch/setup_env.sh knows it.
    """
    named = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if named:
        return _NAMES.get(named, named)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not hidden and any(root.glob("dev/nvidia[0-9]*")):
        return "gpu"
    if any(_is_tpu(device) for device in root.glob("sys/bus/pci/devices/*")):
        return "tpu"
    return None


def _is_tpu(device: Path) -> bool:
    try:
        vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
    except OSError:
        return False
    return vendor == _GOOGLE and not kind.startswith(_NO_TPU)


def prepare(expected: str | None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets this process up to share a GPU with others, before JAX or PyTorch look for devices.

    JAX otherwise reserves three quarters of a GPU's memory in each process; a setting of the user's stays. With
    `expected` 'cpu', accelerators are hidden.
    """
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if expected == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
        jax.config.update("jax_platforms", "cpu")


def found_platform(system: str) -> str:
    """What `system` would compute on in this process. PyTorch is asked for 'torch...', JAX for all others.

    Raises:
      ImportError: PyTorch is not installed.
      RuntimeError: JAX_PLATFORMS names what cannot be used.
    """
    if system.startswith("torch"):
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    return platform_of(jax.devices()[0])


def platform_of(device: jax.Device) -> str:
    """'cpu', 'gpu' or 'tpu'."""
    return _NAMES.get(device.platform, device.platform)


def check(system: str, expected: str | None, found: str) -> None:
    """Raises UserError, naming the system, if it computes on something else than what is `expected` (None: nothing)."""
    if expected and found != expected:
        raise UserError(
            f"{system} computes on the {found.upper()}, but the {expected.upper()} is expected: see that its package "
            "is the one for this machine and that no other process holds the device, or say what to measure with "
            f"--platform={found}."
        )
