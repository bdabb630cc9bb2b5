"""What a compiler makes of the real training step for hardware that is not there: work, traffic, memory, estimates.

    python -m dcgan_jax.benchmark.compile_report --config=configs/lsun.py --platform=cuda
    python -m dcgan_jax.benchmark.compile_report --config=configs/cifar10.py --config.precision=bfloat16 \
        --platform=tpu --topology=v5e:2x2 --steps_per_call=50 --examples=50000 --out=report.json

compiles ahead of time and reads the optimised program. It needs the compiler's wheels, extra `aot-tpu` or `aot-cuda`,
and no accelerator. The paper's network takes one to ten minutes on two cores; small ones take seconds.

Exact, for this version of the compiler:

- convolutions by form, and matrix products, those that stand for convolutions by themselves; their floating-point
  operations against the definition's (`nets/flops.py`). `hlo.py` says how they are counted. More than the definition
  means that the compiler multiplies zeros. Products of a matrix and a vector are left out: GPUs have no call for them.
- maps that are copied, padded, transposed or reversed by a kernel that does nothing else, or unfolded for a matrix
  product; what goes in and out of these kernels, in whichever memory.
- collectives, donated bytes, the compiler's own numbers of memory.

Estimates, so named in the output, which rank programs and are no speeds:

- the roofline: a kernel takes as long as its bytes or its operations, whichever are slower at the rates of `aot.py`;
  collectives as long as a ring's bytes over all links; every kernel on a GPU also 3 us for its launch.
- on TPUs the compiler's own `estimated_cycles` at the chip's clock. It gives none for collectives and asynchronous
  copies between memories.

Numbers are of one device and one step, except images per second, which are those of all devices. The step is that of
`mapper='shard_map'`; the state is replicated, batches are split. With --examples, or more than one step a call, the
images are a pack on the device and batches are indices.
"""

import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict, config_flags

from dcgan_jax import command_line
from dcgan_jax.benchmark import aot, hlo
from dcgan_jax.config import check_config
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import AXIS, replicated
from dcgan_jax.nets import flops, models
from dcgan_jax.nets.shapes import image_shape
from dcgan_jax.train_state import build_gan, create_state
from dcgan_jax.train_step import make_mapped_step

TOPOLOGIES = {"tpu": "v5e:1x1", "cuda": "1x1x1"}
FOR_CONVOLUTIONS, DENSE = "product for a convolution", "dense product"
KINDS = (*hlo.CONVOLUTIONS, FOR_CONVOLUTIONS, DENSE)
# Shapes and dtypes by name.
Shapes = dict[str, tuple[tuple[int, ...], Any]]
# Of the columns of `table`, in characters.
_WIDTHS = (8, 12, 14, 14, 25)


def report(
    config: ConfigDict,
    platform: str,
    topology: str,
    steps_per_call: int = 1,
    examples: int | None = None,
    text_file: Path | None = None,
) -> dict[str, Any]:
    """Compiles the training step of a config and counts.

    Args:
      config: that of the run; batch_size is the global one.
      platform, topology: see `aot.target`.
      steps_per_call: training steps that a call makes.
      examples: images of the pack on the device; None: as many as a call uses, or a streamed batch if it makes one
        step.
      text_file: where the optimised program goes as text; None: nowhere.

    Returns:
      What --out writes, of one device and one step: 'flops' (compiled, the definition's, and their ratio), 'work' (by
      KINDS), 'moves' (by hlo.MOVES), 'collectives', 'memory', 'layers', 'estimate'; and 'kernels', of one run of each.
      Bytes and floating-point operations; seconds where the name says that they are an estimate.

    Raises:
      UserError: the config, platform or topology cannot be used, the compiler's wheels are not installed, the batch
        cannot be split evenly, or the program does not fit into the device's memory.
    """
    check_config(config)
    height, width, _ = image_shape(config.data)
    if height != width:
        raise UserError(
            f"this report is for square images only, and these are {height} x {width}: set --config.data.image_width=0."
        )
    aot.check(platform, topology)
    if steps_per_call < 1:
        raise UserError(f"--steps_per_call={steps_per_call}: it must be at least 1.")
    target = aot.target(platform, topology)
    devices = target.mesh.size
    if config.batch_size % devices:
        raise UserError(
            f"batch_size {config.batch_size} is not divisible by the {devices} devices of {topology}: set --batch_size "
            f"to a multiple of {devices}."
        )
    if examples is None and steps_per_call > 1:
        examples = steps_per_call * config.batch_size
    start = time.monotonic()
    compiled = compile_step(config, target, steps_per_call, examples)
    seconds = time.monotonic() - start
    text = compiled.as_text()
    if text_file:
        files.write_atomically(text_file, text.encode())
    settings = {
        "config": {"image_size": config.data.image_size, "precision": config.precision, "conv": config.conv},
        "platform": platform,
        "topology": topology,
        "device": target.chip.name,
        "devices": devices,
        "jax": jax.__version__,
        "batch_size": config.batch_size,
        "steps_per_call": steps_per_call,
        "examples": examples or 0,
        "compile_seconds": seconds,
    }
    return settings | count(config, target, steps_per_call, text) | {"memory": _memory(config, compiled, text)}


