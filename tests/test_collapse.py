"""Runs that collapse: where they go back to, what they do otherwise from then on, and that a stop changes nothing."""

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dcgan_jax import training
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.batches import Batches
from dcgan_jax.metrics import measures
from dcgan_jax.runs import checkpoint, collapse, recorder, run_folder
from dcgan_jax.runs.collapse import Collapsed
from dcgan_jax.runs.rollbacks import add_rollback, collapses, rollbacks, rollbacks_before
from dcgan_jax.train_state import GANState, build_gan
from dcgan_jax.train_step import make_mapped_step
from tests import tiny
from tests.test_training import assert_equal, diverge_at

pytestmark = pytest.mark.usefixtures("no_tensorflow")


def run_config(source: str, changes: Mapping[str, Any] = {}) -> ConfigDict:
    """Ten steps, with a sheet and a checkpoint after each; alarms of collapse take the run back."""
    every = {"sample_every": 1, "checkpoint_every": 1, "keep_checkpoints": 99}
    return tiny.config({"data.source": source, "num_steps": 10, **every, "on_collapse": "rollback", **changes})


def write_lines(workdir: Path, *rows: dict[str, float]) -> None:
    run_folder.metrics(workdir).write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines(workdir: Path) -> list[dict[str, float]]:
    """metrics.jsonl without the speed."""
    return [
        {name: row[name] for name in row if name != "images_per_second"} for row in run_folder.read_metrics(workdir)
    ]


def checkpoints(workdir: Path) -> list[str]:
    return sorted(path.name for path in run_folder.checkpoints(workdir).iterdir())


def draw_alike(
    monkeypatch: pytest.MonkeyPatch, first: int, last: int = 10**6, times: int = 1, others: float = 1.0
) -> None:
    """The sheets of these steps show samples that are all alike, in the first `times` of a run and its rollbacks.

    The diversity of the other sheets is `others`.
    """

    def write_sheet(self: recorder.Recorder, step: int, state: GANState) -> dict[str, float]:
        return {"diversity": 0.0 if first <= step <= last and len(rollbacks(self._workdir)) < times else others}

    monkeypatch.setattr(recorder.Recorder, "_write_sheet", write_sheet)


def measure(monkeypatch: pytest.MonkeyPatch, distance: Callable[[int], float]) -> None:
    """Evaluations find these distances, by the step."""

    def make_evaluate(*args: Any) -> recorder.Evaluate:
        return lambda state: {"probe_frechet": distance(int(state.step)), "evaluation": 7}

    monkeypatch.setattr(measures, "make_evaluate", make_evaluate)


# --- Where a run goes back to ----------------------------------------------------------------------------------------


def test_the_way_back_is_the_best_checkpoint_before_the_first_sign(tmp_path: Path) -> None:
    distances = {10: 9.0, 20: 4.0, 30: 5.0, 40: 3.0}
    write_lines(tmp_path, *({"step": step, "probe_frechet": value} for step, value in distances.items()))
    steps = [10, 20, 30, 40, 50]
    assert collapse.way_back(tmp_path, steps, 60) == 40
    assert collapse.way_back(tmp_path, steps, 40) == 20  # that of the first sign itself is out
    assert collapse.way_back(tmp_path, [10, 30, 50], 40) == 30
    assert collapse.way_back(tmp_path, [50], 60) == 50  # none was evaluated: the newest
    assert collapse.way_back(tmp_path, [10], 10) is None


def test_without_evaluations_the_way_back_is_the_newest_before(tmp_path: Path) -> None:
    write_lines(tmp_path, {"step": 10, "d_loss": 1.0})
    assert collapse.way_back(tmp_path, [10, 20, 30], 30) == 20
    assert collapse.way_back(tmp_path, [], 30) is None


# --- Going back ------------------------------------------------------------------------------------------------------


class Recovered(NamedTuple):
    """A run whose sheets are alike from step 5 on, until it has gone back once; with a checkpoint after every step."""

    workdir: Path
    state: GANState
    console: str


@pytest.fixture(scope="module")
def recovered(source: str, tmp_path_factory: pytest.TempPathFactory) -> Recovered:
    workdir, console = tmp_path_factory.mktemp("runs") / "recovered", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(console):
        patch.setattr("importlib.util.find_spec", lambda name: None)
        draw_alike(patch, 5)
        state = training.train(run_config(source), workdir).state
    return Recovered(workdir, state, console.getvalue())


def test_a_collapsed_run_goes_back_and_ends(recovered: Recovered) -> None:
    workdir = recovered.workdir
    assert int(recovered.state.step) == 10
    (noted,) = rollbacks(workdir)
    assert (noted["kind"], noted["collapsed_at"], noted["back_to"]) == ("collapse", 7, 4)  # at the third sheet
    assert "alarm_alike at step 7, with signs since step 5; the checkpoint of step 4 is kept" in noted["reason"]
    assert set(checkpoints(workdir)) == {str(step) for step in range(1, 11)} | {"5.collapsed", "6.collapsed"}
    assert [row["step"] for row in lines(workdir)] == list(range(1, 11))
    assert all(row["diversity"] == 1.0 and "alarm_alike" not in row for row in lines(workdir))

    before, after = recovered.console.split("Going back to step 4, rollback 1 of 3.")
    assert "WARNING: training has collapsed: alarm_alike at step 7" in before
    assert "learns 0.5 times as fast" in after and "learns 0.5 times as fast" not in before


