"""The benchmark: it measures the real step, needs little beside jax, and compares the best of both sides."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import jax
import pytest

from dcgan_jax.benchmark import __main__ as benchmark
from dcgan_jax.benchmark import contest, devices, variants
from dcgan_jax.benchmark.trainer import Facts
from dcgan_jax.benchmark.variants import Variant
from dcgan_jax.machine import allocator, processor
from dcgan_jax.machine.errors import UserError
from tests import tiny

_SMALL = (
    "--config=configs/svhn.py",
    "--config.model.width=0.05",
    "--config.conv=lax",
    "--batch_size=4",
    "--iterations=2",
)
# What the benchmark must do without. `None` in sys.modules makes an import fail.
_ABSENT = ("tensorflow", "tensorflow_datasets", "clu", "grain", "array_record", "lmdb", "tqdm", "matplotlib")


def run(tmp_path: Path, *flags: str, absent: tuple[str, ...] = _ABSENT) -> subprocess.CompletedProcess[str]:
    """Runs it where the packages in `absent` cannot be imported, neither in its own process nor in its workers."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {absent}: sys.modules[name] = None\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    command = [sys.executable, "-m", "dcgan_jax.benchmark", *_SMALL, *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_command_line(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    process = run(tmp_path, "--peer=lax", f"--output={output}")
    assert process.returncode == 0, process.stderr
    result = json.loads(output.read_text())
    assert result["batch_size"] == 4 and result["rounds"] == 2
    ours, lax = result["systems"]
    assert (ours["system"], lax["system"], result["peer"]) == ("dcgan_jax", "lax", "lax")
    for row in (ours, lax):
        assert row["precision"] == "float32" and row["variant"].startswith("compiled, ")
        assert row["images_per_second_min"] <= row["images_per_second"] <= row["images_per_second_max"]
        assert row["achieved_flops"] == pytest.approx(row["images_per_second"] * result["flops_per_image"])
        assert 1e8 < row["peak_memory_bytes"] < 1e11
    assert result["gemm_flops"].keys() == {"jax"}
    assert result["gemm_flops"]["jax"]["float32"] > ours["achieved_flops"]
    assert result["streamed_images_per_second"] > ours["images_per_second"]
    assert result["processor"]["model"] and result["processor"]["cores"] > 0
    # The peer is the same program here, but the machine may be doing other work.
    assert 0.1 < result["ratio_min"] <= result["ratio"] == result["ratios"]["float32"] <= result["ratio_max"] < 10
    assert "times as fast" in process.stdout and "of a matrix product's" in process.stdout


class FakeSystem:
    """Stands for `contest.System`; writes what happens to it into `log`."""

    log: ClassVar[list[str]] = []
    platforms: ClassVar[dict[str, str]] = {}
    seconds_of: ClassVar[dict[Variant, float]] = {}
    broken: ClassVar[set[Variant]] = set()

    def __init__(self, variant: Variant, config: Any, platform: str | None) -> None:
        self.log.append(f"start {variant.system}, {platform}")
        if variant in self.broken:
            raise UserError("torch.compile fails: no compiler")
        self.variant, self.name, self.seconds, self.peak_bytes = variant, variant.system, list[float](), 0
        self.facts = Facts("settings", "kind", 1.0, self.platforms.get(self.name, self.platforms[""]))
        devices.check(self.name, platform, self.facts.platform)

    def take_turn(self) -> None:
        self.log.append(f"turn {self.name}")
        self.seconds.append(self.seconds_of.get(self.variant, {"dcgan_jax": 0.5, "lax": 1.0}.get(self.name, 2.0)))

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")
        self.peak_bytes = 7


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[FakeSystem]:
    monkeypatch.setattr(contest, "System", FakeSystem)
    for name, value in (("log", []), ("platforms", {"": "gpu"}), ("seconds_of", {}), ("broken", set())):
        monkeypatch.setattr(FakeSystem, name, value)
    return FakeSystem


