"""What the training step lowers to for GPUs and TPUs, read from its StableHLO; neither is needed."""

import re
from collections import Counter
from functools import cache, partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import pytest

from dcgan_jax import train_step
from dcgan_jax.machine import mesh
from dcgan_jax.train_state import GANState, build_gan, create_state
from tests import tiny

KERNEL = (5, 5)
ELEMENT = {"float32": "f32", "bfloat16": "bf16"}
everywhere = pytest.mark.parametrize("platform", ["cuda", "tpu"])
precisions = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


class Operation(NamedTuple):
    text: str
    shapes: list[tuple[int, ...]]  # of the operands, then of the result
    elements: list[str]


@cache
def export_step(platform: str, precision: str, order: str = "generator_first", steps: int = 1) -> tuple[GANState, Any]:
    """The abstract state that goes in, and the exported step: the 64-pixel network of the paper, 8 to 32 maps wide.

    One step on a streamed batch, or several on a pack of 100 images that lies on the device.
    """
    config = tiny.config(
        {
            "data.image_size": 64,
            "model.kernel_size": 5,
            "model.generator.stages": ((32, 2), (24, 2), (16, 2), (8, 2)),
            "model.discriminator.stages": ((8, 2), (16, 2), (24, 2), (32, 2)),
            "conv": "auto",
            "precision": precision,
            "update_order": order,
        }
    )
    state = jax.eval_shape(partial(create_state, build_gan(config)))
    pack, batches = {}, {"image": jax.ShapeDtypeStruct((1, config.batch_size, 64, 64, 3), np.uint8)}
    if steps > 1:
        pack = {"image": jax.ShapeDtypeStruct((100, 64 * 64 * 3), np.uint8)}
        batches = {"index": jax.ShapeDtypeStruct((steps, config.batch_size), np.int32)}
    step = train_step.make_mapped_step(build_gan(config), tiny.mesh(), "shard_map")
    return state, jax.export.export(cast(Any, step), platforms=[platform])(state, pack, batches)


@cache
def program(platform: str, precision: str, order: str = "generator_first", steps: int = 1) -> str:
    return str(export_step(platform, precision, order, steps)[1].mlir_module())


def operations(text: str, name: str) -> list[Operation]:
    """All operations of one name. Each stands on a line of its own that ends with the types."""
    found = []
    for line in text.splitlines():
        if f"stablehlo.{name}" in line:
            types = [match.split("x") for match in re.findall(r"tensor<([^>]+)>", line)]
            shapes = [tuple(int(side) for side in sides) for *sides, _ in types]
            found.append(Operation(line, shapes, [element for *_, element in types]))
    return found


def dilations(convolution: Operation) -> tuple[bool, bool]:
    """Whether the left and the right operand are dilated; any dilation is 2 x 2."""
    dilated = re.findall(r"(\w+)_dilate = \[(\d), (\d)\]", convolution.text)
    assert all(factors == ["2", "2"] for _, *factors in dilated)
    return tuple(side in [name for name, *_ in dilated] for side in ("lhs", "rhs"))  # type: ignore[return-value]


# Of the 4 layers, those of 5x5 kernels on 4x4 maps: the generator's first and the discriminator's last. They have forms
# of their own (conv_lax.py): matrix products on CUDA, kernels of 3 and 2 rows on TPUs.
@everywhere
@precisions
def test_convolutions_are_convolutions_and_products_are_dense_layers(platform: str, precision: str) -> None:
    """Nothing of the CPU's formulation is left: no stacks of matrix products, no barriers.

    The 8 products of the dense layers: the projection forward twice (one generator pass per player) and its weights'
    gradient once; the logit forward and its input's gradient once per player, its weights' gradient once.

    6 more on CUDA: the generator's first layer forward twice; the input gradient of the discriminator's last one, once
    per player; the kernel gradients of both.
    """
    text = program(platform, precision)
    products = operations(text, "dot_general")
    assert len(products) == (2 + 1) + (2 + 2 + 1) + (2 + 2 + 2 if platform == "cuda" else 0)
    assert all(len(shape) == 2 for product in products for shape in product.shapes)
    assert "optimization_barrier" not in text


@everywhere
@pytest.mark.parametrize(("order", "generator_passes"), [("generator_first", 2), ("discriminator_first", 1)])
def test_convolutions_by_kind(platform: str, order: str, generator_passes: int) -> None:
    """Four layers each.

    Transposed, a dilated map under a kernel: every deconvolution of every generator pass; input gradients of the
    discriminator, 4 of them under the generator's loss, which needs that of the images, and 3 under its own. In each of
    these passes one layer is of 4x4 maps.

    Plain strided ones: the discriminator forward for each player, and the generator's input gradients, 4 because the
    projection lies before the first deconvolution.

    Kernel gradients: 4 of each network, with the small map as a dilated filter. cuDNN's backward-filter is that; XLA
    does not recognise it when the large map is the dilated one.
    """
    kinds: Counter[str] = Counter()
    for convolution in operations(program(platform, "float32", order), "convolution"):
        _, right, result = convolution.shapes
        strided, dilated = "stride = [2, 2]" in convolution.text, dilations(convolution)
        if result[:2] == KERNEL:
            assert not strided and dilated == (False, True)
            kinds["kernel gradient"] += 1
        elif right[:2] == KERNEL:
            assert (strided, dilated) in [(True, (False, False)), (False, (True, False))]
            assert not strided or "pad = [[2, 2], [2, 2]]" in convolution.text
            kinds["strided" if strided else "transposed"] += 1
        else:
            assert right[:2] in [(3, 5), (2, 5)] and (strided, dilated) == (False, (True, False))
            kinds["transposed, in parts"] += 1
    passes = generator_passes + 2
    assert kinds["strided"] == 4 + 4 + 4
    assert kinds["transposed"] == 4 * generator_passes + 4 + 3 - passes
    assert kinds["transposed, in parts"] == (2 * passes if platform == "tpu" else 0)
    assert kinds["kernel gradient"] == (4 + 4 if platform == "tpu" else 3 + 3)


