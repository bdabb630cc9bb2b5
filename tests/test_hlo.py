"""What is read from the text of optimised programs, against snippets that were counted by hand."""

import pytest

from dcgan_jax.benchmark import hlo
from dcgan_jax.benchmark.hlo import Array

HEAD = (
    "HloModule jit_steps, input_output_alias={ {0}: (0, {}, may-alias), {1, 0}: (3, {}, must-alias) }, "
    "entry_computation_layout={(f32[2]{0}, f32[3]{0})->f32[2]{0}}"
)


def module(body: str, *computations: str) -> hlo.Module:
    """A module whose entry has the lines of `body`, beside other computations."""
    return hlo.Module("\n\n".join([HEAD, *computations, f"ENTRY %main () -> f32[] {{\n{body}\n}}"]) + "\n")


def only(body: str, *computations: str) -> tuple[hlo.Module, hlo.Computation, hlo.Instruction]:
    """The module, and the only kernel in it."""
    parsed = module(body, *computations)
    ((computation, kernel, _),) = parsed.kernels()
    return parsed, computation, kernel


def work(body: str, *computations: str, kernel_size: int = 5) -> hlo.Work:
    """The only convolution or product of the only kernel."""
    parsed, computation, kernel = only(body, *computations)
    (found,) = parsed.work(computation, kernel, kernel_size)
    return found


def is_map(array: Array) -> bool:
    return array.sides[1:] in ((8, 8, 6), (6, 8, 8))


def test_arrays() -> None:
    """Layouts with parentheses, tuples with comments in them, elements of no size."""
    line = (
        "  ROOT %copy-start = (bf16[2,4,4,6]{3,0,2,1:T(8,128)(2,1)S(1)}, /*index=1*/bf16[2,4,4,6]{3,2,1,0:T(4,128)}, "
        "u32[]{:S(2)}, token[]) copy-start(%a), backend_config={}"
    )
    _, _, kernel = only("  %a = bf16[2,4,4,6]{3,2,1,0:T(4,128)} parameter(0)\n" + line)
    assert kernel.opcode == "copy-start" and kernel.operands == ("a",) and kernel.is_root
    assert kernel.arrays[0] == Array("bf16", (2, 4, 4, 6), on_chip=True)
    assert [array.bytes for array in kernel.arrays] == [2 * 192, 2 * 192, 4, 0]
    assert [array.traffic for array in kernel.arrays] == [0, 2 * 192, 4, 0]
    assert str(kernel.arrays[1]) == "bf16[2,4,4,6]"


def test_text_without_a_program() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.Module("HloModule empty\n")


def test_donation() -> None:
    assert hlo.aliased(HEAD) == (0, 3)
    assert hlo.aliased("HloModule jit_f, entry_computation_layout={()->f32[]}") == ()


# All three forms of a 5x5 layer from 8x8 maps of 6 features to 4x4 ones of 10, batch 2. cuDNN is given the kernel as
# [out, k, k, in].
LAYER = 2 * (2 * 4 * 4) * 25 * 6 * 10


def cudnn(target: str, first: str, second: str, result: str) -> str:
    return (
        f"  %a = {first} parameter(0)\n  %b = {second} parameter(1)\n"
        f"  ROOT %conv = ({result}, u8[64]{{0}}) custom-call(%a, %b), window={{size=5x5 stride=2x2 pad=2_2x2_2}}, "
        f'dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn${target}", metadata={{op_name="jit(f)/conv"}}, '
        'backend_config={"algorithm":{"algo_id":"-1"}}'
    )


@pytest.mark.parametrize(
    ("target", "kind", "arrays"),
    [
        ("convForward", "forward", ("bf16[2,8,8,6]", "bf16[10,5,5,6]", "bf16[2,4,4,10]")),
        ("convBackwardInput", "input gradient", ("bf16[2,4,4,10]", "bf16[10,5,5,6]", "bf16[2,8,8,6]")),
        ("convBackwardFilter", "kernel gradient", ("bf16[2,8,8,6]", "bf16[2,4,4,10]", "bf16[10,5,5,6]")),
    ],
)
def test_convolutions_of_cudnn(target: str, kind: str, arrays: tuple[str, str, str]) -> None:
    body = cudnn(target, *arrays)
    found = work(body)
    assert (found.kind, found.flops) == (kind, LAYER)
    assert found.features == (2, 2, 6, 6, 10, 10)
    assert tuple(map(str, found.operands)) == arrays
    assert found.instruction.op_name == "jit(f)/conv"
    parsed, computation, kernel = only(body)
    assert parsed.traffic(computation, kernel) == 2 * (2 * 64 * 6 + 2 * 16 * 10 + 25 * 60) + 64