def test_after_a_collapse_d_learns_half_as_fast_from_other_noise(recovered: Recovered, source: str) -> None:
    """From the checkpoint on, the steps of a config with half the rate, made one by one."""
    config = run_config(source, {"optimizer.discriminator_learning_rate": 1e-4})
    assert run_config(source).optimizer.discriminator_learning_rate == 2e-4
    gan, mesh = build_gan(config), tiny.mesh(4)
    batches = Batches(config, opening.open_or_build(config.data), mesh)
    expected = training.start_state(gan, recovered.workdir, 4, mesh)
    step = make_mapped_step(gan, mesh, config.mapper, 1)
    for _, call in batches.from_step(4, 10):
        expected, _ = step(expected, batches.pack, call)
    assert_equal(expected, recovered.state)


class Killed(BaseException):
    """Where the process is killed: nothing is cleaned up there, so it is as with kill -9."""


def kill_at_call(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, after: bool = False) -> None:
    """In place of the call of that number, from 1; or `after` it."""
    function, calls = getattr(owner, name), []

    def call(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number and not after:
            raise Killed
        result = function(*args)
        if len(calls) == number:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(
    "moment",
    [
        "between two checkpoints moved aside",
        pytest.param("before it is noted", marks=pytest.mark.long),
        "after it is noted",
        "after the return",
    ],
)
def test_killed_on_the_way_back(
    recovered: Recovered, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The same command goes on, and ends where a run that was not killed ends."""
    config = run_config(source)
    draw_alike(monkeypatch, 5)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "between two checkpoints moved aside":
            kill_at_call(patch, checkpoint, "_rename_to_free", 2)
        elif moment == "after the return":  # three steps later
            kill_at_call(patch, recorder.Recorder, "after_call", 7 + 3)
        else:
            kill_at_call(patch, training.rollbacks, "add_rollback", 1, after=moment == "after it is noted")
        training.train(config, tmp_path)
    if moment == "between two checkpoints moved aside":
        assert checkpoints(tmp_path) == ["1", "2", "3", "4", "5", "6.collapsed"]
    assert_equal(training.train(config, tmp_path).state, recovered.state)
    assert lines(tmp_path) == lines(recovered.workdir)
    assert rollbacks(tmp_path) == rollbacks(recovered.workdir)
    assert run_folder.steps(tmp_path) == run_folder.steps(recovered.workdir)


@pytest.mark.parametrize("diversity", [1.0, 0.4])
def test_back_to_the_best_one_when_samples_become_worse(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diversity: float
) -> None:
    """That of step 4, not the newest before the signs; two evaluations of more than 6 are the alarm.

    Samples that are narrow from the first sheet on, but give no alarm yet, take it no further back.
    """
    distances = {2: 5.0, 4: 2.0, 6: 3.0, 8: 6.1, 10: 6.1, 12: 6.1}
    measure(monkeypatch, lambda step: distances[step] if not rollbacks(tmp_path) else 1.0)
    draw_alike(monkeypatch, 99, others=diversity)
    changes = {"eval_every": 2, "sample_every": 2, "checkpoint_every": 2, "keep_checkpoints": 2}
    config = run_config(source, {"num_steps": 12, **changes})
    training.train(config, tmp_path)
    (noted,) = rollbacks(tmp_path)
    assert (noted["collapsed_at"], noted["back_to"]) == (10, 4)
    assert "alarm_worse" in noted["reason"]
    assert {"6.collapsed", "8.collapsed"} <= set(checkpoints(tmp_path))
    assert [row["probe_frechet"] for row in lines(tmp_path) if "probe_frechet" in row] == [5, 2, 1, 1, 1, 1]


def test_back_to_a_fresh_state_where_there_is_no_checkpoint(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_alike(monkeypatch, 2)
    training.train(run_config(source, {"num_steps": 5, "checkpoint_every": 3}), tmp_path)
    assert "no checkpoint of before" in rollbacks(tmp_path)[0]["reason"]
    assert rollbacks(tmp_path)[0]["back_to"] == 0
    assert "Going back to the start" in capsys.readouterr().out
    assert checkpoints(tmp_path) == ["3", "3.collapsed", "5"]
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3, 4, 5]


def test_rollbacks_of_both_kinds_are_counted_and_only_collapses_slow_d_down(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, train_from = [], training.train_from

    def spied_train_from(*args: Any) -> GANState:
        rates.append(args[3])
        return train_from(*args)

    monkeypatch.setattr(training, "train_from", spied_train_from)
    diverge_at(2, monkeypatch)
    draw_alike(monkeypatch, 3, times=9)
    config = run_config(source, {"on_nonfinite": "rollback", "max_rollbacks": 2})
    with pytest.raises(Collapsed, match=r"alarm_alike at step 5, with signs since step 3; the checkpoint of step 2"):
        training.train(config, tmp_path)
    assert [rollback["kind"] for rollback in rollbacks(tmp_path)] == ["divergence", "collapse"]
    assert rates == [1, 1, 0.5]
    assert max(run_folder.steps(tmp_path)) == 4  # the state of the alarm's step is not saved


def test_stop_keeps_what_was_good_and_the_command_goes_on_with_another_setting(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_alike(monkeypatch, 5)
    message = r"collapsed: alarm_alike at step 7, with signs since step 5; the checkpoint of step 4 is kept"
    with pytest.raises(Collapsed, match=message):
        training.train(run_config(source, {"on_collapse": "stop", "keep_checkpoints": 1}), tmp_path)
    # Of the newest one alone, step 4 would be gone. The state of the alarm's step is not saved.
    assert checkpoints(tmp_path) == ["4", "6"]
    assert rollbacks(tmp_path) == []

    assert training.train(run_config(source, {"on_collapse": "warn", "num_steps": 8}), tmp_path).step == 8
    assert [row["step"] for row in lines(tmp_path) if "alarm_alike" in row] == [7, 8]

    # A run that has collapsed already goes back at the next line.
    assert training.train(run_config(source), tmp_path).step == 10
    assert [(rollback["collapsed_at"], rollback["back_to"]) for rollback in rollbacks(tmp_path)] == [(9, 4)]
    assert not any("alarm_alike" in row for row in lines(tmp_path))


def test_the_way_back_of_each_sign_is_kept(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow from the first sheet on, alike from step 5 on: what is kept is from before step 5."""
    draw_alike(monkeypatch, 5, others=0.4)
    with pytest.raises(Collapsed, match="signs since step 5; the checkpoint of step 4 is kept"):
        training.train(run_config(source, {"on_collapse": "stop", "keep_checkpoints": 1}), tmp_path)
    assert checkpoints(tmp_path) == ["4", "6"]


@pytest.mark.long
def test_a_discriminator_that_wins_is_slowed_down_until_it_does_not(source: str, tmp_path: Path) -> None:
    """Nothing is faked: with these rates D wins within fifty steps, and half of its rate is slow enough."""
    rates = {"optimizer.discriminator_learning_rate": 1e-2, "optimizer.generator_learning_rate": 1e-4}
    config = {"num_steps": 150, "checkpoint_every": 10, "sample_every": 0, "max_rollbacks": 5, **rates}
    training.train(run_config(source, {**config, "on_collapse": "warn"}), tmp_path / "warned")
    assert any("alarm_d_wins" in row for row in lines(tmp_path / "warned"))
    assert training.train(run_config(source, config), tmp_path / "taken back").step == 150
    assert 1 <= collapses(tmp_path / "taken back") <= 5
    assert not any("alarm_d_wins" in row for row in lines(tmp_path / "taken back"))


# --- rollbacks.json --------------------------------------------------------------------------------------------------


def test_notes_of_earlier_versions_are_divergences(tmp_path: Path) -> None:
    old = [{"diverged_at": 6, "reason": "text"}, {"diverged_at": 9, "back_to": 4, "reason": "text"}]
    run_folder.rollbacks_file(tmp_path).write_text(json.dumps(old))
    assert (rollbacks_before(tmp_path, 4), collapses(tmp_path)) == (2, 0)
    add_rollback(tmp_path, "collapse", 20, 10, "reason")
    assert (rollbacks_before(tmp_path, 10), collapses(tmp_path)) == (3, 1)
    assert (rollbacks_before(tmp_path, 9), collapses(tmp_path)) == (2, 0)
    assert rollbacks(tmp_path) == old


def test_a_return_to_an_earlier_checkpoint_does_not_forget_the_one_before(tmp_path: Path) -> None:
    add_rollback(tmp_path, "collapse", 50, 30, "reason")
    add_rollback(tmp_path, "collapse", 45, 10, "reason")
    assert (rollbacks_before(tmp_path, 10), collapses(tmp_path)) == (2, 2)
    assert (rollbacks_before(tmp_path, 9), collapses(tmp_path)) == (0, 0)


def test_the_rate_of_d_alone_is_scaled_and_the_state_stays_as_it_is(source: str) -> None:
    """Adam's first update is the rate times the gradient's sign, here of ones: exactly half as large."""
    config = run_config(source, {"optimizer.l2": 0.0})
    whole, half = build_gan(config), build_gan(config, 0.5)
    ones = {"a": np.ones(3, np.float32)}
    states = [gan.discriminator_optimizer.init(ones) for gan in (whole, half)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    updates = [
        gan.discriminator_optimizer.update(ones, state, ones)[0]["a"]
        for gan, state in zip((whole, half), states, strict=True)
    ]
    np.testing.assert_array_equal(2 * updates[1], updates[0])
    same = [
        gan.generator_optimizer.update(ones, gan.generator_optimizer.init(ones), ones)[0]["a"] for gan in (whole, half)
    ]
    np.testing.assert_array_equal(*same)
