"""The check of a new card: what it measures, what it skips, and that its page says so."""

import json
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import numpy as np
import pytest

from dcgan_jax.benchmark import check_page, examination, gpu_check
from dcgan_jax.benchmark.gpu_check import Case, Check, Plan
from dcgan_jax.benchmark.trainer import Facts
from dcgan_jax.benchmark.variants import Variant
from dcgan_jax.machine.errors import UserError
from tests import tiny

ROOT = Path(__file__).parents[1]
PLAN = Plan(
    (Case("paper", 8, "bfloat16"), Case("example", 8, "float32")), (50, 1), {"model.width": 0.02}, {}, 600, 120, ()
)


def send_two(connection: Connection, last: int) -> None:
    connection.send(1)
    connection.send(last)
    connection.send(None)


def hang(connection: Connection) -> None:
    connection.send("begun")
    time.sleep(100)


def die(connection: Connection) -> None:
    connection.send("begun")
    os._exit(3)


class FakeSystem:
    """Stands for `system.System`: the matrix product and PyTorch take 0.1 s, this package 0.05 s."""

    log: ClassVar[list[str]] = []
    broken: ClassVar[dict[str, Exception]] = {}

    def __init__(self, variant: Variant, config: Any, platform: str | None, patience: float) -> None:
        name = variant.system
        assert patience > 0 and variant.precision == config.precision and variant.compiled
        if name in self.broken:
            raise self.broken[name]
        self.log.append(f"{name} {config.batch_size} {config.precision} {config.steps_per_call}")
        self.name, self.seconds, self.peak_bytes = name, list[float](), 10**9
        self.facts = Facts("settings", "Card", 1.5, platform or "gpu")

    def take_turn(self) -> None:
        self.seconds.append(0.05 if self.name == "dcgan_jax" else 0.1)

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")

    def kill(self) -> None:
        self.log.append(f"kill {self.name}")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[FakeSystem]:
    monkeypatch.setattr(gpu_check, "System", FakeSystem)
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: name)
    monkeypatch.setattr(FakeSystem, "log", [])
    monkeypatch.setattr(FakeSystem, "broken", {})
    return FakeSystem


def make_check(folder: Path, platform: str = "gpu", seconds: float = 600) -> Check:
    check = Check(PLAN._replace(seconds=seconds), folder, platform)
    check.results["device"] = {"device": "Card", "jax": "1.2.3", "platform": platform}
    return check


def test_speeds_beside_torch_and_the_matrix_product(fakes: type[FakeSystem], tmp_path: Path) -> None:
    make_check(tmp_path).measure_speeds()
    assert fakes.log[:2] == ["jax_product 8 bfloat16 1", "stop jax_product"]
    first = fakes.log.index("dcgan_jax 8 bfloat16 50")
    assert fakes.log[first : first + 6] == [
        "dcgan_jax 8 bfloat16 50", "torch 8 bfloat16 1", "dcgan_jax 8 bfloat16 1",
        "stop dcgan_jax", "stop torch", "stop dcgan_jax",
    ]  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["speeds"]
    assert len(rows) == 6 and results["products"][0]["flops"] == 2 * 8192**3 / 0.1
    for row in rows:
        assert row["device"] == "Card" and row["jax"] == "1.2.3" and row["batch_size"] == 8 and row["precision"]
    assert rows[0]["images_per_second"] == pytest.approx(160) and rows[0]["ratio_to_torch"] == pytest.approx(2)
    assert rows[0]["share_of_product"] == pytest.approx(rows[0]["achieved_flops"] / results["products"][0]["flops"])
    page = (tmp_path / "index.html").read_text()
    assert "times PyTorch" in page and "1.00 GB" in page and "Card" in page and "http" not in page


def test_a_tpu_has_one_process_at_a_time_and_no_torch(fakes: type[FakeSystem], tmp_path: Path) -> None:
    check = make_check(tmp_path, "tpu")
    check.measure_speeds()
    starts = fakes.log[::2]
    assert fakes.log[1::2] == [f"stop {line.split()[0]}" for line in starts]
    assert {"what": "PyTorch", "why": "the peer does not run on TPUs"} in check.results["skipped"]


