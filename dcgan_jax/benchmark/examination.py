"""What `gpu_check` looks at in a process of its own: is the step right on this device, what was compiled, what is slow.

A process of its own, as nothing else can use a TPU while it lives, and as a crash must not take the report along.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from dcgan_jax import machine
from dcgan_jax.benchmark import devices
from dcgan_jax.benchmark.worker import POOL_BATCHES, JaxTrainer
from dcgan_jax.config import from_json
from dcgan_jax.machine.mesh import AXIS, make_mesh, replicate, replicated, shard_batches
from dcgan_jax.nets import flops
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.train_state import GANState, build_gan, create_state
from dcgan_jax.train_step import make_mapped_step, train_step

Part = dict[str, Any]

# Largest relative difference of a tensor that is still rounding, in float32: of what the first player computes, whose
# inputs are equal, and of what the second does, whose opponent took a step of Adam, which enlarges small differences.
LIMITS = {"first_update": 1e-3, "second_update": 0.1}
# Kernels of the profile that are listed, and calls that are profiled.
_TOP_KERNELS, _PROFILED_CALLS = 15, 5


def serve(connection: Connection, expected: str | None, configs: dict[str, str], seconds: float) -> None:
    """Sends (name of a part, its result) for each part, and None at the end.

    A part that fails sends {'failed': reason}, one for which no time is left {'skipped': reason}.

    Args:
      connection: to the process that asks.
      expected: 'cpu', 'gpu' or 'tpu'; the part 'device' fails on any other, and ends it. None: any.
      configs: as JSON: 'small', of float32 networks whose step is compared, and 'step', the one that is compiled.
      seconds: all parts together may take about this long.
    """
    devices.prepare(expected)
    machine.set_up()
    end = time.monotonic() + seconds
    small, step = from_json(configs["small"]), from_json(configs["step"])
    parts: list[tuple[str, Callable[[], Part], float]] = [
        ("device", partial(_device, expected), 0),
        ("jit_and_cpu", partial(compare_with_cpu, small), 20),
        ("compiled", partial(compiled, step), 30),
        ("profile", partial(profile, step), 30),
        ("jit_and_eager", partial(compare_with_eager, small), 60),
    ]
    for name, make, needed in parts:
        left = end - time.monotonic()
        if left < needed:
            connection.send((name, {"skipped": f"{left:.0f} s were left; it needs about {needed:.0f}"}))
            continue
        start = time.monotonic()
        try:
            result = make()
        except Exception as error:  # whatever a new card brings: the other parts are worth having
            result = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        connection.send((name, result | {"seconds": round(time.monotonic() - start, 1)}))
        if name == "device" and "failed" in result:
            break
    connection.send(None)


# --- The device ------------------------------------------------------------------------------------------------------


def _device(expected: str | None) -> Part:
    found = devices.found_platform("dcgan_jax")
    devices.check("dcgan_jax", expected, found)
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": found,
        "devices": jax.device_count(),
        "memory_bytes": memory(device).get("bytes_limit"),
        "driver": _driver(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "plugins": _plugins(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }


def memory(device: jax.Device) -> dict[str, int]:
    """`Device.memory_stats`, in bytes; {} where there are none, as on the CPU."""
    return dict(device.memory_stats() or {})


def _plugins() -> list[str]:
    """Packages through which JAX reaches an accelerator, with their versions."""
    found = {
        (distribution.metadata["Name"], distribution.version)
        for distribution in importlib.metadata.distributions()
        if re.match(r"jax-(cuda|rocm)|libtpu|nvidia-cudnn", str(distribution.metadata["Name"]))
    }
    return [f"{name} {version}" for name, version in sorted(found)]


def _driver() -> str:
    """The NVIDIA driver's version; '' without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    return lines[0].strip() if lines else ""


# --- Is it right? ----------------------------------------------------------------------------------------------------


