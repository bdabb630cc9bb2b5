"""Accelerators that are not there: what XLA needs to compile for them, and published figures of what they can do.

The compilers come with the wheels of the extras `aot-tpu` (libtpu) and `aot-cuda` (the CUDA plugin, without NVIDIA's
libraries). Neither needs the hardware.
"""

import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import AXIS

PLATFORMS = ("tpu", "cuda")
# The text GpuTargetConfigProto of the GPU that 'cuda' stands for.
H100 = Path(__file__).with_name("h100.txtpb")


@dataclass(frozen=True)
class Chip:
    """What one device can do, for estimates.

    Attributes:
      name: of the product.
      flops: per second: of 'bfloat16', and of float32 by config.matmul_precision, 'default', 'high' and 'highest'.
      bytes_per_second: between the device and its own memory.
      link_bytes_per_second: from the device to the others, over all links together, one way.
      launch_seconds: added for every kernel.
      cycles_per_second: in which the compiler's own `estimated_cycles` are counted; None: not known, or it gives none.
    """

    name: str
    flops: dict[str, float]
    bytes_per_second: float
    link_bytes_per_second: float
    launch_seconds: float = 0.0
    cycles_per_second: float | None = None


def _tpu(name: str, teraflops: float, gigabytes: float, gigabits: float, gigahertz: float | None) -> Chip:
    """TPUs multiply in bfloat16: float32 takes one pass by default, rounded, three at 'high', six at 'highest'."""
    peak = teraflops * 1e12
    flops = {"bfloat16": peak, "default": peak, "high": peak / 3, "highest": peak / 6}
    cycles = None if gigahertz is None else gigahertz * 1e9
    return Chip(name, flops, gigabytes * 1e9, gigabits / 8 * 1e9, cycles_per_second=cycles)


# Peaks as published (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e): bfloat16, memory, interconnect of a chip. The clocks
# of v5e and v6e follow from these peaks and the size of the matrix units; `estimated_cycles` of an 8192^3 product are
# then 88 % and 70 % of the peak.
_TPUS = {
    "v4": _tpu("TPU v4", 275, 1228, 2400, None),
    "v5e": _tpu("TPU v5e", 197, 819, 1600, 1.5),
    "v5p": _tpu("TPU v5p", 459, 2765, 4800, None),
    "v6e": _tpu("TPU v6e", 918, 1640, 3584, 1.75),
}
# Published for the SXM board, dense: 989 TFLOP/s in bfloat16, 495 in TF32, which XLA uses for float32 unless asked for
# 'highest', 67 in float32; 3.35 TB/s; NVLink 450 GB/s one way. That products reach 80 % of their peaks and passes over
# memory 90 % of theirs are assumptions, and so are 3 us for a kernel's launch.
_H100_FLOPS = {"bfloat16": 790e12, "default": 395e12, "high": 395e12, "highest": 54e12}
_H100 = Chip("NVIDIA H100 SXM", _H100_FLOPS, 3.0e12, 450e9, launch_seconds=3e-6)

# Keep libtpu from its lock file, of which there is one a machine, and from asking for the machine that it is not on.
_LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclass(frozen=True)
class Target:
    """Devices to compile for: their platform, what each can do, and a mesh over them as a training run makes it."""

    platform: str
    chip: Chip
    mesh: Mesh


def target(platform: str, topology: str) -> Target:
    """The devices of a topology.

    Args:
      platform: 'tpu', or 'cuda' for H100s.
      topology: of TPUs the generation and the chips along each axis, 'v5e:2x2' or 'v5p:2x2x1'; of GPUs
        partitions x hosts x GPUs of a host, '1x1x8'.

    Raises:
      UserError: there is no such platform or topology, or the compiler's wheels are not installed.
    """
    check(platform, topology)
    try:
        if platform == "tpu":
            for name, value in _LIBTPU.items():
                os.environ.setdefault(name, value)
            described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
            chip = _TPUS[topology.split(":")[0]]
        else:
            described = topologies.get_topology_desc(
                platform="cuda", topology_name="", target_config=H100.read_text(), topology=topology
            )
            chip = _H100
    except Exception as error:  # jax.errors.JaxRuntimeError and others, with the reason in the first line
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"--topology={topology} cannot be described for {platform}: {reason}.") from error
    devices: list[Any] = sorted(described.devices, key=lambda device: (device.process_index, device.id))
    return Target(platform, chip, Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,)))


def check(platform: str, topology: str) -> None:
    """Raises UserError for what `target` would refuse, as far as that can be seen without loading a compiler."""
    if platform not in PLATFORMS:
        raise UserError(f"--platform={platform}: there is no such platform; choose from {', '.join(PLATFORMS)}.")
    if platform == "tpu":
        if not re.fullmatch(rf"({'|'.join(_TPUS)}):[1-9]\d*(x[1-9]\d*){{1,2}}", topology):
            raise UserError(
                f"--topology={topology} is no topology of TPUs: give a generation ({', '.join(_TPUS)}) and its chips "
                "along each axis, for example v5e:1x1, v5e:2x2 or v5p:2x2x1."
            )
    elif not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", topology):
        raise UserError(
            f"--topology={topology} is no topology of GPUs: give partitions x hosts x GPUs of a host, for example "
            "1x1x1 or 1x1x8."
        )
    if not available(platform):
        raise UserError(
            f"--platform={platform} needs the compiler's wheels, and they are not installed: install "
            f"dcgan_jax[aot-{platform}] (see the notes in setup.cfg)."
        )


def available(platform: str) -> bool:
    """Whether the wheels that compile for a platform are installed."""
    modules = ("libtpu",) if platform == "tpu" else ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
    return any(map(_installed, modules))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def compile_for(devices: Target, function: Callable[..., Any], *arguments: jax.ShapeDtypeStruct) -> Any:
    """`function` of arrays of these shapes, compiled for the first device alone: a jax.stages.Compiled."""
    place = jax.sharding.SingleDeviceSharding(devices.mesh.devices.flat[0])
    placed = (jax.ShapeDtypeStruct(argument.shape, argument.dtype, sharding=place) for argument in arguments)
    return jax.jit(function).lower(*placed).compile()
