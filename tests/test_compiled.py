"""What compilers make of layers and steps for a TPU v5e and an H100, neither of which is needed.

The wheels of the extras `aot-tpu` and `aot-cuda` are; without them these tests are skipped.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from dcgan_jax.benchmark import aot, compile_report, hlo
from dcgan_jax.benchmark.compile_report import TOPOLOGIES, Layer
from dcgan_jax.config import load_config
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import conv, flops
from tests import tiny

# All but the one that reads a folder, and those without convolutions or with another's.
CONFIGS = ("lsun", "cifar10", "svhn", "mnist", "imagenet32", "toy_bedrooms")
BATCH, LARGE, SMALL = 32, 64, 128


def installed(platform: str) -> Any:
    absent = not aot.available(platform)
    return pytest.param(platform, marks=pytest.mark.skipif(absent, reason=f"the wheels of aot-{platform} are absent"))


everywhere = pytest.mark.parametrize("platform", [installed(platform) for platform in aot.PLATFORMS])
on_tpu = pytest.mark.parametrize("platform", [installed("tpu")])


@pytest.fixture(autouse=True)
def optimisations() -> Iterator[None]:
    """They are what is tested here; `conftest.py` switches them off."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def device(platform: str) -> Any:
    return aot.target(platform, TOPOLOGIES[platform]).mesh.devices.flat[0]


def shapes_of_shipped_configs() -> dict[str, Layer]:
    """Layers that differ in kernel, stride or maps, or in being those of the images, with few features."""
    found: dict[str, Layer] = {}
    for name in CONFIGS:
        config = load_config(f"configs/{name}.py")
        for layer in compile_report.convolutions(config):
            (side, large), (small_side, _) = layer.large, layer.small
            at_image = large == config.data.channels + config.model.num_classes and side == config.data.image_size
            features = config.data.channels if at_image else LARGE
            ends = f"{side}x{side}x{features}-{small_side}x{small_side}"
            layer = layer._replace(large=(side, features), small=(small_side, SMALL))
            found.setdefault(f"{layer.kernel}x{layer.kernel}-{ends}", layer)
    return found


LAYERS = shapes_of_shipped_configs()


