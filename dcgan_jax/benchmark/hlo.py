"""Reads the text of an optimised HLO module, as `compiled.as_text()` gives it: kernels, arithmetic, bytes.

A *kernel* is what the device runs as one piece: an instruction of the entry or of a loop's body that does some work.
Fused computations belong to the kernel that calls them.

How floating-point operations are counted: a multiplication and an addition are two. Counted are convolutions and matrix
products, as the program does them and not as they were meant:

- cuDNN's calls multiply all they are given: every place of the small map by every entry of the kernel, whatever zeros a
  kernel before them has inserted into either. A convolution whose filter was blown up from 5x5 to 63x63 counts as one
  of 63x63.
- XLA's own convolutions, which is what TPUs run, skip the zeros between the rows of a dilated operand: only those taps
  count that fall on a row of the operand.
- Zeros around a map count like the map, as in `nets/flops.py`.

Of a conditional the branch for False counts: the training step takes the other one where batch statistics were far from
what it expected (`nets/batch_norm.py`).

Bytes of a kernel are its operands and results, each once. Of an operand that is only sliced or gathered from, what is
taken counts. Arrays in the memory on a TPU's chip (`S(1)`) count as nothing.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

# Bytes of an element; others, such as tokens, are of no size.
_ELEMENT_BYTES = {
    **dict.fromkeys(("pred", "s4", "u4", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}
# Instructions that are no work: names for values, and the ends of what was started before.
_NAMES = ("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "domain")
_NO_WORK = frozenset((*_NAMES, "after-all", "add-dependency", "partition-id", "replica-id"))
# Instructions that run other computations instead of being a kernel.
_CONTROL = frozenset(("while", "call", "conditional"))
_SLICES = frozenset(("slice", "dynamic-slice", "gather"))
_RENAMES = frozenset(("bitcast", "convert", "reshape", "copy"))
# What a kernel may hold besides and still do nothing but move data.
_IDLE = _NO_WORK | _SLICES | {"convert", "reshape", "broadcast", "concatenate", "fusion", "dynamic-update-slice"}
MOVES = ("reverse", "pad", "transpose", "copy", "unfold")
_MOVES = frozenset(MOVES)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_FORWARD, _INPUT, _KERNEL = "forward", "input gradient", "kernel gradient"
CONVOLUTIONS = (_FORWARD, _INPUT, _KERNEL)
PRODUCT = "product"
_CUDNN = {"convForward": _FORWARD, "convBias": _FORWARD, "convBackwardInput": _INPUT, "convBackwardFilter": _KERNEL}

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Array:
    """The type of an array: element ('bf16'), sides, and whether it lies in the memory on a TPU's chip."""

    element: str
    sides: tuple[int, ...]
    on_chip: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.sides)

    @property
    def bytes(self) -> int:
        """Without what a layout pads."""
        return self.size * _ELEMENT_BYTES.get(self.element, 0)

    @property
    def traffic(self) -> int:
        """Bytes that go over the bus to the device's memory when all of it is read or written."""
        return 0 if self.on_chip else self.bytes

    def __str__(self) -> str:
        return f"{self.element}[{','.join(map(str, self.sides))}]"