def test_all_are_resident_and_take_turns(fakes: type[FakeSystem]) -> None:
    result = benchmark.measure(tiny.config(), "lax", 2)
    names, expected = ("dcgan_jax", "lax", "streamed_input", "jax_product"), (None, "gpu", "gpu", "gpu")
    starts = [f"start {name}, {platform}" for name, platform in zip(names, expected, strict=True)]
    assert fakes.log == [*starts, *(2 * [f"turn {name}" for name in names]), *(f"stop {name}" for name in names)]
    assert result["ratio"] == 2.0 and result["platform"] == "gpu" and not result["one_by_one"]
    assert result["gemm_flops"] == {"jax": {"float32": 2 * 8192**3 / 2.0}}


@pytest.mark.parametrize(("platform", "one_by_one"), [("tpu", False), ("gpu", True)])
def test_one_process_at_a_time(platform: str, one_by_one: bool, fakes: type[FakeSystem]) -> None:
    fakes.platforms[""] = platform
    result = benchmark.measure(tiny.config(), "lax", 2, platform=platform, one_by_one=one_by_one)
    assert fakes.log == [
        line
        for name in ("dcgan_jax", "lax", "streamed_input", "jax_product")
        for line in (f"start {name}, {platform}", f"turn {name}", f"turn {name}", f"stop {name}")
    ]
    assert result["one_by_one"] and result["ratio"] == 2.0 and result["systems"][1]["peak_memory_bytes"] == 7


@pytest.mark.parametrize("expected", [None, "tpu"])
def test_a_system_that_falls_back_to_the_cpu_is_an_error(expected: str | None, fakes: type[FakeSystem]) -> None:
    fakes.platforms |= {"": "tpu", "jax_product": "cpu"}
    with pytest.raises(UserError, match=r"jax_product computes on the CPU, but the TPU is expected.*--platform=cpu"):
        benchmark.measure(tiny.config(), None, 1, platform=expected)