def compile_step(config: ConfigDict, target: aot.Target, steps: int, examples: int | None) -> Any:
    """The training step for a target, a jax.stages.Compiled; arguments as of `report`."""
    gan = build_gan(config)
    whole, split = replicated(target.mesh), NamedSharding(target.mesh, P(None, AXIS))
    state = jax.eval_shape(partial(create_state, gan))
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), state)
    pack = {name: _placed(shape, whole) for name, shape in pack_shapes(config, examples or 0).items()}
    if examples:
        shapes: Shapes = {"index": ((steps, config.batch_size), np.int32)}
    else:
        streamed = _image_shapes(config, config.batch_size)
        shapes = {name: ((steps, *shape), dtype) for name, (shape, dtype) in streamed.items()}
    batches = {name: _placed(shape, split) for name, shape in shapes.items()}
    step: Any = make_mapped_step(gan, target.mesh, "shard_map")
    try:
        return step.lower(state, pack, batches).compile()
    except jax.errors.JaxRuntimeError as error:
        reason = (str(error).splitlines() or [""])[0][:300]
        if "RESOURCE_EXHAUSTED" not in reason:
            raise
        raise UserError(f"the program does not fit into the memory of a {target.chip.name}: {reason}") from error


def pack_shapes(config: ConfigDict, examples: int) -> Shapes:
    """Shapes and dtypes of the pack on the device, as `datasets.batches.Batches` makes it; {} without examples."""
    if not examples:
        return {}
    shapes = _image_shapes(config, examples)
    (count, *image), dtype = shapes["image"]
    return shapes | {"image": ((count, math.prod(image)), dtype)}


def _image_shapes(config: ConfigDict, count: int) -> Shapes:
    shapes: Shapes = {"image": ((count, *image_shape(config.data)), np.uint8)}
    if config.model.num_classes:
        shapes["label"] = ((count,), np.int32)
    return shapes