def test_zeros_that_cudnn_multiplies_count() -> None:
    """The kernel gradient as a convolution whose filter is the 4x4 map with zeros between: 7x7, over 25 places.

    2 * 6 * 10 features * 25 places * 49 taps * 2 images, where the definition has 16 taps.
    """
    found = work(cudnn("convForward", "f32[6,11,11,2]", "f32[10,7,7,2]", "f32[6,5,5,10]"))
    assert (found.kind, found.flops) == ("forward", 2 * 6 * 10 * 25 * 49 * 2)


def xla(arrays: tuple[str, str, str], window: str, labels: str) -> str:
    """A convolution inside a fusion, as TPUs have it."""
    left, right, result = arrays
    return (
        f"%fused (p.0: {left}, p.1: {right}) -> {result} {{\n"
        f"  %p.0 = {left}{{3,2,1,0:T(8,128)(2,1)}} parameter(0)\n  %p.1 = {right} parameter(1)\n"
        f"  ROOT %c = {result} convolution(%p.0, %p.1), {window}dim_labels={labels}, "
        'metadata={op_name="jit(f)/conv"}\n}'
    )


def fusion(arrays: tuple[str, str, str]) -> str:
    left, right, result = arrays
    return (
        f"  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n"
        f"  ROOT %fusion = {result} fusion(%a, %b), kind=kOutput, calls=%fused, "
        'backend_config={"window_config":{"estimated_cycles":"1500"}}'
    )


@pytest.mark.parametrize(
    ("kind", "arrays", "window", "labels"),
    [
        (
            "forward",
            ("bf16[2,8,8,6]", "bf16[5,5,6,10]", "bf16[2,4,4,10]"),
            "window={size=5x5 stride=2x2 pad=2_2x2_2}, ",
            "b01f_01io->b01f",
        ),
        # 8 places of the result; at every second one 3 of the 5 taps meet a row, else 2: 20 an axis, as 4 places * 5.
        (
            "input gradient",
            ("bf16[2,4,4,10]", "bf16[5,5,6,10]", "bf16[2,8,8,6]"),
            "window={size=5x5 pad=2_3x2_3 lhs_dilate=2x2 rhs_reversal=1x1}, ",
            "b01f_01oi->b01f",
        ),
        # The small map is the filter.
        (
            "kernel gradient",
            ("bf16[2,8,8,6]", "bf16[2,4,4,10]", "bf16[5,5,6,10]"),
            "window={size=4x4 pad=2_1x2_1 rhs_dilate=2x2}, ",
            "f01b_i01o->01bf",
        ),
        # The large map is the filter: 5 places, 8 taps, of which every second one meets a row.
        (
            "kernel gradient",
            ("bf16[2,4,4,10]", "bf16[2,8,8,6]", "bf16[5,5,6,10]"),
            "window={size=8x8 pad=2_3x2_3 lhs_dilate=2x2}, ",
            "f01b_i01o->01fb",
        ),
    ],
)
def test_convolutions_of_xla(kind: str, arrays: tuple[str, str, str], window: str, labels: str) -> None:
    found = work(fusion(arrays), xla(arrays, window, labels))
    assert (found.kind, found.flops, found.features) == (kind, LAYER, (2, 2, 6, 6, 10, 10))
    assert only(fusion(arrays), xla(arrays, window, labels))[2].cycles == 1500