@pytest.fixture
def heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux, without DCGAN_JAX_MALLOC=0."""
    monkeypatch.setattr(allocator, "can_keep_buffers", lambda: True)


def test_every_way_to_run_torch_is_a_variant(heap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = variants.of_peer("torch", "float32", "cpu")
    assert on_cpu[0] == Variant("torch", "float32", compiled=False, heap=True)
    assert len(set(on_cpu)) == len(on_cpu) == 8
    on_gpu = variants.of_peer("torch", "float32", "gpu")
    assert [(v.precision, v.compiled) for v in on_gpu] == [
        (precision, compiled) for precision in ("float32", "bfloat16") for compiled in (False, True)
    ]
    assert [v.words for v in on_cpu[:3]] == ["eager, our heap", "eager, default heap", "compiled, our heap"]
    monkeypatch.setattr(allocator, "can_keep_buffers", lambda: False)
    assert {v.heap for v in variants.of_peer("torch", "float32", "cpu")} == {False}


def test_our_best_is_compared_with_the_best_of_torch(heap: None, fakes: type[FakeSystem]) -> None:
    """Slower variants are dropped when they start, near ones stay, and those that do not start are skipped."""
    fakes.platforms[""] = "cpu"
    fakes.seconds_of |= {
        Variant("dcgan_jax", "float32"): 1.0,
        Variant("dcgan_jax", "bfloat16"): 0.5,
        Variant("torch", "float32", compiled=False): 2.0,
        Variant("torch", "float32", compiled=False, heap=False): 3.0,  # dropped
        Variant("torch", "float32", heap=False): 1.9,  # near: both stay
        Variant("torch", "bfloat16", compiled=False): 4.0,  # dropped when the next one starts
        Variant("torch", "bfloat16", compiled=False, heap=False): 0.8,
        Variant("torch", "bfloat16", heap=False): 0.81,  # near
    }
    fakes.broken |= {Variant("torch", "float32"), Variant("torch", "bfloat16")}
    config = tiny.config({"batch_size": 8})
    result = benchmark.measure(config, "torch", 2)
    assert [(row["precision"], row["variant"], row["images_per_second"]) for row in result["systems"]] == [
        ("float32", "compiled, our heap", 8.0),
        ("bfloat16", "compiled, our heap", 16.0),
        ("float32", "eager, our heap", 4.0),
        ("float32", "compiled, default heap", 8 / 1.9),
        ("bfloat16", "eager, default heap", 10.0),
        ("bfloat16", "compiled, default heap", 8 / 0.81),
    ]
    assert result["dropped"] == [
        {"system": "torch", "precision": "float32", "variant": "eager, default heap",
         "images_per_second": 8 / 3, "share": 2 / 3},
        {"system": "torch", "precision": "bfloat16", "variant": "eager, our heap",
         "images_per_second": 2.0, "share": 0.2},
    ]  # fmt: skip
    assert [(row["precision"], row["variant"], row["reason"]) for row in result["skipped"]] == [
        (precision, "compiled, our heap", "torch.compile fails: no compiler") for precision in ("float32", "bfloat16")
    ]
    assert result["best"] == {
        "dcgan_jax": {"system": "dcgan_jax", "precision": "bfloat16", "variant": "compiled, our heap"},
        "torch": {"system": "torch", "precision": "bfloat16", "variant": "eager, default heap"},
    }
    assert result["ratio"] == result["ratio_min"] == result["ratio_max"] == 1.6
    assert result["ratios"] == {"float32": 1.9, "bfloat16": 1.6}
    assert {library: set(rates) for library, rates in result["gemm_flops"].items()} == {
        "jax": {"float32", "bfloat16"},
        "torch": {"float32", "bfloat16"},
    }
    assert fakes.log.count("stop torch") == 6  # the dropped ones and those that stayed
    assert "torch (float32, eager, default heap): 2.7 images/s in its trial, 67% of the fastest" in benchmark.table(
        result
    )


def test_a_peer_that_does_not_start_at_all_is_an_error(heap: None, fakes: type[FakeSystem]) -> None:
    fakes.platforms[""] = "cpu"
    fakes.broken.add(Variant("torch", "float32", compiled=False))
    with pytest.raises(UserError, match="no compiler"):
        benchmark.measure(tiny.config(), "torch", 1)


def test_precision_auto_is_refused_before_anything_is_measured(fakes: type[FakeSystem]) -> None:
    for peer in (None, "torch"):
        with pytest.raises(UserError, match=r"config\.precision is 'auto'"):
            benchmark.measure(tiny.config({"precision": "auto"}), peer, 1)
        with pytest.raises(UserError, match=r"config\.model\.width is 0\.0"):
            benchmark.measure(tiny.config({"model.width": 0.0}), peer, 1)
    assert not fakes.log


def test_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    one = "model name\t: Vague Processor\ncpu family\t: 6\nmodel\t\t: 143\nflags\t\t: fpu avx2 amx_bf16 avx512f\n"
    cpuinfo.write_text(f"{one}\n{one}")
    found = processor.description(cpuinfo)
    assert found["model"] == "Vague Processor (family 6, model 143)"
    assert found["flags"] == ["avx2", "avx512f", "amx_bf16"]
    assert processor.description(tmp_path / "missing")["flags"] == []


@pytest.mark.parametrize(
    ("flags", "platform", "precision"),
    [
        ("fpu avx2 avx512f avx512_bf16", "cpu", "bfloat16"),  # AMD Zen 4
        ("fpu avx512f amx_tile amx_bf16", "cpu", "bfloat16"),
        ("fpu avx2 avx512f", "cpu", "float32"),
        ("asimd bf16", "cpu", "float32"),  # Arm's was not measured
        ("fpu avx512_bf16", "gpu", "float32"),
    ],
)
def test_bfloat16_is_fast_on_some_processors(tmp_path: Path, flags: str, platform: str, precision: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: Processor\nflags\t\t: {flags}\n")
    assert processor.fast_precision(platform, cpuinfo) == precision


@pytest.mark.parametrize(("platform", "width"), [("cpu", 0.5), ("gpu", 1.0), ("tpu", 1.0)])
def test_accelerators_train_the_papers_width(platform: str, width: float) -> None:
    assert processor.trainable_width(platform) == width


def test_a_process_on_the_wrong_device_ends_before_it_compiles(tmp_path: Path) -> None:
    process = run(tmp_path, "--platform=gpu")
    assert process.returncode == 2
    assert "error: dcgan_jax computes on the CPU, but the GPU is expected" in process.stderr
    assert "Traceback" not in process.stderr and "images/s" not in process.stdout


def test_a_process_shares_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    devices.prepare("gpu", environment)
    assert environment == {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    devices.prepare(None, environment)
    assert environment == {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    settings: dict[str, str] = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    devices.prepare("cpu", environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "" and settings == {"jax_platforms": "cpu"}


def test_what_a_machine_is_expected_to_compute_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, platform in (("cpu", "cpu"), ("cuda,cpu", "gpu"), ("tpu", "tpu")):
        monkeypatch.setenv("JAX_PLATFORMS", name)
        assert devices.expected_platform(tmp_path) == platform
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.expected_platform(tmp_path) is None
    for i, (vendor, kind) in enumerate([("0x1ae0", "0x020000"), ("0x8086", "0x088000"), ("0x1ae0", "0xff0000")]):
        assert devices.expected_platform(tmp_path) is None
        device = tmp_path / f"sys/bus/pci/devices/{i}"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert devices.expected_platform(tmp_path) == "tpu"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert devices.expected_platform(tmp_path) == "gpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.expected_platform(tmp_path) == "tpu"


def test_the_process_that_measures_takes_no_device() -> None:
    """It would keep the chips of a TPU from the systems."""
    program = (
        "from dcgan_jax.benchmark import __main__ as benchmark\n"
        "from dcgan_jax.nets import flops\n"
        "from dcgan_jax.config import load_config\n"
        "config = load_config('configs/lsun.py')\n"
        "flops.flops_per_image(config), flops.activation_bytes_per_image(config)\n"
        "from dcgan_jax import machine\n"
        "machine.set_up()\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_peer_that_is_not_installed(tmp_path: Path) -> None:
    process = run(tmp_path, "--peer=torch", absent=("torch",))
    assert process.returncode == 2
    assert "--peer=torch needs PyTorch" in process.stderr and "pip install" in process.stderr
    assert "Traceback" not in process.stderr


def test_table() -> None:
    row = {
        "images_per_second": 100.0,
        "images_per_second_min": 90.0,
        "images_per_second_max": 110.0,
        "settings": "jax",
        "compile_seconds": 3.0,
        "peak_memory_bytes": 2e9,
        "achieved_flops": 1e11,
    }
    ours = {"system": "dcgan_jax", "precision": "bfloat16", "variant": "compiled, our heap"}
    theirs = {"system": "torch", "precision": "float32", "variant": "eager, our heap"}
    result: dict[str, Any] = {
        "device": "cpu",
        "processor": {"model": "Model", "cores": 2, "flags": ["avx2", "amx_bf16"]},
        "batch_size": 4,
        "streamed_images_per_second": 123456.0,
        "flops_per_image": 10**9,
        "gemm_flops": {"jax": {"float32": 1e11, "bfloat16": 2e11}, "torch": {"float32": 4e11}},
        "systems": [ours | row, theirs | row],
        "dropped": [],
        "skipped": [theirs | {"reason": "no compiler"}],
        "best": {"dcgan_jax": ours, "torch": theirs},
        "ratio": 2.0,
        "ratio_min": 1.9,
        "ratio_max": 2.1,
        "ratios": {"float32": 1.5, "bfloat16": 2.5},
    }
    assert benchmark.table(result).splitlines() == [
        "device        cpu, 4 images a step",
        "processor     Model, cores: 2, avx2 amx_bf16",
        "input         123,456 images/s, streamed, without the step",
        "step          1.00 GFLOP an image, by definition",
        "products      100 GFLOP/s in float32, 200 GFLOP/s in bfloat16, jax",
        "products      400 GFLOP/s in float32, torch",
        "dcgan_jax     100.0 images/s (90.0 to 110.0), bfloat16, compiled, our heap",
        "              jax; first step after 3.0 s, peak memory 2.00 GB",
        "              100 GFLOP/s, 50% of a matrix product's",
        "torch         100.0 images/s (90.0 to 110.0), float32, eager, our heap",
        "              jax; first step after 3.0 s, peak memory 2.00 GB",
        "              100 GFLOP/s, 25% of a matrix product's",
        "skipped       torch (float32, eager, our heap): no compiler",
        "best          dcgan_jax (bfloat16, compiled, our heap) is 2.00 times as fast (1.90 to 2.10) as "
        "torch (float32, eager, our heap); float32 1.50, bfloat16 2.50",
    ]
