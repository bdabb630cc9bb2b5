"""Images per second of the real training step on random images, alone or beside a peer.

    python -m dcgan_jax.benchmark --config=configs/lsun.py --batch_size=64 --iterations=10 --peer=torch --output=F.json

Every system runs in a process of its own and keeps its memory and compiled programs. In each round, all of them take
their turn: a step, or as many as fill a second. Ratios are taken within a round, so that whatever else slows the
machine down slows both sides; the table and the JSON give medians over rounds. A TPU's chips are held by one process:
there, and with --one_by_one (for memory that does not suffice for all), a system ends before the next one starts.

Each process says what it computed on. One that does not compute on the accelerator that the machine has (or that
JAX_PLATFORMS or --platform names) is an error.

Peers: 'torch' trains the same networks in PyTorch (torch_peer.py); 'lax' is this package with XLA's own
convolutions. --scaling adds runs at other batch sizes and widths, and a plot beside the JSON.

Needs neither a data set nor tensorflow, tensorflow-datasets, clu or grain. PyTorch: pip install -e '.[bench]'.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line
from dcgan_jax.benchmark import devices, worker
from dcgan_jax.benchmark.system import System
from dcgan_jax.config import check_config
from dcgan_jax.machine import files
from dcgan_jax.nets import flops

PEERS = ("torch", "lax")
# Factors on batch size and width that --scaling goes through.
_SCALING_BATCH = (0.25, 0.5, 1.0, 2.0)
_SCALING_WIDTH = (0.25, 0.5, 1.0)


def measure(
    config: ConfigDict, peers: Sequence[str], rounds: int, *, platform: str | None = None, one_by_one: bool = False
) -> dict[str, Any]:
    """Measures the training step beside its peers and a matrix product.

    Args:
      config: see configs/default.py; batch_size is the measured one.
      peers: names from PEERS; the first one is the peer of the JSON's `peer_...` and `ratio`.
      rounds: how often every system takes its turn.
      platform: 'cpu', 'gpu' or 'tpu': what all compute on; None: what the first one does.
      one_by_one: one process at a time, which has all its turns; always on a TPU.

    Returns:
      What --output writes, see docs/performance.md.

    Raises:
      UserError: a peer is not installed, or cannot train these networks; or a system does not compute on `platform`.
    """
    systems = _take_turns(
        ("dcgan_jax", *peers, "streamed_input", "matrix_product"), config, rounds, platform, one_by_one
    )
    ours, *others, streamed, product = systems
    speeds = [config.batch_size / seconds for seconds in ours.seconds]
    speed = statistics.median(speeds)
    per_image = flops.flops_per_image(config)
    result = {
        "images_per_second": speed,
        "images_per_second_min": min(speeds),
        "images_per_second_max": max(speeds),
        "settings": ours.facts.settings,
        "device": ours.facts.device,
        "platform": ours.facts.platform,
        "one_by_one": one_by_one or ours.facts.platform == "tpu",
        "batch_size": config.batch_size,
        "rounds": rounds,
        "streamed_images_per_second": statistics.median(config.batch_size / seconds for seconds in streamed.seconds),
        "compile_seconds": ours.facts.compile_seconds,
        "peak_memory_bytes": ours.peak_bytes,
        "activation_bytes": flops.activation_bytes_per_image(config) * config.batch_size,
        "flops_per_image": per_image,
        "achieved_flops": per_image * speed,
        "gemm_flops": statistics.median(
            2 * worker.matrix_size(product.facts.platform) ** 3 / seconds for seconds in product.seconds
        ),
    }
    rows = [
        {
            "peer": peer.name,
            "peer_images_per_second": statistics.median(config.batch_size / seconds for seconds in peer.seconds),
            "ratio": statistics.median(b / a for a, b in zip(ours.seconds, peer.seconds, strict=True)),
            "peer_settings": peer.facts.settings,
            "peer_device": peer.facts.device,
            "peer_platform": peer.facts.platform,
            "peer_peak_memory_bytes": peer.peak_bytes,
        }
        for peer in others
    ]
    if rows:
        result |= rows[0]
        result["peers"] = rows
    return result


def _take_turns(
    names: Sequence[str], config: ConfigDict, rounds: int, platform: str | None, one_by_one: bool
) -> list[System]:
    """The systems, measured and stopped; see `measure`."""
    systems = list[System]()
    for name in names:
        system = System(name, config, platform)
        platform = platform or system.facts.platform
        systems.append(system)
        if one_by_one or platform == "tpu":
            for _ in range(rounds):
                system.take_turn()
            system.stop()
    if not (one_by_one or platform == "tpu"):
        for _ in range(rounds):
            for system in systems:
                system.take_turn()
        for system in systems:
            system.stop()
    return systems


def scaling(
    config: ConfigDict, rounds: int, *, platform: str | None = None, one_by_one: bool = False
) -> list[dict[str, Any]]:
    """`measure` without peers at other batch sizes, then at other widths."""
    batches = [max(1, round(config.batch_size * factor)) for factor in _SCALING_BATCH]
    widths = [config.model.width * factor for factor in _SCALING_WIDTH]
    runs = [(batch, config.model.width) for batch in batches] + [(config.batch_size, width) for width in widths[:-1]]
    results = []
    for batch, width in runs:
        changed = config.copy_and_resolve_references()
        changed.batch_size, changed.model.width = batch, width
        results.append({"width": width, **measure(changed, (), rounds, platform=platform, one_by_one=one_by_one)})
    return results


def table(result: dict[str, Any]) -> str:
    """What a person wants to see of a result, as text."""
    share = result["achieved_flops"] / result["gemm_flops"]
    lines = [
        f"device        {result['device']}, {result['batch_size']} images a step",
        f"dcgan_jax     {result['images_per_second']:.1f} images/s "
        f"({result['images_per_second_min']:.1f} to {result['images_per_second_max']:.1f}), {result['settings']}",
        f"              first step after {result['compile_seconds']:.1f} s, "
        f"peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB",
        f"              {result['achieved_flops'] / 1e9:.0f} GFLOP/s by definition "
        f"({result['flops_per_image'] / 1e9:.2f} GFLOP an image), {share:.0%} of a matrix product's",
        f"input         {result['streamed_images_per_second']:,.0f} images/s, streamed, without the step",
    ]
    for row in result.get("peers", ()):
        lines.append(
            f"{row['peer']:13} {row['peer_images_per_second']:.1f} images/s, {row['peer_settings']}: "
            f"dcgan_jax is {row['ratio']:.2f} times as fast"
        )
    for row in result.get("scaling", ()):
        lines.append(
            f"batch {row['batch_size']:4}, width {row['width']:5.3g}   {row['images_per_second']:8.1f} images/s   "
            f"{row['achieved_flops'] / 1e9:5.0f} GFLOP/s   peak {row['peak_memory_bytes'] / 1e9:.2f} GB"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws how speed and memory grow with the arithmetic of a step, from the rows of `scaling`, into a PNG file."""
    from matplotlib import pyplot as plt  # which the benchmark does without otherwise

    from dcgan_jax.reports import plots

    figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for row in rows:
        work = row["flops_per_image"] * row["batch_size"] / 1e9
        label = f"batch {row['batch_size']}, width {row['width']:.3g}"
        speed.plot(work, row["batch_size"] / row["images_per_second"], "o", label=label)
        memory.plot(row["activation_bytes"] / 1e9, row["peak_memory_bytes"] / 1e9, "o")
    speed.set(xscale="log", yscale="log", xlabel="GFLOP per step, by definition", ylabel="seconds per step")
    memory.set(xlabel="activations of a step (GB)", ylabel="peak memory (GB)", xlim=(0, None), ylim=(0, None))
    for axes in (speed, memory):
        axes.grid(which="both", alpha=0.2)
    speed.legend(fontsize="small")
    files.write_atomically(path, plots.png(figure))