def test_transposed_convolution_in_two_parts() -> None:
    """Kernels of 3 and 2 rows have as many taps together as one of 5."""
    parts = [(3, "0_3"), (2, "2_0")]
    total = 0
    for rows, pad in parts:
        arrays = ("bf16[2,4,4,10]", f"bf16[{rows},5,6,10]", "bf16[2,8,8,6]")
        window = f"window={{size={rows}x5 pad={pad}x2_3 lhs_dilate=2x2 rhs_reversal=1x1}}, "
        found = work(fusion(arrays), xla(arrays, window, "b01f_01oi->b01f"))
        assert found.kind == "input gradient"
        total += found.flops
    assert total == LAYER


def test_swapped_map_and_kernel() -> None:
    """A 3x3 kernel over 2x2 maps, swapped: 4 places an axis and a filter of 2 taps, where the definition has 2 * 3."""
    arrays = ("f32[3,3,4,6]", "f32[8,2,2,6]", "f32[8,4,4,4]")
    window = "window={size=2x2 pad=1_2x1_2 rhs_dilate=2x2 rhs_reversal=1x1}, "
    found = work(fusion(arrays), xla(arrays, window, "01bf_o01i->f01b"), kernel_size=3)
    assert (found.kind, found.flops) == ("input gradient", 2 * 8 * 4 * 6 * (4 * 2) ** 2)


def test_kernel_gradient_of_a_kernel_as_large_as_its_map() -> None:
    """4x4 on 4x4: window and result have the same sides as those of a forward convolution; the dilation tells."""
    arrays = ("f32[2,8,8,6]", "f32[2,4,4,10]", "f32[4,4,6,10]")
    window = "window={size=4x4 pad=1_1x1_1 rhs_dilate=2x2}, "
    found = work(fusion(arrays), xla(arrays, window, "f01b_i01o->01bf"), kernel_size=4)
    assert (found.kind, found.flops) == ("kernel gradient", 2 * (2 * 4 * 4) * 16 * 6 * 10)


def test_matrix_products() -> None:
    """[8, 5] x [5, 24], as TPUs, cuBLAS and a fusion of Triton's have it."""
    arrays = ("f32[8,5]", "f32[5,24]", "f32[8,24]")
    operands = "  %a = f32[8,5] parameter(0)\n  %b = f32[5,24] parameter(1)\n"
    config = '"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}'
    blas = f'custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={{{config}}}'
    triton = (
        "%fused (p.0: f32[8,5], p.1: f32[5,24]) -> f32[8,24] {\n"
        "  %p.0 = f32[8,5]{1,0} parameter(0)\n  %p.1 = f32[5,24]{1,0} parameter(1)\n"
        "  ROOT %d = f32[8,24]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}\n}"
    )
    for found in (
        work(fusion(arrays), xla(arrays, "", "bf_io->bf")),
        work(f"{operands}  ROOT %d = (f32[8,24]{{1,0}}, s8[4096]{{0}}) {blas}"),
        work(fusion(arrays), triton),
    ):
        assert (found.kind, found.flops, found.features) == (hlo.PRODUCT, 2 * 8 * 5 * 24, (5, 8, 24))


def test_product_whose_sum_is_split() -> None:
    """A sum of 512 terms as four products of 128, in whose results the parts are still apart."""
    product = (
        "%fused (p.0: bf16[4,128,1600], p.1: bf16[4,128,64]) -> f32[4,1600,64] {\n"
        "  %p.0 = bf16[4,128,1600]{2,1,0} parameter(0)\n  %p.1 = bf16[4,128,64]{2,1,0} parameter(1)\n"
        "  ROOT %d = f32[4,1600,64]{2,1,0} dot(%p.0, %p.1), lhs_batch_dims={0}, lhs_contracting_dims={1}\n}"
    )
    found = work(fusion(("bf16[4,128,1600]", "bf16[4,128,64]", "f32[4,1600,64]")), product)
    assert (found.flops, found.features) == (2 * 512 * 1600 * 64, (64, 512, 1600))


def test_batched_product_on_tpus() -> None:
    """Its batch of 3 is an axis with a stride and zeros, so that each place meets one tap."""
    arrays = ("f32[3,8,5]", "f32[3,5,24]", "f32[3,8,24]")
    found = work(fusion(arrays), xla(arrays, "window={size=3 stride=2 lhs_dilate=3}, ", "0bf_0io->0bf"))
    assert found.flops == 2 * 3 * 8 * 5 * 24