def _placed(shape: tuple[tuple[int, ...], Any], sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(*shape, sharding=sharding)


class Layer(NamedTuple):
    """A convolution of a network: its kernel's side, and side and features of both its maps, labels included."""

    player: str
    name: str
    kernel: int
    large: tuple[int, int]
    small: tuple[int, int]

    @property
    def output(self) -> tuple[int, int]:
        return self.large if self.player == "generator" else self.small

    def features(self, batch: int) -> list[tuple[int, ...]]:
        """`hlo.Work.features` of its convolutions, and of the matrix products that stand for them."""
        (_, large), (side, small) = self.large, self.small
        product = (batch * side * side, self.kernel**2 * large, small)
        return [tuple(sorted((batch, large, small) * 2)), tuple(sorted(product))]


def convolutions(config: ConfigDict) -> list[Layer]:
    """The convolutions of both networks, from noise to image and from image to logit."""
    generator, discriminator = models.build_generator(config), models.build_discriminator(config)
    size, channels, classes = config.data.image_size, config.data.channels, config.model.num_classes
    kernel, pooling = config.model.kernel_size, config.model.resampling == "pooling"
    found = []
    (side, _), widths = (
        models.first_sides((size, size), generator.stages),
        models.generator_widths(generator.stages, channels),
    )
    for i, ((features, stride), output) in enumerate(zip(generator.stages, widths[1:], strict=True), 1):
        small = side * stride if pooling else side
        side *= stride
        found.append(Layer("generator", f"deconv{i}", kernel, (side, output), (small, features + classes)))
    side, width = size, channels
    for i, (features, stride) in enumerate(discriminator.stages, 1):
        small = side if pooling else side // stride
        found.append(Layer("discriminator", f"conv{i}", kernel, (side, width + classes), (small, features)))
        side, width = side // stride, features
    return found


@dataclass
class Kernel:
    """A kernel of the compiled program. `times`: runs in a call. Bytes, operations, cycles and seconds are of one run.

    Attributes:
      bound: what its estimate follows from: 'compute', 'memory' or 'links'.
      overlapped: it moves data between memories while others run; its estimate is not part of the sum.
    """

    name: str
    layer: str
    times: int
    bytes: int
    flops: int
    estimated_cycles: int
    estimate_seconds: float
    bound: str
    overlapped: bool


def count(config: ConfigDict, target: aot.Target, steps: int, text: str) -> dict[str, Any]:
    """What `report` returns of a program's text alone; `steps` is how many a call makes."""
    return _Counter(config, target, steps, hlo.Module(text)).count()


class _Counter:
    """Counts in a compiled step, per device and step."""

    def __init__(self, config: ConfigDict, target: aot.Target, steps: int, module: hlo.Module) -> None:
        self.config, self.target, self.steps, self.module = config, target, steps, module
        self.batch = config.batch_size // target.mesh.size
        self.layers = convolutions(config)
        self.sides = {end for layer in self.layers for end in (layer.large, layer.small)}
        self.sides |= {(side, features - config.model.num_classes) for side, features in self.sides}

    def count(self) -> dict[str, Any]:
        """See the function `count`."""
        kernels: list[Kernel] = []
        work = {kind: {"count": 0.0, "flops": 0.0} for kind in KINDS}
        moves = {kind: {"count": 0.0, "bytes": 0.0, "estimate_seconds": 0.0} for kind in hlo.MOVES}
        collectives: dict[tuple[str, bool], dict[str, float]] = defaultdict(lambda: {"count": 0.0, "bytes": 0.0})
        for computation, line, times in self.module.kernels():
            found = self.module.work(computation, line, self.config.model.kernel_size)
            kernel = self._kernel(computation, line, times, found)
            kernels.append(kernel)
            for part in found:
                _add(work[self._kind(part)], times / self.steps, flops=part.flops)
            if move := self.module.move(computation, line, self.is_map):
                moved = sum(array.bytes for array in (*computation.operands(line), *line.arrays))
                seconds = self._compiler_seconds(kernel) or kernel.estimate_seconds
                _add(moves[move], times / self.steps, bytes=moved, estimate_seconds=seconds)
            if collective := self.module.collective(computation, line):
                _add(collectives[collective], times / self.steps, bytes=_reduced(computation, line))
        total = sum(kind["flops"] for kind in work.values())
        definition = flops.flops_per_image(self.config) * self.batch
        return {
            "flops": {"definition": definition, "compiled": total, "ratio": total / definition},
            "work": work,
            "moves": moves,
            "collectives": [
                {"kind": kind, "asynchronous": asynchronous, **numbers}
                for (kind, asynchronous), numbers in sorted(collectives.items())
            ],
            "layers": self._by_layer(kernels),
            "estimate": self._estimate(kernels),
            "kernels": [vars(kernel) for kernel in kernels],
        }

    def is_map(self, array: hlo.Array) -> bool:
        """Whether an array is a batch of some layer's maps, or images of the pack, in either order of the axes.

        So is a kernel that happens to have the same sides, as 4x4 kernels for 4x4 maps may.
        """
        images, *rest = array.sides or (0,)
        if array.element == "u8" and rest:
            size, channels = self.config.data.image_size, self.config.data.channels
            return sorted(rest) == sorted((size, size, channels)) or rest == [size * size * channels]
        if images % self.batch or len(rest) != 3:
            return False
        first, middle, last = rest
        return (first == middle and (first, last) in self.sides) or (middle == last and (middle, first) in self.sides)

    def _kernel(self, computation: hlo.Computation, line: hlo.Instruction, times: int, work: list[hlo.Work]) -> Kernel:
        chip = self.target.chip
        traffic = self.module.traffic(computation, line)
        seconds = {"memory": traffic / chip.bytes_per_second, "compute": 0.0}
        for part in work:
            precision = "bfloat16" if part.operands[0].element == "bf16" else self.config.matmul_precision
            seconds["compute"] += part.flops / chip.flops[precision]
        if collective := self.module.collective(computation, line):
            devices = self.target.mesh.size
            passes = (2 if collective[0] == "all-reduce" else 1) * (devices - 1) / devices  # a ring's
            seconds["links"] = passes * _reduced(computation, line) / chip.link_bytes_per_second
        bound = max(seconds, key=lambda name: seconds[name])
        return Kernel(
            name=line.name,
            layer=self._layer(computation, line, work),
            times=times,
            bytes=traffic,
            flops=sum(part.flops for part in work),
            estimated_cycles=line.cycles,
            estimate_seconds=seconds[bound] + chip.launch_seconds,
            bound=bound,
            overlapped=line.opcode.endswith("-start") and not collective,
        )

    def _compiler_seconds(self, kernel: Kernel) -> float:
        """A kernel's `estimated_cycles` in seconds; 0 if there are none, or the clock is not known."""
        clock = self.target.chip.cycles_per_second
        return kernel.estimated_cycles / clock if clock else 0.0

    def _kind(self, work: hlo.Work) -> str:
        if work.kind != hlo.PRODUCT:
            return work.kind
        return FOR_CONVOLUTIONS if self._convolution(work) else DENSE

    def _convolution(self, work: hlo.Work) -> Layer | None:
        """The layer whose sizes a convolution or product has, of the network that its name tells."""
        player = _player(work.instruction.op_name)
        fitting = [
            layer
            for layer in self.layers
            if layer.player == player
            and any(work.features in layer.features(images) for images in (self.batch, 2 * self.batch))
        ]
        sides = {side for array in work.operands for side in array.sides[1:3]}
        return next((layer for layer in fitting if layer.small[0] in sides), fitting[0] if fitting else None)

    def _layer(self, computation: hlo.Computation, line: hlo.Instruction, work: list[hlo.Work]) -> str:
        """Player and layer that a kernel belongs to: by the sizes of its work, its name, or the map that it writes."""
        for part in sorted(work, key=lambda part: -part.flops):
            if layer := self._convolution(part):
                return f"{layer.player} {layer.name}"
        names = [line.op_name, *(inner.op_name for _, inner in self.module.within(computation, line))]
        player = next(filter(None, map(_player, names)), None)
        if player is None:
            return "optimizer and the rest"
        for name in names:
            if found := re.search(r"\b((?:de)?conv\d+|hidden\d+|projection|logit)(?:_norm)?\b", name):
                return f"{player} {found[1]}"
        written = [(array.sides[1], array.sides[3]) for array in line.arrays if self.is_map(array)]
        return next(
            (f"{player} {layer.name}" for layer in self.layers if layer.player == player and layer.output in written),
            f"{player}, the rest",
        )

    def _by_layer(self, kernels: Iterable[Kernel]) -> list[dict[str, Any]]:
        names = ("kernels", "flops", "bytes", "estimate_seconds", "compiler_estimate_seconds")
        rows: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(names, 0.0))
        for kernel in kernels:
            seconds = 0.0 if kernel.overlapped else kernel.estimate_seconds
            numbers = (1, kernel.flops, kernel.bytes, seconds, self._compiler_seconds(kernel))
            for name, number in zip(names, numbers, strict=True):
                rows[kernel.layer][name] += kernel.times / self.steps * number
        by_time = sorted(rows.items(), key=lambda item: -item[1]["estimate_seconds"])
        return [{"layer": layer, **row} for layer, row in by_time]

    def _estimate(self, kernels: Iterable[Kernel]) -> dict[str, Any]:
        chip = self.target.chip
        bounds = dict.fromkeys(("compute", "memory", "links"), 0.0)
        count = launches = overlapped = cycles = 0.0
        for kernel in kernels:
            share = kernel.times / self.steps
            cycles += share * kernel.estimated_cycles
            count += share
            if kernel.overlapped:
                overlapped += share * kernel.estimate_seconds
            else:
                bounds[kernel.bound] += share * (kernel.estimate_seconds - chip.launch_seconds)
                launches += share * chip.launch_seconds
        seconds = sum(bounds.values()) + launches
        found: dict[str, Any] = {
            "kernels": count,
            "seconds": seconds,
            "seconds_by_bound": {**bounds, "launches": launches},
            "overlapped_seconds": overlapped,
            "images_per_second": self.config.batch_size / seconds,
        }
        if cycles:
            found["compiler_cycles"] = cycles
        if cycles and chip.cycles_per_second:
            found["compiler_seconds"] = cycles / chip.cycles_per_second
            found["compiler_images_per_second"] = self.config.batch_size / found["compiler_seconds"]
        return found


