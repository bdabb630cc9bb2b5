"""Images per second of the real training step on random images, alone or beside a peer.

    python -m dcgan_jax.benchmark --config=configs/lsun.py --batch_size=64 --iterations=10 --peer=torch --output=F.json

Every system runs in a process of its own and keeps its memory and compiled programs. In each round, all of them take
their turn: a step, or as many as fill a second. Ratios are taken within a round, so that whatever else slows the
machine down slows both sides; the table and the JSON give medians over rounds. A TPU's chips are held by one process:
there, and with --one_by_one (for memory that does not suffice for all), a system ends before the next one starts.

Each process says what it computed on. One that does not compute on the accelerator that the machine has (or that
JAX_PLATFORMS or --platform names) is an error.

--peer=torch trains the same networks in PyTorch (torch_peer.py): in float32 and bfloat16, eager and by torch.compile,
and on a CPU with and without our settings of the heap. This package runs in both precisions beside it. A variant of
PyTorch that is more than 10 % slower than another of its precision is dropped after a trial (contest.py), and one that
does not start is skipped; the JSON lists both. `ratio` compares our best with the peer's best.

--peer=lax is this package with XLA's own convolutions, in the config's precision. --scaling adds runs at other batch
sizes and widths, and a plot beside the JSON.

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
from dcgan_jax.benchmark import devices, matrix_product, variants
from dcgan_jax.benchmark.contest import Contest, ratio, ratios, speeds
from dcgan_jax.benchmark.system import System
from dcgan_jax.benchmark.variants import PRECISIONS, Variant
from dcgan_jax.config import check_config, need_decided
from dcgan_jax.machine import files, processor
from dcgan_jax.nets import flops

# Factors on batch size and width that --scaling goes through.
_SCALING_BATCH = (0.25, 0.5, 1.0, 2.0)
_SCALING_WIDTH = (0.25, 0.5, 1.0)


def measure(
    config: ConfigDict, peer: str | None, rounds: int, *, platform: str | None = None, one_by_one: bool = False
) -> dict[str, Any]:
    """Measures the training step beside a peer's, and matrix products.

    Args:
      config: see configs/default.py; batch_size is the measured one.
      peer: one of PEERS, or None.
      rounds: how often every system takes its turn.
      platform: 'cpu', 'gpu' or 'tpu': what all compute on; None: what the first one does.
      one_by_one: one process at a time, which has all its turns; always on a TPU.

    Returns:
      What --output writes, see docs/performance.md.

    Raises:
      UserError: config.precision is 'auto', or config.model.width 0; a peer is not installed, or cannot train these
        networks; or a system does not compute on `platform`.
    """
    need_decided(config)
    precisions = PRECISIONS if peer == "torch" else (config.precision,)
    contest = Contest(config, rounds, platform, one_by_one)
    for variant in variants.of_ours(precisions):
        ours = contest.add(variant)
    found = ours.facts.platform
    if peer:
        contest.add_fastest(variants.of_peer(peer, config.precision, found))
    streamed = contest.add(Variant("streamed_input", config.precision))
    libraries = ("jax", "torch") if peer == "torch" else ("jax",)
    products = {
        library: {precision: contest.add(Variant(f"{library}_product", precision)) for precision in precisions}
        for library in libraries
    }
    contest.run()
    trained = [system for system in contest.systems if system.variant.system in ("dcgan_jax", peer)]
    per_image = flops.flops_per_image(config)
    return {
        "device": ours.facts.device,
        "platform": found,
        "processor": processor.description(),
        "one_by_one": contest.one_by_one,
        "batch_size": config.batch_size,
        "rounds": rounds,
        "streamed_images_per_second": statistics.median(speeds(streamed, config.batch_size)),
        "activation_bytes": flops.activation_bytes_per_image(config) * config.batch_size,
        "flops_per_image": per_image,
        "gemm_flops": {
            library: {
                precision: matrix_product.flops(found, statistics.median(product.seconds))
                for precision, product in of_library.items()
            }
            for library, of_library in products.items()
        },
        "systems": [_row(system, config.batch_size, per_image) for system in trained],
        "dropped": contest.dropped,
        "skipped": contest.skipped,
        **(_compare(trained, peer) if peer else {}),
    }


def _row(system: System, batch_size: int, flops_per_image: float) -> dict[str, Any]:
    found = speeds(system, batch_size)
    return {
        **system.variant.described(),
        "settings": system.facts.settings,
        "images_per_second": statistics.median(found),
        "images_per_second_min": min(found),
        "images_per_second_max": max(found),
        "achieved_flops": flops_per_image * statistics.median(found),
        "compile_seconds": system.facts.compile_seconds,
        "peak_memory_bytes": system.peak_bytes,
    }


def _compare(systems: Sequence[System], peer: str) -> dict[str, Any]:
    """The fastest of ours and of the peer, and how many times as fast ours is: of all, and in each precision."""
    by_precision = {
        precision: _fastest([system for system in systems if system.variant.precision == precision], peer)
        for precision in dict.fromkeys(system.variant.precision for system in systems if system.variant.system == peer)
    }
    ours, theirs = _fastest(systems, peer)
    found = ratios(ours, theirs)
    return {
        "peer": peer,
        "best": {system.variant.system: system.variant.described() for system in (ours, theirs)},
        "ratio": statistics.median(found),
        "ratio_min": min(found),
        "ratio_max": max(found),
        "ratios": {precision: ratio(*pair) for precision, pair in by_precision.items()},
    }


def _fastest(systems: Sequence[System], peer: str) -> tuple[System, System]:
    """The fastest of ours and of the peer."""
    by_speed = sorted(systems, key=lambda system: statistics.median(system.seconds))
    ours, theirs = (next(s for s in by_speed if s.variant.system == name) for name in ("dcgan_jax", peer))
    return ours, theirs


def scaling(
    config: ConfigDict, rounds: int, *, platform: str | None = None, one_by_one: bool = False
) -> list[dict[str, Any]]:
    """What `measure` finds without a peer at other batch sizes, then at other widths."""
    batches = [max(1, round(config.batch_size * factor)) for factor in _SCALING_BATCH]
    widths = [config.model.width * factor for factor in _SCALING_WIDTH]
    runs = [(batch, config.model.width) for batch in batches] + [(config.batch_size, width) for width in widths[:-1]]
    results = []
    for batch, width in runs:
        changed = config.copy_and_resolve_references()
        changed.batch_size, changed.model.width = batch, width
        result = measure(changed, None, rounds, platform=platform, one_by_one=one_by_one)
        (ours,) = result["systems"]
        sizes = {name: result[name] for name in ("batch_size", "flops_per_image", "activation_bytes")}
        results.append({"width": width, **sizes, **ours})
    return results


def table(result: dict[str, Any]) -> str:
    """What a person wants to see of a result, as text."""
    machine = result["processor"]
    lines = [
        f"device        {result['device']}, {result['batch_size']} images a step",
        f"processor     {machine['model']}, cores: {machine['cores']}, {' '.join(machine['flags'])}",
        f"input         {result['streamed_images_per_second']:,.0f} images/s, streamed, without the step",
        f"step          {result['flops_per_image'] / 1e9:.2f} GFLOP an image, by definition",
    ]
    for library, rates in result["gemm_flops"].items():
        words = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {precision}" for precision, rate in rates.items())
        lines.append(f"{'products':13} {words}, {library}")
    for row in result["systems"]:
        product = result["gemm_flops"]["torch" if row["system"] == "torch" else "jax"][row["precision"]]
        lines += [
            f"{row['system']:13} {row['images_per_second']:.1f} images/s ({row['images_per_second_min']:.1f} to "
            f"{row['images_per_second_max']:.1f}), {row['precision']}, {row['variant']}",
            f"              {row['settings']}; first step after {row['compile_seconds']:.1f} s, peak memory "
            f"{row['peak_memory_bytes'] / 1e9:.2f} GB",
            f"              {row['achieved_flops'] / 1e9:.0f} GFLOP/s, {row['achieved_flops'] / product:.0%} of a "
            "matrix product's",
        ]
    for row in result["dropped"]:
        lines.append(
            f"dropped       {_named(row)}: {row['images_per_second']:.1f} images/s in its trial, "
            f"{row['share']:.0%} of the fastest"
        )
    lines += [f"skipped       {_named(row)}: {row['reason']}" for row in result["skipped"]]
    if "ratio" in result:
        ours, theirs = result["best"].values()
        each = ", ".join(f"{precision} {found:.2f}" for precision, found in result["ratios"].items())
        lines.append(
            f"best          {_named(ours)} is {result['ratio']:.2f} times as fast ({result['ratio_min']:.2f} to "
            f"{result['ratio_max']:.2f}) as {_named(theirs)}; {each}"
        )
    for row in result.get("scaling", ()):
        lines.append(
            f"batch {row['batch_size']:4}, width {row['width']:5.3g}   {row['images_per_second']:8.1f} images/s   "
            f"{row['achieved_flops'] / 1e9:5.0f} GFLOP/s   peak {row['peak_memory_bytes'] / 1e9:.2f} GB"
        )
    return "\n".join(lines)


def _named(row: dict[str, Any]) -> str:
    return f"{row['system']} ({row['precision']}, {row['variant']})"


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
    _PEER = flags.DEFINE_enum("peer", None, variants.PEERS, "A system to run beside ours.")
    _PLATFORM = flags.DEFINE_enum("platform", None, devices.PLATFORMS, "What to measure; default: the best there is.")
    _ONE_BY_ONE = flags.DEFINE_bool("one_by_one", False, "One system after the other, as on a TPU; not in rounds.")
    _SCALING = flags.DEFINE_bool("scaling", False, "Also sweep batch size and width, and plot it beside --output.")
    flags.mark_flag_as_required("config")
    command_line.run(main)