LOOP = """  %z = s32[] constant(0)
  %t = (s32[], f32[4]) tuple(%z, %z)
  ROOT %w = (s32[], f32[4]) while(%t), condition=%condition, body=%body"""
BODY = """%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %y = f32[4]{0} add(%x, %x)
  %s = ((f32[4]), f32[4], u32[]) copy-start(%y)
  %d = f32[4]{0} copy-done(%s)
  ROOT %r = (s32[], f32[4]) tuple(%x, %d)
}"""
CONDITION = """%condition (p.1: (s32[], f32[4])) -> pred[] {
  %p.1 = (s32[], f32[4]) parameter(0)
  %n = s32[] constant(7)
  %i = s32[] get-tuple-element(%p.1), index=0
  ROOT %c = pred[] compare(%i, %n), direction=LT
}"""


@pytest.mark.parametrize(
    ("known", "trips"), [("", 7), (', backend_config={"known_trip_count":{"n":"50"},"dynamic_variables":[]}', 50)]
)
def test_loops(known: str, trips: int) -> None:
    kernels = list(module(LOOP + known, BODY, CONDITION).kernels())
    assert [(kernel.name, times) for _, kernel, times in kernels] == [("y", trips), ("s", trips)]


def test_traffic_of_slices() -> None:
    """A kernel that gathers 2 images of a pack of 100, and one that reads a quarter of a map and all of a row."""
    gather = (
        "%fused (p.0: u8[100,12], p.1: s32[2]) -> bf16[2,12] {\n"
        "  %p.0 = u8[100,12]{1,0} parameter(0)\n  %p.1 = s32[2]{0} parameter(1)\n"
        "  %g = u8[2,12]{1,0} gather(%p.0, %p.1), offset_dims={1}\n"
        "  ROOT %c = bf16[2,12]{1,0} convert(%g)\n}"
    )
    arrays = ("u8[100,12]", "s32[2]", "bf16[2,12]")
    parsed, computation, kernel = only(fusion(arrays), gather)
    assert parsed.traffic(computation, kernel) == 2 * 12 + 2 * 4 + 2 * 2 * 12
    sliced = (
        "%fused (p.0: f32[4,4], p.1: f32[4]) -> f32[4] {\n"
        "  %p.0 = f32[4,4]{1,0} parameter(0)\n  %p.1 = f32[4]{0} parameter(1)\n"
        "  %b = f32[16]{0} bitcast(%p.0)\n  %s = f32[4]{0} slice(%b), slice={[0:4]}\n"
        "  ROOT %c = f32[4]{0} add(%s, %p.1)\n}"
    )
    parsed, computation, kernel = only(fusion(("f32[4,4]", "f32[4]", "f32[4]")), sliced)
    assert parsed.traffic(computation, kernel) == 16 + 16 + 16


def test_traffic_on_the_chip_is_none() -> None:
    body = "  %a = f32[4]{0:T(128)S(1)} parameter(0)\n  ROOT %b = f32[4]{0:T(128)} add(%a, %a)"
    parsed, computation, kernel = only(body)
    assert parsed.traffic(computation, kernel) == 16


@pytest.mark.parametrize(
    ("line", "move"),
    [
        ("bf16[2,9,9,6]{3,2,1,0} pad(%a, %z), padding=0_0x1_0x1_0x0_0", "pad"),
        ("bf16[2,8,8,6]{0,3,2,1} copy(%a)", "copy"),
        ("bf16[2,6,8,8]{3,2,1,0} transpose(%a), dimensions={0,3,1,2}", "transpose"),
        ("bf16[2,8,8,6]{3,2,1,0} reverse(%a), dimensions={1,2}", "reverse"),
        ("bf16[2,384]{1,0} reshape(%a)", "copy"),
        ("(bf16[2,8,8,6]{3,2,1,0:S(1)}, bf16[2,8,8,6]{3,2,1,0}, u32[]) copy-start(%a)", None),
        ("bf16[2,8,8,6]{3,2,1,0} negate(%a)", None),
        ("f32[2,8,8,6]{3,2,1,0} convert(%a)", None),
        ("bf16[5,5,6,10]{0,3,2,1} copy(%k)", None),
    ],
)
def test_moves(line: str, move: str | None) -> None:
    body = (
        "  %a = bf16[2,8,8,6]{3,2,1,0} parameter(0)\n  %k = bf16[5,5,6,10]{3,2,1,0} parameter(1)\n"
        f"  %z = bf16[] constant(0)\n  ROOT %b = {line}"
    )
    parsed, computation, kernel = only(body)
    assert parsed.move(computation, kernel, is_map) == move