def main() -> None:
    config = _CONFIG.value
    if _BATCH_SIZE.value:
        config.batch_size = _BATCH_SIZE.value
    check_config(config)
    platform = _PLATFORM.value or devices.expected_platform()
    settings: dict[str, Any] = {"platform": platform, "one_by_one": _ONE_BY_ONE.value}
    result = measure(config, _PEER.value, _ITERATIONS.value, **settings)
    if _SCALING.value:
        result["scaling"] = scaling(config, _ITERATIONS.value, **settings)
    print(table(result))
    if _OUTPUT.value:
        output = Path(_OUTPUT.value)
        files.write_atomically(output, (json.dumps(result, indent=2) + "\n").encode())
        if _SCALING.value:
            plot(result["scaling"], output.with_suffix(".png"))


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "File with the run's configuration.", lock_config=True)
    _BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images per step; default: the config's.", lower_bound=1)
    _ITERATIONS = flags.DEFINE_integer("iterations", 10, "Rounds; a step or more of each system.", lower_bound=1)
    _OUTPUT = command_line.define_path("output", None, "JSON file for the result.")
    _PEER = flags.DEFINE_multi_enum("peer", [], PEERS, "A system to run beside ours; may be given twice.")
    _PLATFORM = flags.DEFINE_enum("platform", None, devices.PLATFORMS, "What to measure; default: the best there is.")
    _ONE_BY_ONE = flags.DEFINE_bool("one_by_one", False, "One system after the other, as on a TPU; not in rounds.")
    _SCALING = flags.DEFINE_bool("scaling", False, "Also sweep batch size and width, and plot it beside --output.")
    flags.mark_flag_as_required("config")
    command_line.run(main)