@everywhere
@precisions
def test_precision_of_convolutions_and_products(platform: str, precision: str) -> None:
    text = program(platform, precision)
    for operation in operations(text, "convolution") + operations(text, "dot_general"):
        assert operation.elements == [ELEMENT[precision]] * 3, operation.text


@everywhere
@precisions
def test_maps_are_never_transposed(platform: str, precision: str) -> None:
    """Only the gradients of the two dense layers' weights are: [4 * 4 * 32, 5] and [1, 4 * 4 * 32].

    Convolutions over a kernel read and write maps as [batch, height, width, features].
    """
    text = program(platform, precision)
    assert sorted(transpose.shapes[0] for transpose in operations(text, "transpose")) == [(1, 512), (512, 5)]
    for convolution in operations(text, "convolution"):
        if convolution.shapes[-1][:2] != KERNEL:  # not a kernel gradient
            assert re.search(r"\[b, 0, 1, f\]x\[0, 1, (i, o|o, i)\]->\[b, 0, 1, f\]", convolution.text)


@everywhere
@precisions
def test_state_and_metrics_are_float32(platform: str, precision: str) -> None:
    state, exported = export_step(platform, precision)
    new_state, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    for player in (new_state.generator, new_state.discriminator):
        adam = player.opt_state[1][0]
        leaves = jax.tree.leaves((player.params, player.batch_stats, adam.mu, adam.nu))
        assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(metrics)} == {np.dtype(np.float32)}

    def types(tree: GANState) -> list[tuple[tuple[int, ...], np.dtype]]:
        return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]

    assert types(new_state) == types(state)  # so the step can be given its own result


@everywhere
def test_several_steps_are_one_loop_around_the_same_convolutions(platform: str) -> None:
    one, several = program(platform, "float32"), program(platform, "float32", steps=5)
    assert len(operations(several, "convolution")) == len(operations(one, "convolution"))
    # The images stay on the device: every trip gathers its batch from the pack.
    gathers = [gather for gather in operations(several, "gather") if gather.shapes[0] == (100, 64 * 64 * 3)]
    assert [gather.shapes[-1] for gather in gathers] == [(8, 64 * 64 * 3)]
    loops = [several.count("stablehlo.while") - one.count("stablehlo.while")]
    assert loops == [1]


@everywhere
@pytest.mark.parametrize(
    ("matmul_precision", "attribute"), [("default", "DEFAULT"), ("high", "HIGH"), ("highest", "HIGHEST")]
)
def test_matmul_precision_reaches_every_convolution_and_product(
    platform: str, matmul_precision: str, attribute: str
) -> None:
    """Also those of the gradients."""
    config = tiny.config({"conv": "auto", "matmul_precision": matmul_precision})
    gan = build_gan(config)
    step = train_step.make_mapped_step(gan, tiny.mesh(), "shard_map")
    batches = {"image": jax.ShapeDtypeStruct((1, config.batch_size, 8, 8, 3), np.uint8)}
    state = jax.eval_shape(partial(create_state, gan))
    text = str(jax.export.export(cast(Any, step), platforms=[platform])(state, {}, batches).mlir_module())
    found = operations(text, "convolution") + operations(text, "dot_general")
    assert len(found) > 10
    for operation in found:
        precision = re.findall(r"precision(?:_config)? = \[[^\]]*?(\w+)>?, [^\]]*?(\w+)>?\]", operation.text)
        assert precision in ([(attribute, attribute)], []) and (precision or attribute == "DEFAULT"), operation.text


def test_collectives_of_a_step_on_two_devices() -> None:
    """Those of the paper's network as it is written; compilers join some of the gradients'.

    Batch normalisation has 4 layers in G and 3 in D. Forward: one all-gather each for both moments, in two passes of G
    and in D for each player (its two halves at once). Back: one all-reduce each in G and, for each player, in D.
    Gradients: one all-reduce for all small tensors of a network and one for each large one, here none. Metrics: one.
    """
    config = tiny.config(
        {
            "data.image_size": 64,
            "model.kernel_size": 5,
            "model.generator.stages": ((32, 2), (24, 2), (16, 2), (8, 2)),
            "model.discriminator.stages": ((8, 2), (16, 2), (24, 2), (32, 2)),
            "update_order": "generator_first",
        }
    )
    gan = build_gan(config)
    step = train_step.make_mapped_step(gan, tiny.mesh(2), "shard_map")
    state = jax.eval_shape(partial(create_state, gan))
    batches = {"image": jax.ShapeDtypeStruct((1, config.batch_size, 64, 64, 3), np.uint8)}
    for platform in ("cuda", "tpu"):
        text = str(jax.export.export(cast(Any, step), platforms=[platform])(state, {}, batches).mlir_module())
        assert text.count("stablehlo.all_gather") == 2 * 4 + 2 * 3
        large = sum(
            leaf.size > mesh._SMALL for leaf in jax.tree.leaves((state.generator.params, state.discriminator.params))
        )
        assert text.count("stablehlo.all_reduce") == 4 + 2 * 3 + 2 + large + 1