def _add(row: dict[str, float], share: float, **numbers: float) -> None:
    row["count"] += share
    for name, value in numbers.items():
        row[name] += share * value


def _reduced(computation: hlo.Computation, line: hlo.Instruction) -> int:
    """Bytes that a collective is given."""
    return sum(array.bytes for array in computation.operands(line))


def _player(op_name: str) -> str | None:
    found = re.search(r"[gG]enerator|[dD]iscriminator", op_name)
    return found[0].lower() if found else None


def _memory(config: ConfigDict, compiled: Any, text: str) -> dict[str, int]:
    """Bytes: the state's and the donated part of it, from their shapes; the others are the compiler's, with padding."""
    state = jax.tree.leaves(jax.eval_shape(partial(create_state, build_gan(config))))
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in state]  # they are the first parameters, in this order
    donated = [number for number in hlo.aliased(text) if number < len(sizes)]
    analysis = compiled.memory_analysis()
    return {
        "state_bytes": sum(sizes),
        "donated_bytes": sum(sizes[number] for number in donated),
        "argument_bytes": analysis.argument_size_in_bytes,
        "temporary_bytes": analysis.temp_size_in_bytes,
        "output_bytes": analysis.output_size_in_bytes,
        "aliased_bytes": analysis.alias_size_in_bytes,
        "peak_bytes": getattr(analysis, "peak_memory_in_bytes", 0)
        or analysis.argument_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes,
    }