@pytest.mark.long
@everywhere
@pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
def test_layers_multiply_no_zeros_and_copy_no_map(layer: Layer, platform: str) -> None:
    """`conv` and `conv_transpose` with their gradients, six operations, each of the definition's arithmetic.

    Layouts of what goes in and out are the compiler's choice, as between the layers of a network. A matrix product in
    place of a convolution may unfold its map.
    """
    (side, large_features), (small_side, small_features) = layer.large, layer.small
    stride = side // small_side

    def run(large, small, kernel, other_large, other_small, other_kernel):  # type: ignore[no-untyped-def]
        down, pull_down = jax.vjp(lambda image, kernel: conv.conv(image, kernel, stride), large, kernel)
        up, pull_up = jax.vjp(
            lambda image, kernel: conv.conv_transpose(image, kernel, stride), other_small, other_kernel
        )
        return down, pull_down(small), up, pull_up(other_large)

    large = jax.ShapeDtypeStruct((BATCH, side, side, large_features), jnp.bfloat16)
    small = jax.ShapeDtypeStruct((BATCH, small_side, small_side, small_features), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((layer.kernel, layer.kernel, large_features, small_features), jnp.bfloat16)
    chosen: Any = Format(Layout.AUTO, SingleDeviceSharding(device(platform)))
    compiled: Any = jax.jit(run, in_shardings=chosen, out_shardings=chosen).lower(*(large, small, kernel) * 2).compile()
    module = hlo.Module(compiled.as_text())

    def is_map(array: hlo.Array) -> bool:
        return array.sides in (large.shape, small.shape)

    work, moves = [], []
    for computation, line, _ in module.kernels():
        work += module.work(computation, line, layer.kernel)
        moves.append(module.move(computation, line, is_map))
    described = "\n".join(f"{part.kind}: {part.flops} {' '.join(map(str, part.operands))}" for part in work)
    definition = 2 * math.prod(small.shape) * layer.kernel**2 * large_features
    assert sum(part.flops for part in work) == 6 * definition, described
    assert {move for move in moves if move} <= {"unfold"}, moves


@pytest.mark.long
@on_tpu
def test_gather_from_the_pack_copies_no_pack(platform: str) -> None:
    """ImageNet at 32 pixels, 3.9 GB: the layout of the pack on the device must be one that images are gathered from."""
    config = load_config("configs/imagenet32.py")
    place = SingleDeviceSharding(device(platform))
    shape, dtype = compile_report.pack_shapes(config, 1_281_167)["image"]
    pack = jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    index = jax.ShapeDtypeStruct((128,), jnp.int32, sharding=place)

    def gather(pack: jax.Array, index: jax.Array) -> jax.Array:
        return pack[index].reshape(-1, 32, 32, 3).astype(jnp.float32)

    compiled: Any = jax.jit(gather).lower(pack, index).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < math.prod(shape) / 100


def small_config() -> ConfigDict:
    """Maps of 16 and 8 pixels, so that no kernel is larger than its map."""
    stages = {"model.generator.stages": ((64, 2), (48, 2)), "model.discriminator.stages": ((48, 2), (64, 2))}
    return tiny.config({"conv": "auto", "batch_size": 32, "data.image_size": 32, "model.kernel_size": 5, **stages})


@pytest.mark.long
@everywhere
def test_report_of_a_step(platform: str) -> None:
    config = small_config()
    result = compile_report.report(config, platform, TOPOLOGIES[platform])
    # The vectors of the logit are no products on a GPU; 2 % is far less than one convolution more.
    assert result["flops"]["ratio"] == pytest.approx(1, abs=0.02)
    # Generator first: two layers each. Forward twice, and through the generator once; transposed as often as in
    # tests/test_lowering.py; every kernel once.
    counts = {kind: row["count"] for kind, row in result["work"].items()}
    assert counts["forward"] == 2 + 2 + 2
    assert counts["input gradient"] == 2 * 2 + 2 + 1
    assert counts["kernel gradient"] == 2 + 2
    memory = result["memory"]
    assert memory["donated_bytes"] == memory["state_bytes"]
    assert memory["peak_bytes"] > 0
    assert not result["collectives"]
    layers = {row["layer"]: row for row in result["layers"]}
    for layer in compile_report.convolutions(config):
        assert layers[f"{layer.player} {layer.name}"]["flops"] > 0
    assert sum(row["flops"] for row in layers.values()) == result["flops"]["compiled"]
    assert 0 < result["estimate"]["seconds"] < 1
    text = compile_report.table(result)
    assert "times the definition's" in text
    assert all("estimate" in line for line in text.splitlines() if "ms" in line.split())


# Images of each config's whole set. The faces are the authors' number; folders and renderers are as large as one likes.
SETS = {
    "lsun": 3_033_042,
    "imagenet32": 1_281_167,
    "svhn": 531_131,
    "faces": 350_000,
    "cifar10": 50_000,
    "cifar10_best": 50_000,
    "mnist": 50_000,
    "mnist_dense": 50_000,
    "toy_bedrooms": 20_000,
    "toy_faces": 20_000,
}
# What JAX gives a process: three quarters of an H100's 80 GB. The TPU's compiler knows its own limit.
MEMORY = {"cuda": 60e9, "tpu": 15.75 * 2**30}


@pytest.mark.long
@everywhere
@pytest.mark.parametrize(("name", "count"), SETS.items(), ids=list(SETS))
def test_every_config_fits_one_device_with_its_whole_set(name: str, count: int, platform: str) -> None:
    """On the device where the set fits, else streamed; nothing is computed twice, and the state is given back."""
    config = load_config(f"configs/{name}.py")
    image_bytes = config.data.image_size**2 * config.data.channels
    resident = count * image_bytes < 0.9 * MEMORY[platform]
    assert resident == ((name, platform) != ("lsun", "tpu"))
    steps, examples = (10, count) if resident else (1, None)
    result = compile_report.report(config, platform, TOPOLOGIES[platform], steps, examples)
    # Seen, not explained: mnist_dense does 0.6 % more on an H100; on a v5e both are counted with up to 3.7 % less.
    more, less = (1.01 if name == "mnist_dense" else 1.001), (0.96 if name.startswith("mnist") else 0.999)
    assert less < result["flops"]["ratio"] < more
    memory = result["memory"]
    assert memory["donated_bytes"] == memory["state_bytes"]
    assert memory["peak_bytes"] < MEMORY[platform]
    # What 'auto' reckons with when it chooses between the device and streaming.
    assert memory["state_bytes"] + memory["temporary_bytes"] < flops.step_memory_bytes(config, 1)


@pytest.mark.long
@everywhere
def test_report_of_several_steps_on_several_devices(platform: str) -> None:
    """A loop over batches of a pack: all counts are of one step, and the devices share the arithmetic."""
    config = small_config()
    topology, devices = {"tpu": ("v5e:2x2", 4), "cuda": ("1x1x8", 8)}[platform]
    result = compile_report.report(config, platform, topology, steps_per_call=5, examples=1000)
    assert (result["devices"], result["examples"]) == (devices, 1000)
    assert result["flops"]["ratio"] == pytest.approx(1, abs=0.02)
    reduced = sum(row["bytes"] for row in result["collectives"] if row["kind"] == "all-reduce")
    parameters = 4 * sum(
        layer.kernel**2 * layer.large[1] * layer.small[1] for layer in compile_report.convolutions(config)
    )
    assert reduced >= parameters
    assert result["memory"]["donated_bytes"] == result["memory"]["state_bytes"]


@pytest.mark.parametrize(
    ("platform", "topology", "words"),
    [
        ("gpu", "1x1x1", "--platform=gpu: there is no such platform; choose from tpu, cuda"),
        ("tpu", "v5litepod-8", "v5e:2x2"),
        ("tpu", "1x1x1", "v5e:2x2"),
        ("cuda", "v5e:2x2", "1x1x8"),
        ("cuda", "8", "1x1x8"),
    ],
)
def test_bad_targets(platform: str, topology: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compile_report.report(tiny.config(), platform, topology)


@pytest.mark.parametrize("platform", aot.PLATFORMS)
def test_absent_wheels(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "available", lambda platform: False)
    with pytest.raises(UserError, match=rf"install dcgan_jax\[aot-{platform}\]"):
        compile_report.report(tiny.config(), platform, TOPOLOGIES[platform])


@on_tpu
def test_topology_that_does_not_exist(platform: str) -> None:
    with pytest.raises(UserError, match="--topology=v5e:3x5 cannot be described for tpu"):
        compile_report.report(tiny.config(), platform, "v5e:3x5")


@on_tpu
def test_batch_that_cannot_be_split(platform: str) -> None:
    with pytest.raises(UserError, match="batch_size 6 is not divisible by the 4 devices"):
        compile_report.report(tiny.config({"batch_size": 6}), platform, "v5e:2x2")


STEP = """HloModule jit_steps, entry_computation_layout={()->f32[]}

ENTRY %main () -> f32[] {
  %image = bf16[64,32,32,3]{3,2,1,0} parameter(0)
  %kernel = bf16[48,5,5,3]{3,2,1,0} parameter(1)
  %gradient = f32[1000]{0} parameter(2)
  %rows = bf16[2048,64]{1,0} parameter(3)
  %columns = bf16[1200,64]{1,0} parameter(4)
  %copied = bf16[64,32,32,3]{0,3,2,1} copy(%image), metadata={op_name="jit(steps)/jvp(Discriminator)/concatenate"}
  %conv = (bf16[64,16,16,48]{3,2,1,0}, u8[0]{0}) custom-call(%copied, %kernel), window={size=5x5 stride=2x2 pad=2_2x2_2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(steps)/jvp(Discriminator)/conv_general_dilated"}
  %dot = bf16[2048,1200]{1,0} dot(%rows, %columns), lhs_contracting_dims={1}, rhs_contracting_dims={1}, metadata={op_name="jit(steps)/jvp(Generator)/dot_general"}
  %norm = f32[48]{0} negate(%gradient), metadata={op_name="jit(steps)/jvp(Generator)/Generator._normalise/deconv1_norm/rsqrt"}
  ROOT %sum = f32[1000]{0} all-reduce(%gradient), to_apply=%add
}
"""  # noqa: E501


def test_counts_by_hand() -> None:
    """A chip of 1 TFLOP/s, 1 GB/s, links of 1 GB/s and launches of 1 ms; two devices, 32 images each; 2 steps a call.

    The discriminator's first convolution of 64 images, a product for the generator's first one, a copy of images, an
    operation in a normalisation, and a sum of 1,000 gradients.
    """
    chip = aot.Chip("chip", {"bfloat16": 1e12, "default": 1e11}, 1e9, 1e9, launch_seconds=1e-3)
    config = small_config()
    config.unlock()
    config.batch_size = 64
    result = compile_report.count(config, aot.Target("cuda", chip, tiny.mesh(2)), 2, STEP)

    convolution, product = 2 * 64 * 16 * 16 * 48 * 75, 2 * 2048 * 1200 * 64
    assert result["flops"]["compiled"] == (convolution + product) / 2
    assert result["work"]["forward"] == {"count": 0.5, "flops": convolution / 2}
    assert result["work"]["product for a convolution"] == {"count": 0.5, "flops": product / 2}
    images, maps = 64 * 32 * 32 * 3 * 2, 64 * 16 * 16 * 48 * 2
    assert result["moves"]["copy"] == pytest.approx(
        {"count": 0.5, "bytes": images, "estimate_seconds": images / 1e9 + 5e-4}
    )
    assert result["collectives"] == [{"kind": "all-reduce", "asynchronous": False, "count": 0.5, "bytes": 2000}]

    layers = {row.pop("layer"): row for row in result["layers"]}
    assert layers["generator deconv1"]["kernels"] == 1  # the product and the normalisation, every second step
    assert layers["discriminator conv1"]["flops"] == convolution / 2
    seconds = {kernel["name"]: kernel["estimate_seconds"] - 1e-3 for kernel in result["kernels"]}
    assert seconds == pytest.approx(
        {
            "copied": 2 * images / 1e9,
            "conv": (images + maps + 48 * 75 * 2) / 1e9,
            "dot": (2048 * 64 + 1200 * 64 + 2048 * 1200) * 2 / 1e9,
            "norm": (4000 + 48 * 4) / 1e9,
            "sum": 8000 / 1e9,  # its bytes of memory; a ring of two sends 4000 over the links
        }
    )
    estimate = result["estimate"]
    assert estimate["seconds"] == pytest.approx(sum(seconds.values()) / 2 + 2.5e-3)
    assert estimate["images_per_second"] == pytest.approx(64 / estimate["seconds"])


def test_convolutions_of_a_config() -> None:
    """By hand: the small config, with ten classes joined to what enters, and with pooling."""
    config = small_config()
    layers = compile_report.convolutions(config)
    assert layers == [
        Layer("generator", "deconv1", 5, (16, 48), (8, 64)),
        Layer("generator", "deconv2", 5, (32, 3), (16, 48)),
        Layer("discriminator", "conv1", 5, (32, 3), (16, 48)),
        Layer("discriminator", "conv2", 5, (16, 48), (8, 64)),
    ]
    assert [layer.output for layer in layers] == [(16, 48), (32, 3), (16, 48), (8, 64)]
    assert layers[0].features(2) == [(2, 2, 48, 48, 64, 64), (64, 128, 1200)]
    config.unlock()
    config.model.num_classes, config.model.resampling = 10, "pooling"
    layers = compile_report.convolutions(config)
    assert [(layer.large, layer.small) for layer in layers] == [
        ((16, 48), (16, 74)),
        ((32, 3), (32, 58)),
        ((32, 13), (32, 48)),
        ((16, 58), (16, 64)),
    ]