def compare_with_cpu(config: ConfigDict) -> Part:
    """The compiled step on the first device beside the one on this machine's CPU; see `differences`."""
    device = jax.devices()[0]
    with jax.default_matmul_precision("highest"):
        here = _jitted(config, device)
        there = _jitted(config, jax.local_devices(backend="cpu")[0])
    return differences(here, there) | _of(config, device) | {"precision": "float32, matmul precision highest"}


def compare_with_eager(config: ConfigDict) -> Part:
    """The compiled step on the first device beside its operations one by one there; see `differences`.

    Both with XLA's own convolutions, whose operations are few.
    """
    device, config = jax.devices()[0], config.copy_and_resolve_references()
    config.conv = "lax"
    with jax.default_matmul_precision("highest"):
        here = _jitted(config, device)
        with jax.disable_jit(), jax.default_device(device):
            step = jax.vmap(partial(train_step, build_gan(config)), in_axes=(None, 0), axis_name=AXIS)
            state, metrics = step(_fresh(config), {"image": jnp.asarray(_images(config)[None])})
    there = jax.tree.map(lambda values: np.asarray(values)[0], (state, metrics))
    return differences(here, there) | _of(config, device) | {"precision": "float32, matmul precision highest"}


def differences(here: tuple[GANState, Part], there: tuple[GANState, Part]) -> Part:
    """How far the results of one step from the same start are apart.

    Compared are metrics, gradients (Adam's first moments are multiples of them after one step) and running averages.
    The relative difference of a tensor is the largest absolute difference over the largest absolute value.

    Args:
      here, there: state and metrics of `train_step` in the order 'discriminator_first', as NumPy arrays.

    Returns:
      'first_update' (of the discriminator) and 'second_update': {'largest': relative difference, 'tensor': of which};
      'ok': whether both are within LIMITS.
    """
    worst: dict[str, Part] = {}
    for update, player, letter in (("first_update", "discriminator", "d"), ("second_update", "generator", "g")):
        trees: list[Part] = []
        for state, metrics in (here, there):
            one = getattr(state, player)
            named = {name: value for name, value in metrics.items() if name.startswith(f"{letter}_")}
            trees.append({"metrics": named, "moments": _first_moments(one.opt_state), "averages": one.batch_stats})
        pairs = zip(jax.tree_util.tree_leaves_with_path(trees[0]), jax.tree.leaves(trees[1]), strict=True)
        found = [(_relative(a, b), jax.tree_util.keystr(path)) for (path, a), b in pairs]
        largest, tensor = max(found)
        worst[update] = {"largest": largest, "tensor": tensor}
    return {**worst, "ok": all(worst[update]["largest"] <= limit for update, limit in LIMITS.items())}


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    """Infinite if either holds what is not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def _first_moments(opt_state: Any) -> Any:
    """The `mu` of Adam's state, wherever it is in the chain."""
    return [part.mu for part in jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu")]


def _jitted(config: ConfigDict, device: jax.Device) -> tuple[GANState, Part]:
    mesh = Mesh(np.array([device]), (AXIS,), axis_types=(AxisType.Auto,))
    step = make_mapped_step(build_gan(config), mesh, "shard_map")
    batch = shard_batches(mesh, "shard_map", {"image": _images(config)[None]})
    state, metrics = step(replicate(mesh, _fresh(config)), {}, batch)
    return jax.tree.map(np.array, (state, metrics))


def _fresh(config: ConfigDict) -> GANState:
    """The state before the first step, made on the CPU: the same bits for every device."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        state: GANState = jax.jit(partial(create_state, build_gan(config)))()
    return jax.tree.map(np.array, state)


def _images(config: ConfigDict) -> np.ndarray:
    shape = (config.batch_size, *image_shape(config.data))
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _of(config: ConfigDict, device: jax.Device) -> Part:
    """What a figure must be read with."""
    about = {"device": device.device_kind, "jax": jax.__version__, "precision": config.precision}
    return about | {"batch_size": config.batch_size, "width": config.model.width}


# --- What was compiled -----------------------------------------------------------------------------------------------


def compiled(config: ConfigDict) -> Part:
    """Times of tracing and compiling the step as training calls it on a resident pack, and what is in the program.

    Returns:
      'lower_seconds', 'compile_seconds' (without a compiled program in a cache only if its folder is new); 'calls', see
      `library_calls`; 'temporary_bytes' and 'argument_bytes' of the program.
    """
    mesh = make_mesh(config.batch_size)
    gan = build_gan(config)
    everywhere = replicated(mesh)
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        jax.eval_shape(partial(create_state, gan)),
    )
    shape = (POOL_BATCHES * config.batch_size, *gan.generator.image_shape)
    pack = {"image": jax.ShapeDtypeStruct(shape, np.uint8, sharding=everywhere)}
    index = np.zeros((max(1, config.steps_per_call), config.batch_size), np.int32)
    calls = shard_batches(mesh, "shard_map", {"index": index})
    step: Any = make_mapped_step(gan, mesh, "shard_map")
    start = time.perf_counter()
    lowered = step.lower(state, pack, calls)
    middle = time.perf_counter()
    program = lowered.compile()
    end = time.perf_counter()
    sizes = program.memory_analysis()
    return {
        **_of(config, mesh.devices.flat[0]),
        "steps_per_call": len(index),
        "lower_seconds": round(middle - start, 2),
        "compile_seconds": round(end - middle, 2),
        "calls": library_calls(program.as_text() or ""),
        "temporary_bytes": getattr(sizes, "temp_size_in_bytes", None),
        "argument_bytes": getattr(sizes, "argument_size_in_bytes", None),
        "flops_by_definition": flops.flops_per_image(config) * config.batch_size * len(index),
    }


def library_calls(hlo: str) -> dict[str, int]:
    """How often an optimised program calls what computes its convolutions and products, by kind, the most first.

    Custom calls of cuDNN and cuBLAS are named by their targets ('__cudnn$convForward'); XLA's own instructions are
    'convolution' and 'dot'.
    """
    targets = re.findall(r'custom_call_target="(__(?:cudnn|cublas|onednn)[^"]*)"', hlo)
    own = re.findall(r"= \S+ (convolution|dot)\(", hlo)
    return dict(Counter([*targets, *own]).most_common())


# --- What is slow ----------------------------------------------------------------------------------------------------


def profile(config: ConfigDict) -> Part:
    """The kernels that take the longest in a few calls of the step: names, calls, and shares of the time of all."""
    from jax.profiler import ProfileData

    trainer = JaxTrainer(config)
    per_call = max(1, config.steps_per_call)
    trainer.run(3 * per_call)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            steps = trainer.run(_PROFILED_CALLS * per_call)
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = ProfileData.from_file(str(file))
    found = top_kernels(data.planes, steps)
    if not found["kernels"]:
        return {"skipped": "the profiler gives no kernels of this device"}
    return _of(config, jax.devices()[0]) | {"steps_per_call": per_call} | found


def top_kernels(planes: Iterable[Any], steps: int) -> Part:
    """The longest kernels of a profile of so many steps.

    Args:
      planes: of `jax.profiler.ProfileData`; those of devices count. Of a GPU's lines, those of streams hold what ran;
        of a TPU's, 'XLA Ops'. The other lines sum these up again.
      steps: that were profiled.

    Returns:
      'ms_a_step', of all kernels, and 'kernels', the longest first: 'kernel', 'calls_a_step', 'ms_a_step', 'share'.
    """
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for line in (line for plane in planes if plane.name.startswith("/device:") for line in plane.lines):
        if line.name.startswith("Stream") or line.name == "XLA Ops":
            for event in line.events:
                times[event.name] += event.duration_ns
                calls[event.name] += 1
    total = sum(times.values())
    kernels = [
        {"kernel": name[:160], "calls_a_step": calls[name] / steps, "ms_a_step": ns / steps / 1e6, "share": ns / total}
        for name, ns in times.most_common(_TOP_KERNELS)
    ]
    return {"ms_a_step": total / steps / 1e6, "kernels": kernels}