def table(result: dict[str, Any]) -> str:
    """What a person wants to see of a report, as text."""
    total, memory, estimate = result["flops"], result["memory"], result["estimate"]
    by_compiler = "compiler_seconds" in estimate
    images = f"{result['examples']:,} images on the device" if result["examples"] else "streamed images"
    lines = [
        f"{result['devices']} x {result['device']} ({result['platform']} {result['topology']}), jax {result['jax']}, "
        f"compiled in {result['compile_seconds']:.0f} s",
        f"{result['config']['image_size']} px, {result['config']['precision']}, batch {result['batch_size']}, "
        f"steps a call: {result['steps_per_call']}, {images}. Per device and step:",
        "",
        _row("work", "count", "GFLOP"),
    ]
    lines += [_row(kind, row["count"], row["flops"] / 1e9) for kind, row in result["work"].items() if row["count"]]
    lines.append(
        f"{_row('all', '', total['compiled'] / 1e9)}, {total['ratio']:.2f} times the definition's "
        f"{_digits(total['definition'] / 1e9)}"
    )
    moves = {kind: row for kind, row in result["moves"].items() if row["count"]}
    lines += ["", _row("moves of maps", "count", "MB", "estimate, ms") if moves else "moves of maps: none"]
    for kind, row in moves.items():
        lines.append(_row(kind, row["count"], row["bytes"] / 1e6, row["estimate_seconds"] * 1e3))
    if result["collectives"]:
        lines += ["", _row("collectives", "count", "MB")]
    for row in result["collectives"]:
        how = "asynchronous" if row["asynchronous"] else "synchronous"
        lines.append(_row(f"{row['kind']}, {how}", row["count"], row["bytes"] / 1e6))
    donated, state, temporary, peak = (
        _digits(memory[f"{name}_bytes"] / 1e6) for name in ("donated", "state", "temporary", "peak")
    )
    lines += [
        "",
        f"memory: {donated} of the state's {state} MB donated, temporaries {temporary} MB, peak {peak} MB",
        "",
        _row("layer", "kernels", "GFLOP", "MB", "estimate, ms", *["compiler's estimate, ms"] * by_compiler),
    ]
    for row in result["layers"]:
        numbers = [row["flops"] / 1e9, row["bytes"] / 1e6, row["estimate_seconds"] * 1e3]
        numbers += [row["compiler_estimate_seconds"] * 1e3] * by_compiler
        lines.append(_row(row["layer"], row["kernels"], *numbers))
    bounds = {name: value for name, value in estimate["seconds_by_bound"].items() if value}
    lines += [
        "",
        f"estimate, roofline: {_digits(estimate['seconds'] * 1e3)} ms a step, "
        f"{estimate['images_per_second']:,.0f} images/s; bound by "
        + ", ".join(f"{name} {_digits(value * 1e3)} ms" for name, value in bounds.items()),
    ]
    if estimate["overlapped_seconds"]:
        seconds = estimate["overlapped_seconds"]
        lines.append(f"estimate of copies beside the kernels, not in that sum: {_digits(seconds * 1e3)} ms")
    if by_compiler:
        lines.append(
            f"estimate, the compiler's cycles: {_digits(estimate['compiler_seconds'] * 1e3)} ms a step, "
            f"{estimate['compiler_images_per_second']:,.0f} images/s, without collectives"
        )
    elif "compiler_cycles" in estimate:
        lines.append(f"estimate, the compiler's: {estimate['compiler_cycles']:,.0f} cycles a step")
    return "\n".join(lines)