def test_a_system_that_fails_does_not_take_the_others_along(
    fakes: type[FakeSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.broken["torch"] = UserError("torch computes on the CPU, but the GPU is expected")
    check = make_check(tmp_path)
    check.measure_speeds()
    assert [row["system"] for row in check.results["speeds"]] == ["dcgan_jax"] * 4
    assert "torch computes on the CPU" in check.results["skipped"][0]["why"]

    def fail(self: FakeSystem) -> None:
        raise UserError("dcgan_jax ended with status 1")

    monkeypatch.setattr(fakes, "take_turn", fail)
    check = make_check(tmp_path)
    check.measure_speeds()
    assert "speeds" not in check.results and "products" not in check.results
    assert "kill dcgan_jax" in fakes.log


def test_what_does_not_fit_into_the_time_is_skipped(fakes: type[FakeSystem], tmp_path: Path) -> None:
    check = make_check(tmp_path, seconds=170)  # 165 of them are the real training's
    check.measure_speeds()
    assert fakes.log == []
    skipped = check.results["skipped"]
    assert skipped[0]["what"] == "matrix product, bfloat16" and "it needs about" in skipped[0]["why"]
    assert len(skipped) == 2 + 6
    check = make_check(tmp_path, seconds=30)
    check.train()
    assert check.results["skipped"][0]["what"] == "training"
    assert "Not measured" in (tmp_path / "index.html").read_text()


def test_every_case_is_a_config_that_can_be_trained() -> None:
    full = gpu_check.full_plan(9.5, 2, "configs/toy_bedrooms.py", "pack:/data/x")
    assert {(case.network, case.batch_size, case.precision) for case in full.cases} == {
        (network, batch, precision)
        for network in ("paper", "example")
        for batch in (128, 1024)
        for precision in ("float32", "bfloat16")
    }
    for case in full.cases:
        config = gpu_check.case_config(full, case, 50)
        assert (config.batch_size, config.precision, config.steps_per_call) == (case.batch_size, case.precision, 50)
        assert config.model.width == (1.0 if case.network == "paper" else 0.5) and config.data.placement == "device"
    assert {"--config.data.source=pack:/data/x", "--config.data.num_examples=0"} <= set(full.training)


def test_a_process_that_hangs_or_dies_is_ended() -> None:
    assert list(gpu_check.in_process(send_two, (2,), 60)) == [1, 2]
    start = time.monotonic()
    assert list(gpu_check.in_process(hang, (), 20)) == ["begun"]
    assert list(gpu_check.in_process(die, (), 20)) == ["begun"]
    assert time.monotonic() - start < 60


def test_the_wrong_device_ends_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [("device", {"failed": "UserError: dcgan_jax computes on the CPU, but the GPU is expected"})]
    monkeypatch.setattr(gpu_check, "in_process", lambda *arguments: iter(parts))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # which the check sets, for its processes
    check = Check(PLAN, tmp_path, "gpu")
    with pytest.raises(UserError, match="computes on the CPU"):
        gpu_check.run(check)
    assert "failed" in json.loads((tmp_path / "results.json").read_text())["device"]


def test_library_calls_are_counted_by_kind() -> None:
    hlo = """
      %a = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%x, %y), custom_call_target="__cudnn$convForward", metadata={}
      %b = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%x, %y), custom_call_target="__cudnn$convBackwardInput"
      %c = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%x, %y), custom_call_target="__cudnn$convForward"
      %d = f32[8,4]{1,0} custom-call(%x, %y), custom_call_target="__cublas$gemm"
      %e = f32[8,4]{1,0} convolution(%x, %y), window={size=3x3}
      %f = f32[8,4]{1,0} custom-call(%x), custom_call_target="Sharding"
    """
    assert examination.library_calls(hlo) == {
        "__cudnn$convForward": 2,
        "__cudnn$convBackwardInput": 1,
        "__cublas$gemm": 1,
        "convolution": 1,
    }


def test_kernels_are_summed_over_streams() -> None:
    def line(name: str, **nanoseconds: float) -> SimpleNamespace:
        events = [SimpleNamespace(name=kernel, duration_ns=ns) for kernel, ns in nanoseconds.items()]
        return SimpleNamespace(name=name, events=events)

    planes = [
        SimpleNamespace(name="/host:CPU", lines=[line("Stream of nothing", python=9e9)]),
        SimpleNamespace(
            name="/device:GPU:0",
            lines=[
                line("Stream #1(Compute)", conv=6e6, fusion=1e6),
                line("Stream #2(Compute)", conv=3e6),
                line("XLA Modules", step=10e6),
            ],
        ),
    ]
    assert examination.top_kernels(planes, 2) == {
        "ms_a_step": 5.0,
        "kernels": [
            {"kernel": "conv", "calls_a_step": 1.0, "ms_a_step": 4.5, "share": 0.9},
            {"kernel": "fusion", "calls_a_step": 0.5, "ms_a_step": 0.5, "share": 0.1},
        ],
    }
    assert examination.top_kernels(planes[:1], 2)["kernels"] == []


def test_differences_name_the_worst_tensor() -> None:
    states, history = tiny.run_steps(tiny.config({"update_order": "discriminator_first"}))
    metrics = {name: np.float32(value) for name, value in history[0].items()}
    assert examination.differences((states[1], metrics), (states[1], metrics))["ok"] is True

    worse = metrics | {"d_loss": metrics["d_loss"] * np.float32(1.5)}
    found = examination.differences((states[1], worse), (states[1], metrics))
    assert found["first_update"] == {"largest": pytest.approx(0.5), "tensor": "['metrics']['d_loss']"}
    assert found["second_update"]["largest"] == 0 and found["ok"] is False

    player = states[1].generator
    broken = player.replace(opt_state=jax.tree.map(lambda leaf: leaf * np.float32("nan"), player.opt_state))
    found = examination.differences((states[1].replace(generator=broken), metrics), (states[1], metrics))
    assert found["second_update"]["largest"] == float("inf") and found["ok"] is False


def test_compiled_step_is_described() -> None:
    changes = {"data.placement": "device", "steps_per_call": 2, "batch_size": 4}
    found = examination.compiled(tiny.config(changes))
    assert found["steps_per_call"] == 2 and found["compile_seconds"] > 0 and found["calls"]["convolution"] > 4
    assert found["precision"] == "float32" and found["batch_size"] == 4 and found["device"] == "cpu"


def test_a_run_is_read_with_its_newest_sheet(tmp_path: Path) -> None:
    assert gpu_check.read_run(tmp_path / "run1", tmp_path) == {}
    samples = tmp_path / "run1" / "samples"
    samples.mkdir(parents=True)
    for step in (2, 10):
        (samples / f"step_{step:08d}.png").write_bytes(b"sheet %d" % step)
    lines = [{"step": step, "d_loss": 1.0, "images_per_second": 10.0 * step} for step in (1, 2, 3)]
    (tmp_path / "run1" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = gpu_check.read_run(tmp_path / "run1", tmp_path)
    assert result == {"step": 3, "d_loss": 1.0, "images_per_second": 20.0, "sheet": "sheet.png", "sheet_step": 10}
    page = check_page.page({"training": result}, tmp_path)
    assert "data:image/png;base64,c2hlZXQgMTA=" in page


def test_page_of_what_failed_is_readable(tmp_path: Path) -> None:
    results = {"device": {"device": "<Card>", "jax": "1"}, "profile": {"failed": "RuntimeError: a < b"}}
    page = check_page.page(results, tmp_path)
    assert "&lt;Card&gt;" in page and "a &lt; b" in page and 'class="bad"' in page
    assert check_page.text("peak_memory_bytes", 1.5e9) == "1.50 GB" and check_page.text("share", 0.5) == "50.0%"


@pytest.mark.long
def test_quick_check_on_this_machine(tmp_path: Path) -> None:
    """All parts, with tiny networks; what cannot be measured on a CPU is skipped, and nothing fails."""
    command = ["bash", "launch/gpu_check.sh", f"--out={tmp_path}", "--quick", "--platform=cpu"]
    environment = os.environ | {"PYTHON": sys.executable, "XDG_CACHE_HOME": f"{tmp_path}/cache"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert "failed" not in json.dumps(results)
    assert results["jit_and_cpu"]["ok"] and results["jit_and_eager"]["ok"]
    assert results["compiled"]["calls"]["convolution"] > 4
    assert {row["steps_per_call"] for row in results["speeds"] if row["system"] == "dcgan_jax"} == {1, 2}
    assert results["training"]["step"] == 4 and results["training"]["exit_status"] == 0
    assert "data:image/png;base64," in (tmp_path / "index.html").read_text()