@pytest.mark.parametrize(
    ("result", "lines", "move"),
    [
        ("bf16[2,9,9,6]", "  ROOT %d = bf16[2,9,9,6] pad(%p, %z), padding=0_0x1_0x1_0x0_0", "pad"),
        # Activations that are written with zeros around them need no pass of their own.
        ("bf16[2,9,9,6]", "  %m = bf16[2,8,8,6] maximum(%p, %p)\n  ROOT %d = bf16[2,9,9,6] pad(%m, %z)", None),
        (
            "bf16[2,8,8,2,6]",
            "  %q = bf16[2,9,9,6] pad(%p, %z)\n  %s = bf16[2,8,8,6] slice(%q), slice={[0:2]}\n"
            "  ROOT %d = bf16[2,8,8,2,6] concatenate(%s, %s), dimensions={3}",
            "unfold",
        ),
    ],
)
def test_moves_of_fusions(result: str, lines: str, move: str | None) -> None:
    fused = (
        f"%fused (p: bf16[2,8,8,6]) -> {result} {{\n  %p = bf16[2,8,8,6]{{3,2,1,0}} parameter(0)\n"
        f"  %z = bf16[] constant(0)\n{lines}\n}}"
    )
    body = f"  %a = bf16[2,8,8,6]{{3,2,1,0}} parameter(0)\n  ROOT %f = {result} fusion(%a), kind=kLoop, calls=%fused"
    parsed, computation, kernel = only(body, fused)
    assert parsed.move(computation, kernel, is_map) == move


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("f32[24] all-reduce(%a), to_apply=%sum", ("all-reduce", False)),
        ("(f32[24], f32[24]) all-reduce-start(%a), to_apply=%sum", ("all-reduce", True)),
        (
            '(f32[24], f32[24]) all-reduce-start(%a), backend_config={"collective_backend_config":{"is_sync":true}}',
            ("all-reduce", False),
        ),
        ("((f32[24]), f32[24]) async-start(%a), calls=%wrapped", ("all-reduce", True)),
        ("f32[24] negate(%a)", None),
    ],
)
def test_collectives(line: str, expected: tuple[str, bool] | None) -> None:
    wrapped = (
        "%wrapped (p: f32[24]) -> f32[24] {\n  %p = f32[24]{0} parameter(0)\n"
        "  ROOT %r = f32[24]{0} all-reduce(%p), to_apply=%sum\n}"
    )
    parsed, computation, kernel = only(f"  %a = f32[24]{{0}} parameter(0)\n  ROOT %b = {line}", wrapped)
    assert parsed.collective(computation, kernel) == expected


@pytest.mark.parametrize(
    "branches",
    ["branch_computations={%usual, %rare}", "true_computation=%rare, false_computation=%usual"],
)
def test_of_a_conditional_the_branch_of_false_counts(branches: str) -> None:
    """The other one, which reads a map again, hardly ever runs."""
    usual = "%usual (p: f32[8]) -> f32[8] {\n  %p = f32[8]{0} parameter(0)\n  ROOT %one = f32[8]{0} negate(%p)\n}"
    rare = "%rare (q: f32[8]) -> f32[8] {\n  %q = f32[8]{0} parameter(0)\n  ROOT %two = f32[8]{0} sine(%q)\n}"
    parsed = module(
        "  %a = pred[] parameter(0)\n  %b = f32[8]{0} parameter(1)\n"
        f"  ROOT %c = f32[8]{{0}} conditional(%a, %b, %b), {branches}",
        usual,
        rare,
    )
    assert [kernel.name for _, kernel, _ in parsed.kernels()] == ["one"]
