"""What every config resolves to, its networks' parameters and its first steps, against the files in tests/golden.

A change of configs/default.py, of a network or of the step shows as a diff in every file it touches.
"""

import difflib
import json
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from dcgan_jax.config import flatten
from tests import tiny
from tests.test_configs import NAMES, load, started

FOLDER = Path(__file__).parent / "golden"
STEPS = FOLDER / "steps.json"
UPDATE = "run `python -m pytest tests/test_golden.py --update_golden` and look at the diff"

# Fields that the numbers of a step depend on. `tiny.config` has the others: batches of 8, plain convolutions, float32.
OF_THE_STEP = (
    "seed",
    "data.image_size",
    "data.image_width",
    "data.channels",
    "model.",
    "loss",
    "update_order",
    "optimizer.",
)

# Room for other versions of jax and other processors, relative, of the first and the second step. XLA's optimisations
# move numbers by up to 1.3e-5, jax 0.12 beside 0.10 by up to 1.1e-3 in the second step, and an AMD EPYC beside an Intel
# Xeon by up to 1.4e-2 there, with ten layers: Adam's first update is the gradient's sign.
TOLERANCES = (1e-3, 2e-2)


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update_golden"))


def parameters(params: Any) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [
        f"{jax.tree_util.keystr(path, simple=True, separator='/')} {list(leaf.shape)} {leaf.dtype}"
        for path, leaf in leaves
    ]


def describe(config: ConfigDict) -> str:
    """One field a line, then one parameter a line, of the networks that a run on a CPU begins with."""
    state = tiny.abstract_state(started(config))
    lines = [f"config.{name} = {value!r}" for name, value in sorted(flatten(config).items())]
    lines += ["", "generator", *parameters(state.generator.params)]
    lines += ["", "discriminator", *parameters(state.discriminator.params)]
    return "\n".join(lines) + "\n"


def first_steps(config: ConfigDict) -> list[dict[str, float]]:
    """Metrics of two steps on 8 random images with networks of a 16th of the width; the second sees both updates."""
    fields = {name: value for name, value in flatten(config).items() if name.startswith(OF_THE_STEP)}
    _, history = tiny.run_steps(tiny.config({**fields, "model.width": 1 / 16}))
    return [{name: float(f"{value:.6g}") for name, value in sorted(metrics.items())} for metrics in history]


@pytest.mark.parametrize("name", NAMES)
def test_config_and_parameters(name: str, update: bool) -> None:
    file, found = FOLDER / f"{name}.txt", describe(load(name))
    if update:
        file.write_text(found)
    diff = "\n".join(
        difflib.unified_diff(file.read_text().splitlines(), found.splitlines(), "golden", "now", "", "", 0)
    )
    assert not diff, f"configs/{name}.py gives another config or other networks. If that is meant, {UPDATE}.\n{diff}"


@pytest.mark.parametrize("name", NAMES)
def test_first_steps(name: str, update: bool) -> None:
    found = first_steps(load(name))
    golden = json.loads(STEPS.read_text())
    if update:
        golden = {config: steps for config, steps in (golden | {name: found}).items() if config in NAMES}
        STEPS.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    for step, (now, before) in enumerate(zip(found, golden[name], strict=True), 1):
        assert now == pytest.approx(before, rel=TOLERANCES[step - 1]), (
            f"step {step} of configs/{name}.py gives other numbers: runs that resume from checkpoints of before this "
            f"change end elsewhere, and measured results are not repeated. If that is meant, say so in CHANGELOG.md, "
            f"{UPDATE}."
        )


def test_every_config_has_golden_files(update: bool) -> None:
    if update:
        for file in FOLDER.glob("*.txt"):
            if file.stem not in NAMES:
                file.unlink()
    assert sorted(file.stem for file in FOLDER.glob("*.txt")) == NAMES == sorted(json.loads(STEPS.read_text()))
