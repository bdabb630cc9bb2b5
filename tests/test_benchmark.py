"""The benchmark: it measures the real step and needs little beside jax."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import jax
import pytest

from dcgan_jax.benchmark import __main__ as benchmark
from dcgan_jax.benchmark import devices
from dcgan_jax.benchmark.trainer import Facts
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
    assert result["images_per_second_min"] <= result["images_per_second"] <= result["images_per_second_max"]
    assert result["achieved_flops"] == pytest.approx(result["images_per_second"] * result["flops_per_image"])
    assert result["gemm_flops"] > result["achieved_flops"]
    assert result["streamed_images_per_second"] > result["images_per_second"]
    assert 1e8 < result["peak_memory_bytes"] < 1e11
    assert (result["peer"], result["peers"][0]["ratio"]) == ("lax", result["ratio"])
    # The peer is the same program here, but the machine may be doing other work.
    assert 0.1 < result["ratio"] < 10
    assert "dcgan_jax is" in process.stdout and "of a matrix product's" in process.stdout


class FakeSystem:
    """Stands for `benchmark.System`; writes what happens to it into `log`."""

    log: ClassVar[list[str]] = []
    platforms: ClassVar[dict[str, str]] = {}

    def __init__(self, name: str, config: Any, platform: str | None) -> None:
        self.log.append(f"start {name}, {platform}")
        self.name, self.seconds, self.peak_bytes = name, list[float](), 0
        self.facts = Facts("settings", "kind", 1.0, self.platforms.get(name, self.platforms[""]))
        devices.check(name, platform, self.facts.platform)

    def take_turn(self) -> None:
        self.log.append(f"turn {self.name}")
        self.seconds.append({"dcgan_jax": 0.5, "lax": 1.0}.get(self.name, 2.0))

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")
        self.peak_bytes = 7


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[FakeSystem]:
    monkeypatch.setattr(benchmark, "System", FakeSystem)
    monkeypatch.setattr(FakeSystem, "log", [])
    monkeypatch.setattr(FakeSystem, "platforms", {"": "gpu"})
    return FakeSystem


def test_all_are_resident_and_take_turns(fakes: type[FakeSystem]) -> None:
    result = benchmark.measure(tiny.config(), ["lax"], 2)
    names, expected = ("dcgan_jax", "lax", "streamed_input", "matrix_product"), (None, "gpu", "gpu", "gpu")
    starts = [f"start {name}, {platform}" for name, platform in zip(names, expected, strict=True)]
    assert fakes.log == [*starts, *(2 * [f"turn {name}" for name in names]), *(f"stop {name}" for name in names)]
    assert result["ratio"] == 2.0 and result["platform"] == "gpu" and not result["one_by_one"]
    assert result["gemm_flops"] == 2 * 8192**3 / 2.0


@pytest.mark.parametrize(("platform", "one_by_one"), [("tpu", False), ("gpu", True)])
def test_one_process_at_a_time(platform: str, one_by_one: bool, fakes: type[FakeSystem]) -> None:
    fakes.platforms[""] = platform
    result = benchmark.measure(tiny.config(), ["lax"], 2, platform=platform, one_by_one=one_by_one)
    assert fakes.log == [
        line
        for name in ("dcgan_jax", "lax", "streamed_input", "matrix_product")
        for line in (f"start {name}, {platform}", f"turn {name}", f"turn {name}", f"stop {name}")
    ]
    assert result["one_by_one"] and result["ratio"] == 2.0 and result["peers"][0]["peer_peak_memory_bytes"] == 7


@pytest.mark.parametrize("expected", [None, "tpu"])
def test_a_system_that_falls_back_to_the_cpu_is_an_error(expected: str | None, fakes: type[FakeSystem]) -> None:
    fakes.platforms |= {"": "tpu", "matrix_product": "cpu"}
    with pytest.raises(UserError, match=r"matrix_product computes on the CPU, but the TPU is expected.*--platform=cpu"):
        benchmark.measure(tiny.config(), [], 1, platform=expected)


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
    result: dict[str, Any] = {
        "device": "cpu",
        "batch_size": 4,
        "images_per_second": 100.0,
        "images_per_second_min": 90.0,
        "images_per_second_max": 110.0,
        "settings": "jax",
        "streamed_images_per_second": 123456.0,
        "compile_seconds": 3.0,
        "peak_memory_bytes": 2e9,
        "flops_per_image": 10**9,
        "achieved_flops": 1e11,
        "gemm_flops": 2e11,
        "peers": [{"peer": "torch", "peer_images_per_second": 50.0, "ratio": 2.0, "peer_settings": "eager"}],
    }
    lines = benchmark.table(result).splitlines()
    assert lines[1] == "dcgan_jax     100.0 images/s (90.0 to 110.0), jax"
    assert lines[4] == "input         123,456 images/s, streamed, without the step"
    assert lines[3].strip() == "100 GFLOP/s by definition (1.00 GFLOP an image), 50% of a matrix product's"
    assert lines[5] == "torch         50.0 images/s, eager: dcgan_jax is 2.00 times as fast"