@dataclass(frozen=True)
class Instruction:
    """A line of a computation.

    Attributes:
      arrays: of the result; several for a tuple.
      operands: names of other instructions.
      attributes: the text behind the operands.
      arguments: the text between the parentheses.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    arguments: str
    is_root: bool

    @cached_property
    def op_name(self) -> str:
        """Where in the Python program it comes from: 'jit(steps)/jvp(Generator)/deconv1_norm/rsqrt'."""
        return self.attribute(r'op_name="([^"]*)"')

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Computations that it calls; of a conditional's that for False is the first."""
        one = re.findall(r"\b(?:calls|body|to_apply|false_computation)=%?([\w.\-]+)", self.attributes)
        many = _OPERAND.findall(self.attribute(r"branch_computations=\{([^}]*)\}"))
        return (*one, *many, *re.findall(r"\btrue_computation=%?([\w.\-]+)", self.attributes))

    @property
    def cycles(self) -> int:
        """The TPU compiler's estimate; 0 if it gives none."""
        return int(self.attribute(r'"estimated_cycles":"(\d+)"') or 0)

    def attribute(self, pattern: str) -> str:
        """The first group of the first match in the attributes, or ''."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


@dataclass
class Computation:
    """Instructions in their order, by name."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @cached_property
    def root(self) -> Instruction:
        return next(instruction for instruction in self.instructions.values() if instruction.is_root)

    @cached_property
    def parameters(self) -> dict[int, str]:
        """Names of the parameters by number."""
        found = (i for i in self.instructions.values() if i.opcode == "parameter")
        return {int(instruction.arguments): instruction.name for instruction in found}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads a value."""
        users = defaultdict(list)
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return users

    def operands(self, instruction: Instruction) -> list[Array]:
        """The arrays that an instruction of this computation reads."""
        found = (self.instructions[name].arrays for name in instruction.operands if name in self.instructions)
        return [array for arrays in found for array in arrays]


@dataclass(frozen=True)
class Work:
    """A convolution or a matrix product.

    Attributes:
      kind: one of CONVOLUTIONS, or PRODUCT. The form decides: a strided convolution is 'forward', be it the
        discriminator's forward pass or the generator's input gradient; its transpose in the map is 'input gradient'.
      flops: see the module's docstring.
      operands: the two that are multiplied, and the result, as the convolution or product sees them.
      features: sides of the three that are not spatial, sorted: of a convolution of n images from l to s features they
        are n, n, l, l, s, s, whichever of its three forms it is.
      instruction: the line itself, perhaps of a fused computation.
    """

    kind: str
    flops: int
    operands: tuple[Array, Array, Array]
    features: tuple[int, ...]
    instruction: Instruction


class Module:
    """A parsed module.

    Attributes:
      computations: by name.
      entry: the one that is run.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError if the text has no entry computation."""
        self.computations: dict[str, Computation] = {}
        entry, current = "", None
        for line in text.splitlines():
            if line.startswith("}"):
                current = None
            elif current is not None:
                if instruction := _instruction(line):
                    current.instructions[instruction.name] = instruction
            elif not line.startswith((" ", "HloModule")) and (head := _HEAD.match(line)):
                current = self.computations[head[2]] = Computation(head[2])
                entry = head[2] if head[1] else entry
        if not entry:
            raise ValueError("this is no text of an HLO module: there is no ENTRY computation")
        self.entry = self.computations[entry]

    def kernels(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Kernels in the order of the text, each with the computation it stands in and how often a call runs it."""
        return self._kernels(self.entry, 1)

    def _kernels(self, computation: Computation, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
        for instruction in computation.instructions.values():
            if instruction.opcode in _CONTROL:
                trips = self._trips(instruction) if instruction.opcode == "while" else 1
                # Of a conditional one branch runs. The first is that of False, where nothing was out of the ordinary.
                ran = instruction.called[:1] if instruction.opcode == "conditional" else instruction.called
                for name in ran:
                    yield from self._kernels(self.computations[name], times * trips)
            elif not _is_idle(instruction):
                yield computation, instruction, times

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs: XLA's own count, else the number that its condition compares with, else 1."""
        if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
            return int(known)
        condition = self.computations[loop.attribute(r"\bcondition=%?([\w.\-]+)")]
        numbers = [int(i.arguments) for i in condition.instructions.values() if re.fullmatch(r"\d+", i.arguments)]
        return max(numbers, default=1) or 1

    def within(self, computation: Computation, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """An instruction and all that it calls, fused computations in fused computations included."""
        yield computation, instruction
        if instruction.opcode in ("fusion", "async-start", "custom-call"):
            for name in instruction.called:
                for inner in self.computations[name].instructions.values():
                    yield from self.within(self.computations[name], inner)

    def work(self, computation: Computation, kernel: Instruction, kernel_size: int) -> list[Work]:
        """Convolutions and matrix products of a kernel. `kernel_size` tells kernels from maps where XLA does not."""
        found = (_work(inner, line, kernel_size) for inner, line in self.within(computation, kernel))
        return [work for work in found if work]

    def traffic(self, computation: Computation, kernel: Instruction) -> int:
        """Bytes that a kernel reads and writes, see the module's docstring."""
        if kernel.opcode == "dynamic-update-slice":
            return 2 * computation.instructions[kernel.operands[1]].arrays[0].traffic
        if kernel.opcode in _SLICES:
            return 2 * sum(array.traffic for array in kernel.arrays)
        if kernel.opcode.endswith("-start"):  # its result names source and destination, and may move a part
            ends = kernel.arrays[:2]
            return min((end.bytes for end in ends), default=0) * sum(not end.on_chip for end in ends)
        reads = 0
        for number, name in enumerate(kernel.operands):
            value = computation.instructions[name]
            whole = sum(array.traffic for array in value.arrays)
            if kernel.opcode == "fusion" and whole:
                inner = self.computations[kernel.called[0]]
                whole = min(whole, self._read(inner, inner.parameters[number], whole))
            reads += whole
        return reads + self._written(kernel)

    def _written(self, kernel: Instruction) -> int:
        if kernel.opcode != "fusion":
            return sum(array.traffic for array in kernel.arrays)
        inner = self.computations[kernel.called[0]]
        written = 0
        for root, array in zip(_roots(inner), kernel.arrays, strict=False):
            if root.opcode == "dynamic-update-slice":  # in place
                array = inner.instructions[root.operands[1]].arrays[0]
            written += array.traffic
        return written

    def _read(self, computation: Computation, name: str, whole: int) -> int:
        """Bytes of a value that its users take."""
        taken = 0
        for user in computation.users.get(name, ()):
            if user.opcode in _SLICES and user.operands[0] == name:
                taken += sum(array.bytes for array in user.arrays)
            elif user.opcode in _RENAMES:
                taken += self._read(computation, user.name, whole)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue
            elif user.opcode == "fusion":
                inner = self.computations[user.called[0]]
                number = user.operands.index(name)
                taken += self._read(inner, inner.parameters[number], whole)
            else:
                return whole
        return taken

    def move(self, computation: Computation, kernel: Instruction, is_map: Callable[[Array], bool]) -> str | None:
        """One of MOVES if a kernel does nothing else, and does it to a map; else None.

        A kernel that computes something and writes it in another layout on the way is no move: it costs no pass of its
        own. The same holds for moves inside a convolution's fusion, and for asynchronous copies between memories.
        'unfold' writes what a convolution kernel sees at every place, for a matrix product: the product's price.

        Args:
          is_map: whether an array is a map of images. What is made of one, a padded map say, counts as well.
        """
        if kernel.opcode.endswith("-start"):
            return None
        opcodes = {line.opcode for _, line in self.within(computation, kernel)}
        if kernel.opcode == "reshape":  # with another layout: a view would be a bitcast
            opcodes.add("copy")
        if not opcodes <= _IDLE | _MOVES or not any(map(is_map, (*computation.operands(kernel), *kernel.arrays))):
            return None
        if all(len(array.sides) != 4 for array in kernel.arrays) and "concatenate" in opcodes:
            return "unfold"
        return next((opcode for opcode in MOVES if opcode in opcodes), None)

    def collective(self, computation: Computation, kernel: Instruction) -> tuple[str, bool] | None:
        """The kind of a collective, and whether it is asynchronous; None for all other kernels."""
        for _, line in self.within(computation, kernel):
            opcode = line.opcode.removesuffix("-start")
            if opcode in COLLECTIVES:
                synchronous = '"is_sync":true' in kernel.attributes + line.attributes
                return opcode, kernel.opcode.endswith("-start") and not synchronous
        return None


def _is_idle(instruction: Instruction) -> bool:
    ends = instruction.opcode.endswith(("-done", "-update"))
    names = instruction.attribute(r'custom_call_target="([^"]*)"') in ("AllocateBuffer", "ConcatBitcast")
    return ends or names or instruction.opcode in _NO_WORK


def aliased(text: str) -> tuple[int, ...]:
    """Numbers of the entry's parameters whose memory the result reuses (donation), from a module's first line."""
    head = text.split("\n", 1)[0]
    begin = head.find("input_output_alias={")
    if begin < 0:
        return ()
    pairs = head[begin : head.find("entry_computation_layout")]
    return tuple(sorted({int(number) for number in re.findall(r"\{[\d, ]*\}: \((\d+),", pairs)}))


def _instruction(line: str) -> Instruction | None:
    begin = _INSTRUCTION.match(line)
    if not begin:
        return None
    rest = line[begin.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, rest = rest.split("(", 1)
    end = _closing("(" + rest) - 1
    arguments, attributes = rest[:end], rest[end + 1 :]
    operands = tuple(_OPERAND.findall(arguments))
    return Instruction(begin[2], opcode, _arrays(kind), operands, attributes, arguments, bool(begin[1]))


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(
        Array(element, tuple(int(side) for side in sides.split(",") if side), "S(1)" in layout)
        for element, sides, layout in _ARRAY.findall(text)
    )


def _closing(text: str) -> int:
    """Where the parenthesis ends that the text begins with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _roots(computation: Computation) -> list[Instruction]:
    """What a computation returns, behind tuples and other names."""

    def source(instruction: Instruction) -> Instruction:
        while instruction.opcode == "bitcast":
            instruction = computation.instructions[instruction.operands[0]]
        return instruction

    root = source(computation.root)
    if root.opcode != "tuple":
        return [root]
    return [source(computation.instructions[name]) for name in root.operands]


def _work(computation: Computation, line: Instruction, kernel_size: int) -> Work | None:
    target = line.attribute(r'custom_call_target="([^"]*)"')
    if line.opcode == "convolution":
        return _convolution(computation, line, kernel_size)
    if line.opcode == "dot":
        contracted = line.attribute(r"lhs_contracting_dims=\{([\d,]*)\}").split(",")
        return _product(computation, line, [int(axis) for axis in contracted if axis])
    if target.startswith("__cublas$"):
        contracted = re.findall(r"\d+", line.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]'))
        return _product(computation, line, [int(axis) for axis in contracted])
    if target.startswith("__cudnn$conv"):
        return _cudnn(computation, line, target.removeprefix("__cudnn$"))
    return None


def _product(computation: Computation, line: Instruction, contracted: list[int]) -> Work:
    """Each entry of the result is a sum over the contracted axes.

    `features` are rows, columns and terms of the sum. XLA splits long sums into a batch of products that it adds up
    afterwards; the batch counts as terms.
    """
    left, right = computation.operands(line)[:2]
    result = line.arrays[0]
    summed = prod(left.sides[axis] for axis in contracted)
    batch = left.size * right.size // max(1, summed**2 * result.size)
    terms = summed * batch
    features = tuple(sorted((left.size // max(1, terms), right.size // max(1, terms), terms)))
    return Work(PRODUCT, 2 * result.size * summed, (left, right, result), features, line)


def _cudnn(computation: Computation, line: Instruction, target: str) -> Work:
    """All three forms are: places of the small map, times the kernel. Labels are those of the forward convolution."""
    kind = next(kind for name, kind in _CUDNN.items() if target.startswith(name))
    first, second = computation.operands(line)[:2]
    result = line.arrays[0]
    large, kernel, small = {
        _FORWARD: (first, second, result),
        _INPUT: (result, second, first),
        _KERNEL: (first, result, second),
    }[kind]
    labels = re.split(r"_|->", line.attribute(r"dim_labels=([^, ]+)"))
    flops = 2 * small.size * kernel.size // kernel.sides[labels[1].index("o")]
    features = _features(labels, (large, kernel, small))
    return Work(kind, flops, (first, second, result), features, line)


def _convolution(computation: Computation, line: Instruction, kernel_size: int) -> Work:
    left, right = computation.operands(line)[:2]
    result = line.arrays[0]
    labels = re.split(r"_|->", line.attribute(r"dim_labels=([^, ]+)"))
    window = dict(part.split("=") for part in line.attribute(r"window=\{([^}]*)\}").split())
    spatial = [axis for axis in labels[2] if axis.isdigit()]

    def values(name: str, default: str) -> list[list[int]]:
        texts = window[name].split("x") if name in window else [default] * len(spatial)
        return [[int(number) for number in text.split("_")] for text in texts]

    sides = [result.sides[labels[2].index(axis)] for axis in spatial]
    sizes, strides, pads = values("size", "1"), values("stride", "1"), values("pad", "0_0")
    left_dilations, right_dilations = values("lhs_dilate", "1"), values("rhs_dilate", "1")
    places = [
        _taps(side, size, stride, pad, left_dilation, right_dilation)
        for side, (size,), (stride,), (pad, _), (left_dilation,), (right_dilation,) in zip(
            sides, sizes, strides, pads, left_dilations, right_dilations, strict=True
        )
    ]
    others = result.sides[labels[2].index("b")] * result.sides[labels[2].index("f")]
    flops = 2 * others * right.sides[labels[1].index("i")] * prod(places)

    dilated = [max(pair) > 1 for pair in (sum(left_dilations, [1]), sum(right_dilations, [1]))]
    if not spatial:
        kind = PRODUCT
    elif set(sides) == {kernel_size} and (dilated[1] or {size for (size,) in sizes} != {kernel_size}):
        kind = _KERNEL
    elif any(dilated) or max(sum(values("rhs_reversal", "0"), [0])):
        kind = _INPUT
    else:
        kind = _FORWARD
    if kind == PRODUCT:
        rows, columns = (result.sides[labels[2].index(name)] for name in "bf")
        features = tuple(sorted((rows, columns, right.sides[labels[1].index("i")])))
    else:
        features = _features(labels, (left, right, result))
    return Work(kind, flops, (left, right, result), features, line)


def _taps(side: int, size: int, stride: int, pad: int, left_dilation: int, right_dilation: int) -> int:
    """Pairs (place of the result, tap of the window) along an axis that do not fall between two rows of the operand."""
    return sum(
        (place * stride + tap * right_dilation - pad) % left_dilation == 0
        for place in range(side)
        for tap in range(size)
    )


def _features(labels: list[str], arrays: tuple[Array, Array, Array]) -> tuple[int, ...]:
    return tuple(
        sorted(
            side
            for label, array in zip(labels, arrays, strict=True)
            for axis, side in zip(label, array.sides, strict=True)
            if not axis.isdigit()
        )
    )
