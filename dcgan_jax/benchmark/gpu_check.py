"""Ten minutes on a new GPU or TPU: is the training step right there, how fast is it, and what holds it back?

    python -m dcgan_jax.benchmark.gpu_check --out=check [--minutes=10] [--source=pack:/path] [--quick]

launch/gpu_check.sh runs it without installing anything. It needs no network. It writes check/results.json and one
page, check/index.html, and again after every part, so that what is known stays if the machine goes away:

    device          the card, versions, memory
    jit_and_cpu     one training step in float32 on the card beside the same on the CPU: largest relative differences
    compiled        compile time of the paper's step; the library calls that its convolutions became
    profile         the kernels that take the longest
    jit_and_eager   the compiled step beside its operations one by one
    speeds          images/s of two networks, batches 128 and 1024, bfloat16 and float32, 1 and 50 steps a call on
                    resident random images; PyTorch beside them where it is installed (torch_peer.py); a matrix product
                    of the same precision, and the share of it that the step reaches by definition (nets/flops.py)
    training        a real run of two minutes, with its last sheet

A part for which no time is left is skipped, and the page says so; the speeds that matter most come first, and all of
them need more than ten minutes. One card is measured, the first, unless CUDA_VISIBLE_DEVICES says otherwise; on a TPU
all chips of the host. float32 means what the device makes of it: TF32 on newer GPUs, products of bfloat16 on TPUs.
"""

import contextlib
import itertools
import json
import math
import multiprocessing
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from dcgan_jax import command_line
from dcgan_jax.benchmark import check_page, devices, examination, matrix_product
from dcgan_jax.benchmark.system import System
from dcgan_jax.benchmark.variants import Variant
from dcgan_jax.config import load_config
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets import flops

_ROOT = Path(__file__).parents[2]
# The two networks of docs/performance.md, as launch/benchmark.sh gives them. In this order PyTorch's fakes are reused.
NETWORKS: dict[str, dict[str, Any]] = {
    "paper": {},
    "example": {
        "model.kernel_size": 4,
        "model.width": 0.5,
        "model.generator.projection_norm": "channel",
        "model.norm_epsilon": 1e-5,
    },
}
_ORDER = {"update_order": "discriminator_first"}
_ROUNDS = 5
# Seconds: the longest that a process may take for an answer (torch.compile and autotuning take the longest), what
# starting and ending a run takes besides its training, and what a system needs before any has been timed.
_PATIENCE, _RUN_OVERHEAD, _FIRST_SYSTEM = 240.0, 45.0, 30.0


class Case(NamedTuple):
    """What is trained: a network of NETWORKS, the batch, and config.precision."""

    network: str
    batch_size: int
    precision: str


class Plan(NamedTuple):
    """How much is done.

    Attributes:
      cases: of the speeds, those that matter most first.
      steps: a call, of this package.
      changes: to configs/lsun.py, for the speeds and for what is compiled.
      small: changes for the step that is compared.
      seconds: for everything; for the real training.
      training: flags of dcgan_jax.main.
    """

    cases: tuple[Case, ...]
    steps: tuple[int, ...]
    changes: dict[str, Any]
    small: dict[str, Any]
    seconds: float
    train_seconds: float
    training: tuple[str, ...]


def full_plan(minutes: float, train_minutes: float, config: str, source: str) -> Plan:
    """For a card. `config`, `source`: of the real training; source '' is the config's own."""
    cases = (
        Case("paper", 128, "bfloat16"),
        Case("paper", 1024, "bfloat16"),
        Case("example", 128, "bfloat16"),
        Case("paper", 128, "float32"),
        Case("example", 1024, "bfloat16"),
        Case("paper", 1024, "float32"),
        Case("example", 128, "float32"),
        Case("example", 1024, "float32"),
    )
    # Rendering takes a second for 500 images on each core: 2,000 are enough for two minutes.
    images: tuple[str, ...] = ("--config.data.num_examples=2000",)
    if source:  # all of it: a pack is refused when a config asks for a part, or leaves duplicates out
        images = (f"--config.data.source={source}", "--config.data.num_examples=0", "--config.data.dedup=False")
    training = (
        f"--config={config}", *images, "--config.num_steps=1000000", "--config.log_every=50",
        "--config.sample_every=200", "--config.checkpoint_every=2000",
    )  # fmt: skip
    small = {"model.width": 0.125, "batch_size": 16}
    return Plan(cases, (50, 1), {}, small, 60 * minutes, 60 * train_minutes, training)