def _row(name: str, *cells: str | float) -> str:
    """A row of `table`: cells in columns, whose width is that of their longest heading."""
    texts = (cell if isinstance(cell, str) else _digits(cell) for cell in cells)
    return f"{name:32}" + "".join(f"{text:>{width}}" for text, width in zip(texts, _WIDTHS, strict=False))


def _digits(number: float) -> str:
    """With at least three digits."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def main() -> None:
    if not jax.config.values["jax_platforms"]:
        jax.config.update("jax_platforms", "cpu")  # an accelerator that is there is left alone
    # Programs for devices that are not there can be kept, but not read back.
    jax.config.update("jax_enable_compilation_cache", False)
    config = _CONFIG.value
    if _BATCH_SIZE.value:
        config.batch_size = _BATCH_SIZE.value
    platform = str(_PLATFORM.value)
    topology = _TOPOLOGY.value or TOPOLOGIES.get(platform, "")
    text_file = Path(_HLO.value) if _HLO.value else None
    result = report(config, platform, topology, _STEPS.value, _EXAMPLES.value, text_file)
    print(table(result))
    if _OUT.value:
        files.write_atomically(Path(_OUT.value), (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "File with the run's configuration.", lock_config=True)
    _PLATFORM = flags.DEFINE_string("platform", None, "tpu, or cuda for H100s.")
    _TOPOLOGY = flags.DEFINE_string(
        "topology",
        None,
        "TPUs: generation and chips along each axis, v5e:2x2. GPUs: partitions x hosts x GPUs of a host, 1x1x8. "
        "Default: one device, v5e:1x1 or 1x1x1.",
    )
    _BATCH_SIZE = flags.DEFINE_integer(
        "batch_size", None, "Images per step over all devices; default: the config's.", lower_bound=1
    )
    _STEPS = flags.DEFINE_integer("steps_per_call", 1, "Training steps that a call makes.", lower_bound=1)
    _EXAMPLES = flags.DEFINE_integer(
        "examples",
        None,
        "Images of the pack on the device. Default: a streamed batch, or with several steps a call what they use.",
        lower_bound=1,
    )
    _OUT = command_line.define_path("out", None, "JSON file for the report.")
    _HLO = command_line.define_path("hlo", None, "File for the text of the optimised program.")
    flags.mark_flag_as_required("config")
    flags.mark_flag_as_required("platform")
    command_line.run(main)