def quick_plan(minutes: float, source: str) -> Plan:
    """Tiny networks: shows that all parts work, on any machine. Its figures say nothing."""
    stages: dict[str, Any] = {
        "data.image_size": 16,
        "model.generator.stages": ((16, 2), (8, 2)),
        "model.discriminator.stages": ((8, 2), (16, 2)),
        "conv": "lax",
    }
    training = (
        "--config=configs/default.py", f"--config.data.source={source or 'toy_bedrooms'}",
        *(() if source else ("--config.data.num_examples=64",)), "--config.data.image_size=16", "--config.batch_size=8",
        "--config.model.generator.stages=((16,2),(8,2))", "--config.model.discriminator.stages=((8,2),(16,2))",
        "--config.conv=lax", "--config.num_steps=4", "--config.log_every=2", "--config.sample_every=2",
        "--config.checkpoint_every=0",
    )  # fmt: skip
    small = {**stages, "batch_size": 4}
    cases = (Case("paper", 4, "float32"),)
    return Plan(cases, (2, 1), {**stages, "model.width": 1.0}, small, 60 * minutes, 60, training)


@dataclass
class Check:
    """One check: what is known so far, and how much time is left.

    Attributes:
      plan: see `Plan`.
      out: folder of the results.
      results: what results.json holds.
      platform: 'cpu', 'gpu' or 'tpu', which is expected and then found.
    """

    plan: Plan
    out: Path
    platform: str | None
    results: dict[str, Any] = field(default_factory=dict)
    _end: float = 0.0
    _slowest: dict[str, float] = field(default_factory=dict)  # seconds up to readiness, by system

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.plan.seconds

    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def save(self) -> None:
        """Writes results.json and the page, which hold the sheet of the real training too."""
        text = json.dumps(_finite(self.results), indent=2, allow_nan=False)
        files.write_atomically(self.out / "results.json", (text + "\n").encode())
        files.write_atomically(self.out / "index.html", check_page.page(self.results, self.out).encode())

    def note(self, name: str, result: Any) -> None:
        """Keeps the result of a part, and says so."""
        self.results[name] = result
        self.save()
        print(f"{name}: {check_page.summary(result)}", flush=True)

    def skip(self, what: str, why: str) -> None:
        """Keeps that something was not measured."""
        self.results.setdefault("skipped", []).append({"what": what, "why": why})
        self.save()
        print(f"skipped {what}: {why}", flush=True)

    # --- Parts ---

    def examine(self) -> None:
        """The parts of `examination`. Raises UserError if the device is not the expected one."""
        plan = self.plan
        case = plan.cases[0]
        configs = {
            "small": _config({**plan.small, **_ORDER, "precision": "float32"}).to_json(),
            "step": case_config(plan, case, 1).to_json(),
        }
        seconds = max(0.0, min(self.left() - self._reserve(), 0.35 * plan.seconds))
        for name, result in in_process(examination.serve, (self.platform, configs, seconds), seconds + 90):
            self.note(name, result)
        device = self.results.get("device", {"failed": "the process that looks at the device ended"})
        if "failed" in device:
            raise UserError(f"the device cannot be used: {device['failed']}")
        self.platform = device["platform"]

    def measure_speeds(self) -> None:
        """All cases while time is left, and a matrix product in each precision."""
        for precision in dict.fromkeys(case.precision for case in self.plan.cases):
            self._measure_product(precision)
        for case in self.plan.cases:
            self._measure_case(case)

    def train(self) -> None:
        """A real run; what its metrics say, and its last sheet as sheet.png."""
        seconds = min(self.plan.train_seconds, self.left() - _RUN_OVERHEAD)
        if seconds < 20:
            self.skip("training", f"{self.left():.0f} s were left")
            return
        workdir = next(path for i in itertools.count(1) if not (path := self.out / f"run{i}").exists())
        command = [sys.executable, "-m", "dcgan_jax.main", *self.plan.training, f"--workdir={workdir}"]
        environment = os.environ | {"PYTHONPATH": f"{_ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        with (self.out / "training.log").open("w") as log:
            process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            start = time.monotonic()
            status = _wait(process, seconds)
        result = read_run(workdir, self.out)
        if "images_per_second" not in result:
            tail = (self.out / "training.log").read_text(errors="replace").splitlines()[-5:]
            result["failed"] = "; ".join(tail) or "no line of metrics"
        about = {name: self.results["device"][name] for name in ("device", "jax")}
        elapsed = round(time.monotonic() - start)
        how = {"exit_status": status, "seconds": elapsed, "command": shlex.join(["python", *command[1:]])}
        self.note("training", about | result | how)

    def _reserve(self) -> float:
        """Seconds that are kept for the real training."""
        return self.plan.train_seconds + _RUN_OVERHEAD

    def _has_time(self, what: str, kind: str) -> bool:
        """Whether a system may be started; if not, that is noted."""
        needed = self._slowest.get(kind, _FIRST_SYSTEM) + 2 * _ROUNDS
        left = self.left() - self._reserve()
        if left < needed:
            self.skip(what, f"{max(0, left):.0f} s were left for speeds; it needs about {needed:.0f}")
        return left >= needed

    def _start(self, system: str, config: ConfigDict, what: str, kind: str) -> System | None:
        if not self._has_time(what, kind):
            return None
        start = time.monotonic()
        patience = min(_PATIENCE, max(30.0, self.left() - self._reserve()))
        # 'compiled' is PyTorch's fastest on a GPU; on a CPU, which only --quick is for, compiling takes a minute.
        variant = Variant(system, config.precision, compiled=self.platform != "cpu")
        try:
            return System(variant, config, self.platform, patience)
        except (UserError, OSError) as error:
            self.skip(what, str(error))
            return None
        finally:
            self._slowest[kind] = max(self._slowest.get(kind, 0), time.monotonic() - start)

    def _measure_product(self, precision: str) -> None:
        config = case_config(self.plan, Case("paper", self.plan.cases[0].batch_size, precision), 1)
        system = self._start("jax_product", config, f"matrix product, {precision}", "product")
        if system:
            _take_turns([system])
        if system and system.seconds:
            found = system.facts.platform
            row = self._about(system, precision) | {"size": matrix_product.size(found)}
            row["flops"] = matrix_product.flops(found, statistics.median(system.seconds))
            self._add("products", row, f"{row['flops'] / 1e12:.3g} TFLOP/s, {system.facts.settings}")

    def _measure_case(self, case: Case) -> None:
        """Both numbers of steps a call and PyTorch, in rounds where they can be resident together."""
        kinds = [("dcgan_jax", steps) for steps in self.plan.steps]
        if find_spec("torch") is None:
            if case == self.plan.cases[0]:
                self.skip("PyTorch", "it is not installed in this environment")
        elif self.platform == "tpu":
            if case == self.plan.cases[0]:
                self.skip("PyTorch", "the peer does not run on TPUs")
        else:
            kinds.insert(1, ("torch", 1))
        systems: list[tuple[System, int]] = []
        for name, steps in kinds:
            config = case_config(self.plan, case, steps)
            what = f"{name}, {case.network}, batch {case.batch_size}, {case.precision}, {steps} steps a call"
            if system := self._start(name, config, what, f"{name} {case.network}"):
                systems.append((system, steps))
                if self.platform == "tpu":
                    _take_turns([system])
        if self.platform != "tpu":
            _take_turns([system for system, _ in systems])
        rows = [self._row(case, system, steps) for system, steps in systems if system.seconds]
        peers = [row["images_per_second"] for row in rows if row["system"] == "torch"]
        for row in rows:
            if peers and row["system"] != "torch":
                row["ratio_to_torch"] = row["images_per_second"] / peers[0]
            self._add("speeds", row, check_page.summary(row))

    def _row(self, case: Case, system: System, steps: int) -> dict[str, Any]:
        speeds = [case.batch_size / seconds for seconds in system.seconds]
        achieved = flops.flops_per_image(case_config(self.plan, case, steps)) * statistics.median(speeds)
        products = [row for row in self.results.get("products", []) if row["precision"] == case.precision]
        return {
            **case._asdict(),
            **self._about(system, case.precision),
            "steps_per_call": steps,
            "images_per_second": statistics.median(speeds),
            "images_per_second_min": min(speeds),
            "images_per_second_max": max(speeds),
            "ready_seconds": system.facts.compile_seconds,
            "peak_memory_bytes": system.peak_bytes,
            "achieved_flops": achieved,
            "share_of_product": achieved / products[0]["flops"] if products else None,
        }

    def _about(self, system: System, precision: str) -> dict[str, Any]:
        facts = system.facts
        about = {"system": system.name, "settings": facts.settings, "device": facts.device, "platform": facts.platform}
        return about | {"precision": precision, "jax": self.results["device"]["jax"]}

    def _add(self, name: str, row: dict[str, Any], line: str) -> None:
        self.results.setdefault(name, []).append(row)
        self.save()
        print(f"{name}: {line}", flush=True)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no nan: they become words."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _config(changes: dict[str, Any]) -> ConfigDict:
    return load_config(_ROOT / "configs" / "lsun.py", changes)


def case_config(plan: Plan, case: Case, steps: int) -> ConfigDict:
    """The config of a case, with its images on the device and `steps` a call."""
    network = {name: value for name, value in NETWORKS[case.network].items() if name not in plan.changes}
    every = {name: 0 for name in ("log_every", "sample_every", "checkpoint_every", "eval_every")}
    changes = {**_ORDER, **network, **plan.changes, **every, "steps_per_call": steps, "data.placement": "device"}
    return _config({**changes, "batch_size": case.batch_size, "precision": case.precision})


def in_process(work: Callable[..., None], arguments: tuple[Any, ...], seconds: float) -> Iterator[Any]:
    """What `work(connection, *arguments)` sends in a process of its own, until it sends None, ends, or time is up."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
    end = time.monotonic() + seconds
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, end - time.monotonic())) and (answer := ours.recv()) is not None:
            yield answer
    except EOFError:
        pass
    finally:
        process.join(5)
        process.kill()  # nothing happens if it has ended
        process.join()


def _take_turns(systems: list[System]) -> None:
    """Rounds of turns, then all are stopped. One that fails has no `seconds` then."""
    for _ in range(_ROUNDS):
        for system in list(systems):
            try:
                system.take_turn()
            except (UserError, OSError) as error:
                print(f"{system.name}: {error}", file=sys.stderr, flush=True)
                system.kill()
                system.seconds.clear()
                systems = [other for other in systems if other is not system]
    for system in systems:
        with contextlib.suppress(UserError, OSError):
            system.stop()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Lets a run train for so long, then asks it to save and end; its exit status."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_RUN_OVERHEAD)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    finally:
        process.kill()


def read_run(workdir: Path, out: Path) -> dict[str, Any]:
    """Speed and losses of a run from its folder; its newest sheet is copied to `out`/sheet.png."""
    result: dict[str, Any] = {}
    metrics = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    speeds = [row["images_per_second"] for row in rows if "images_per_second" in row]
    if rows:
        names = ("step", "d_loss", "g_loss", "d_real", "d_fake")
        result |= {name: rows[-1][name] for name in names if name in rows[-1]}
    if speeds:
        result["images_per_second"] = statistics.median(speeds)
    config = workdir / "config.json"
    if config.exists():
        content = json.loads(config.read_text())
        result |= {name: content[name] for name in ("batch_size", "precision")} | {"source": content["data"]["source"]}
    if sheets := sorted((workdir / "samples").glob("step_*.png")):
        (out / "sheet.png").write_bytes(sheets[-1].read_bytes())
        result |= {"sheet": "sheet.png", "sheet_step": int(sheets[-1].stem.removeprefix("step_"))}
    return result


def run(check: Check) -> None:
    """All parts. Raises UserError if the device is not the expected one."""
    check.results |= {
        "command": shlex.join(["python", "-m", "dcgan_jax.benchmark.gpu_check", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": check.plan.seconds / 60,
    }
    try:
        with tempfile.TemporaryDirectory() as cache:  # empty, so that compile times are those of a first start
            os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
            check.examine()
            check.measure_speeds()
            check.train()
    finally:
        check.results["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        check.results["seconds"] = round(check.plan.seconds - check.left())
        check.save()


def main() -> None:
    out = Path(_OUT.value)
    files.make_writable(out, "--out")
    if _QUICK.value:
        plan = quick_plan(_MINUTES.value, _SOURCE.value)
    else:
        plan = full_plan(_MINUTES.value, _TRAIN_MINUTES.value, _CONFIG.value, _SOURCE.value)
    platform = _PLATFORM.value or devices.expected_platform()
    if platform == "gpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    run(Check(plan, out, platform))
    print(f"{out}/index.html and {out}/results.json")


if __name__ == "__main__":
    _OUT = command_line.define_path("out", None, "Folder for results.json and index.html.", required=True)
    _MINUTES = flags.DEFINE_float("minutes", 9.5, "Time for everything; what does not fit is skipped.", 1.0)
    _TRAIN_MINUTES = flags.DEFINE_float("train_minutes", 2.0, "Of these, for the real training.", 0.0)
    _CONFIG = command_line.define_path("config", "configs/toy_bedrooms.py", "Of the real training.")
    _SOURCE = flags.DEFINE_string("source", "", "Of the real training, as config.data.source says, such as pack:/path.")
    _PLATFORM = flags.DEFINE_enum("platform", None, devices.PLATFORMS, "What to check; default: the best there is.")
    _QUICK = flags.DEFINE_bool("quick", False, "Tiny networks, to see that everything works; also on a CPU.")
    command_line.run(main)
