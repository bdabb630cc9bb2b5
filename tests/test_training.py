"""Whole runs: files, exact resume, signals, divergence, bad input."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import dcgan_jax
from dcgan_jax import training
from dcgan_jax.datasets import opening
from dcgan_jax.datasets.image_dataset import ImageDataset
from dcgan_jax.machine import preemption, processor
from dcgan_jax.machine.errors import Interrupted, UserError
from dcgan_jax.metrics import nearest
from dcgan_jax.runs import checkpoint, recorder, run_folder, run_log, trained
from dcgan_jax.runs.divergence import Diverged
from dcgan_jax.runs.rollbacks import rollbacks
from dcgan_jax.train_state import Gan, GANState, build_gan, create_state
from tests import tiny

pytestmark = pytest.mark.usefixtures("no_tensorflow")


def run_config(source: str, changes: Mapping[str, Any] = {}) -> ConfigDict:
    return tiny.config({"data.source": source, "ema_decay": 0.9, **changes})


def lines(workdir: Path) -> list[dict[str, float]]:
    """metrics.jsonl without the speed, and without what sheets add, which may be drawn after other steps."""
    rows = [json.loads(line) for line in run_folder.metrics(workdir).read_text().splitlines()]
    added = ("images_per_second", "diversity", "alarm_alike", "alarm_narrow")
    return [{name: row[name] for name in row if name not in added} for row in rows]


def assert_equal(a: GANState, b: GANState) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture(scope="module")
def straight(source: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GANState]:
    """A run of seven steps that was never stopped. 20 images, batches of 8: epochs end within batches."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    config = run_config(source, {"num_steps": 7, "sample_every": 3, "checkpoint_every": 3, "keep_checkpoints": 2})
    return workdir, training.train(config, workdir).state


def test_a_run_leaves_its_files(straight: tuple[Path, GANState]) -> None:
    workdir, state = straight
    assert int(state.step) == 7
    assert sorted(path.name for path in run_folder.checkpoints(workdir).iterdir() if path.name.isdigit()) == ["6", "7"]
    assert [row["step"] for row in lines(workdir)] == [1, 2, 3, 4, 5, 6, 7]
    names = {"step", "d_loss", "g_loss", "d_real", "d_fake", "d_grad_norm", "g_grad_norm"}
    assert all(row.keys() == names for row in lines(workdir))
    assert [row["step"] for row in run_folder.read_metrics(workdir) if "diversity" in row] == [3, 6, 7]
    # Networks that have hardly begun draw images that are all alike: the third sheet tells.
    assert [row["step"] for row in run_folder.read_metrics(workdir) if "alarm_alike" in row] == [7]
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == [
        "step_00000003.png",
        "step_00000006.png",
        "step_00000007.png",
    ]
    with Image.open(run_folder.sample_sheet(workdir, 7)) as sheet:
        assert sheet.size == (64, 64)  # 8 x 8 images of 8 pixels


def test_evaluation_stands_in_the_metrics_of_its_step(source: str, tmp_path: Path) -> None:
    config = run_config(source, {"num_steps": 3, "log_every": 0, "eval_every": 2, "eval.num_samples": 16})
    training.train(config, tmp_path)
    assert {row["step"]: "nnd" in row for row in lines(tmp_path)} == {1: False, 2: True, 3: True}


def test_samples_are_compared_with_the_split_that_is_asked_for(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With none it is the pack of training itself, and no other is made; otherwise another split's."""
    asked = []

    def open_others(data: ConfigDict, *, source: str, split: str) -> ImageDataset:
        assert source == ""
        asked.append(split)
        return tiny.dataset(count=5, seed=1)

    monkeypatch.setattr(opening, "open_others", open_others)
    counts = []
    make_measure = nearest.make_measure

    def spied_make_measure(config: ConfigDict, images: np.ndarray, labels: np.ndarray | None) -> Any:
        counts.append(len(images))
        return make_measure(config, images, labels)

    monkeypatch.setattr(nearest, "make_measure", spied_make_measure)
    metrics = ("nnd", "features")
    for split in ("", "test"):
        config = run_config(
            source,
            {"num_steps": 1, "eval_every": 1, "eval.num_samples": 16, "eval.split": split, "eval.metrics": metrics},
        )
        training.train(config, tmp_path / f"run{split}")
        assert ("pixels_memorized" in lines(tmp_path / f"run{split}")[-1]) == bool(split)
    assert (asked, counts) == (["test"], [20, 5])


def test_resumed_and_extended_run_equals_the_straight_one(
    straight: tuple[Path, GANState], source: str, tmp_path: Path
) -> None:
    """Stop in the middle of an epoch, go on, finish, extend: state and metrics are the same bits."""
    for num_steps in (2, 5, 7):
        state = training.train(run_config(source, {"num_steps": num_steps, "log_every": 1}), tmp_path).state
    assert_equal(state, straight[1])
    assert lines(tmp_path) == lines(straight[0])


def test_pmap_and_shard_map_continue_each_other(straight: tuple[Path, GANState], source: str, tmp_path: Path) -> None:
    training.train(run_config(source, {"num_steps": 4, "mapper": "pmap", "sample_every": 2}), tmp_path)
    state = training.train(run_config(source, {"num_steps": 7}), tmp_path).state
    assert tiny.largest_difference(state, straight[1]) < 1e-5
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_several_steps_a_call(straight: tuple[Path, GANState], source: str, tmp_path: Path) -> None:
    """Calls of two steps, and a single one at the end: the same run, with lines after calls only."""
    config = run_config(source, {"num_steps": 7, "steps_per_call": 2, "log_every": 2, "data.placement": "device"})
    state = training.train(config, tmp_path).state
    assert int(state.step) == 7
    assert [row["step"] for row in lines(tmp_path)] == [2, 4, 6, 7]
    for row in lines(tmp_path):
        assert row == pytest.approx(lines(straight[0])[int(row["step"]) - 1], rel=1e-4)


def test_running_a_finished_run_again_changes_nothing(straight: tuple[Path, GANState], source: str) -> None:
    workdir, state = straight
    config = run_config(source, {"num_steps": 7, "sample_every": 3, "checkpoint_every": 3, "keep_checkpoints": 2})

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in [*workdir.rglob("*.png"), run_folder.metrics(workdir)]}

    before = contents()
    assert_equal(training.train(config, workdir).state, state)
    assert contents() == before


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Tests that run behind `nohup` or in the background of a script inherit signals that are ignored."""
    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_save_and_the_same_command_goes_on(
    straight: tuple[Path, GANState],
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signum: signal.Signals,
) -> None:
    after_call = recorder.Recorder.after_call

    def stop_at_step_4(self: recorder.Recorder, step: int, state: GANState, metrics: dict[str, jax.Array]) -> None:
        after_call(self, step, state, metrics)
        if step == 4:
            os.kill(os.getpid(), signum)

    config = run_config(source, {"num_steps": 7})
    handler = signal.getsignal(signum)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="step 4 is saved") as interruption:
        patch.setattr(recorder.Recorder, "after_call", stop_at_step_4)
        training.train(config, tmp_path)
    assert interruption.value.exit_status == {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 129}[signum]
    assert signal.getsignal(signum) is handler
    assert_equal(training.train(config, tmp_path).state, straight[1])
    assert lines(tmp_path) == lines(straight[0])


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nohup` has it: the terminal may be closed, and the run does not end."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemption.stop_requests() as stop_requested:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop_requested() is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("usual_signals")
def test_a_stop_request_is_answered_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with preemption.stop_requests() as stop_requested:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop_requested() == signal.SIGINT
    assert capsys.readouterr().err == "SIGINT: stopping after this step and a save; once more stops at once.\n"


def test_images_may_move_but_not_change(
    straight: tuple[Path, GANState], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checksum decides whether a run is resumed, not the folder's name."""
    here, there, run = tmp_path / "here", tmp_path / "there", tmp_path / "run"
    source = tiny.image_folder(here, 20)
    training.train(run_config(source, {"num_steps": 3}), run)
    here.rename(there)
    state = training.train(run_config(f"folder:{there}/", {"num_steps": 7}), run).state
    assert_equal(state, straight[1])
    assert f"config.data.source: '{source}' before, 'folder:{there}/' from now on" in capsys.readouterr().out
    assert run_folder.load_config(run).data.source == f"folder:{there}/"

    others = tiny.image_folder(tmp_path / "others", 21)
    with pytest.raises(UserError, match="20 images then, 21 now, with other pixels or labels, or in another order"):
        training.train(run_config(others, {"num_steps": 9}), run)
    (run / "data.json").unlink()  # nothing is left that says which images the run has seen
    with pytest.raises(UserError, match=r"another config:\n  data\.source"):
        training.train(run_config(others, {"num_steps": 9}), run)


def test_a_pack_that_was_carried_elsewhere_trains_and_resumes(
    straight: tuple[Path, GANState], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny.image_folder(tmp_path / "images", 20)
    config = run_config(source, {"num_steps": 2, "data.cache_dir": f"{tmp_path}/packs"})
    dcgan_jax.train(config, tmp_path / "run")
    carried = opening.pack_path(config.data).rename(tmp_path / "carried")
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "packs")

    carried_config = run_config(f"pack:{carried}", {"num_steps": 2})
    fresh = dcgan_jax.train(carried_config, tmp_path / "fresh")
    assert fresh.step == 2 and lines(tmp_path / "fresh") == lines(tmp_path / "run")
    run = dcgan_jax.train(run_config(f"pack:{carried}", {"num_steps": 7}), tmp_path / "run")
    assert_equal(run.state, straight[1])
    assert f"'pack:{carried}' from now on" in capsys.readouterr().out


def test_a_run_with_decay_is_extended(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decay = {"optimizer.decay_begin": 1, "optimizer.decay_steps": 2}
    training.train(run_config(source, {"num_steps": 3, **decay}), tmp_path)
    with pytest.raises(UserError, match=r"zero from step 3 on.*a run that is resumed may change them"):
        training.train(run_config(source, {"num_steps": 5, **decay}), tmp_path)
    run = training.train(run_config(source, {"num_steps": 5, **decay, "optimizer.decay_steps": 4}), tmp_path)
    assert run.step == 5
    assert "changed  config.optimizer.decay_steps: 2 before, 4 from now on" in capsys.readouterr().out


@pytest.mark.parametrize("before", [0, 4])
def test_decay_may_begin_or_end_in_a_resumed_run(source: str, tmp_path: Path, before: int) -> None:
    """From step 2 on it is as if it had been so from the start: rates fall from step 2 to 6, or stay.

    The checkpoint of before can still be loaded, with the config of now.
    """
    decay = {"optimizer.decay_begin": 2, "keep_checkpoints": 9}
    for name, early in (("straight", 4 - before), ("resumed", before)):
        training.train(run_config(source, {"num_steps": 2, **decay, "optimizer.decay_steps": early}), tmp_path / name)
        now = run_config(source, {"num_steps": 4, **decay, "optimizer.decay_steps": 4 - before})
        state = training.train(now, tmp_path / name).state
        if name == "straight":
            expected = state
    assert_equal(state, expected)
    assert_equal(trained.load(tmp_path / "resumed", 2).state, trained.load(tmp_path / "straight", 2).state)


def test_a_decay_that_never_begins_is_noted(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decay = {"optimizer.decay_begin": 9, "optimizer.decay_steps": 2}
    training.train(run_config(source, {"num_steps": 1, **decay}), tmp_path)
    assert "the learning rates do not decay: config.optimizer.decay_begin is 9" in capsys.readouterr().out


def test_an_image_a_device_cannot_be_normalised(source: str, tmp_path: Path) -> None:
    """All images would be the same, and the generator without a gradient."""
    with pytest.raises(UserError, match=r"config.batch_size is 1, but batch normalisation"):
        training.train(run_config(source, {"batch_size": 1}), tmp_path)
    local = {"batch_size": 4, "model.cross_replica_norm": False}
    with pytest.raises(UserError, match="leaves one image for each of the 4 devices"):
        training.train(run_config(source, local), tmp_path)


def test_the_time_left_counts_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of a second, and a pause of ten: 1 step/s, and 0.5 steps/s in all."""
    now = [0.0]
    monkeypatch.setattr(recorder.time, "monotonic", lambda: now[0])
    clock = recorder.Clock()
    clock.begin()
    clock.steps, now[0] = 10, 10.0
    with clock.paused({}):
        now[0] = 20.0
    assert clock.rate() == (1.0, 0.5)
    clock.steps, now[0] = 10, 30.0
    assert clock.rate()[1] == pytest.approx(20 / 30)


def test_metrics_that_are_computed_again_are_not_written_twice(
    straight: tuple[Path, GANState], source: str, tmp_path: Path
) -> None:
    training.train(run_config(source, {"num_steps": 2}), tmp_path)
    with run_folder.metrics(tmp_path).open("a") as file:  # as if killed after step 3, in the middle of a line
        file.write('{"step": 3, "d_loss": 9.0}\n{"step": 4, "d_lo')
    training.train(run_config(source, {"num_steps": 7}), tmp_path)
    assert lines(tmp_path) == lines(straight[0])


def test_divergence_names_the_window_and_keeps_the_last_good_checkpoint(source: str, tmp_path: Path) -> None:
    config = run_config(source, {"num_steps": 4, "log_every": 2, "checkpoint_every": 1})
    training.train(config, tmp_path)
    assert run_folder.latest_step(tmp_path) == 4

    abstract = jax.eval_shape(partial(create_state, build_gan(config)))
    state = checkpoint.restore(tmp_path, 4, abstract, tiny.mesh(4))
    params = jax.tree.map(lambda leaf: leaf * np.nan, state.generator.params)
    broken = state.replace(generator=state.generator.replace(params=params))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "start_state", lambda *args: broken)
        with pytest.raises(
            Diverged, match=r"between steps 5 and 5: the generator's loss \(nan\).*the checkpoint of step 4 is kept"
        ):
            training.train(run_config(source, {"num_steps": 20, "log_every": 5, "checkpoint_every": 0}), tmp_path)
    assert run_folder.latest_step(tmp_path) == 4


def test_samples_of_a_run_do_not_depend_on_their_number(straight: tuple[Path, GANState]) -> None:
    run = trained.load(straight[0])
    few, many, other = run.sample(3, seed=5), run.sample(131, seed=5), run.sample(3, seed=6)
    assert few.shape == (3, 8, 8, 3)
    assert many.shape == (131, 8, 8, 3)
    assert few.dtype == np.uint8
    np.testing.assert_array_equal(few, many[:3])
    assert not np.array_equal(few, other)


def test_bad_input_is_told_before_any_training(source: str, tmp_path: Path) -> None:
    cases = [
        (run_config("folder:/does/not/exist"), "/does/not/exist"),
        (run_config(source, {"batch_size": 24}), "20 images, fewer than one batch of 24"),
        (run_config(source, {"batch_size": 6}), "batch_size 6 is not divisible by the 4 devices"),
        (run_config(source, {"model.num_classes": 2}), "has no labels"),
        (run_config(source, {"data.image_size": 30}), "multiples of 4: set --config.data.image_size to 28 or 32"),
        (run_config(source, {"num_steps": 0}), "config.num_steps is 0"),
    ]
    for i, (config, message) in enumerate(cases):
        with pytest.raises(UserError, match=message):
            training.train(config, tmp_path / str(i))
        assert not run_folder.checkpoints(tmp_path / str(i)).exists()


def test_tensorboard_that_fails_does_not_stop_the_run(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def write_scalars(self, step: int, values: dict[str, float]) -> None:
            raise OSError("disk full")

    monkeypatch.setattr(run_log, "_open_tensorboard", lambda workdir, warn: Broken())
    training.train(run_config(source, {"num_steps": 2}), tmp_path)
    assert [row["step"] for row in lines(tmp_path)] == [1, 2]
    assert capsys.readouterr().out.count("warning: TensorBoard files end here: disk full") == 1


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5s"), (65, "1m05s"), (3725, "1h02m")])
def test_durations(seconds: float, text: str) -> None:
    assert run_log.format_duration(seconds) == text


def diverge_at(step: int, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """The state that leaves this step is not finite, in the first `times` of a run and its rollbacks."""
    make = training.make_mapped_step

    def make_broken(gan: Gan, mesh: jax.sharding.Mesh, mapper: str, rollbacks: int) -> Any:
        function = make(gan, mesh, mapper, rollbacks)

        def call(state: GANState, *rest: Any) -> Any:
            state, metrics = function(state, *rest)
            if rollbacks < times and int(state.step) == step:
                params = jax.tree.map(lambda leaf: leaf * np.nan, state.discriminator.params)
                state = state.replace(discriminator=state.discriminator.replace(params=params))
            return state, metrics

        return call

    monkeypatch.setattr(training, "make_mapped_step", make_broken)


def test_rollback_goes_on_from_the_checkpoint_with_fresh_noise(
    straight: tuple[Path, GANState], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(source, {"num_steps": 7, "checkpoint_every": 3, "on_nonfinite": "rollback"})
    with monkeypatch.context() as patch:
        diverge_at(5, patch)
        state = training.train(config, tmp_path / "rolled").state
    rows, before = lines(tmp_path / "rolled"), lines(straight[0])
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert rows[:3] == before[:3]
    assert rows[3] != before[3]  # the same images, other noise
    (noted,) = rollbacks(tmp_path / "rolled")
    assert noted["diverged_at"] == 6
    assert "the checkpoint of step 3 is kept" in noted["reason"]

    # One that is stopped after the rollback goes on with the same noise.
    with monkeypatch.context() as patch:
        diverge_at(5, patch)
        shorter = run_config(source, {"num_steps": 6, "checkpoint_every": 3, "on_nonfinite": "rollback"})
        training.train(shorter, tmp_path / "stopped")
    assert_equal(training.train(config, tmp_path / "stopped").state, state)


def test_rollbacks_are_counted(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverge_at(2, monkeypatch, times=9)
    config = run_config(source, {"num_steps": 7, "checkpoint_every": 1, "on_nonfinite": "rollback", "max_rollbacks": 2})
    with pytest.raises(Diverged, match=r"steps 2 and 2: discriminator/params/conv1 of the state is not finite"):
        training.train(config, tmp_path)
    assert len(rollbacks(tmp_path)) == 2
    assert run_folder.latest_step(tmp_path) == 1  # a state that is not finite is never saved


def test_a_run_that_loses_checkpoints_from_after_a_rollback_comes_to_it_again(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends where it ended before: what it draws depends on the step, not on what happened later."""
    diverge_at(5, monkeypatch)
    config = run_config(
        source, {"num_steps": 7, "checkpoint_every": 2, "on_nonfinite": "rollback", "keep_checkpoints": 9}
    )
    state, before = training.train(config, tmp_path).state, lines(tmp_path)
    assert [rollback["back_to"] for rollback in rollbacks(tmp_path)] == [4]
    for step in (4, 6, 7):
        (run_folder.checkpoint(tmp_path, step) / "default" / "manifest.ocdbt").unlink()
    assert_equal(training.train(config, tmp_path).state, state)
    assert lines(tmp_path) == before
    assert len(rollbacks(tmp_path)) == 1


def fill_disk(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> None:
    """No save succeeds; each takes at least so long."""

    def fail(self: Any, directory: Any) -> None:
        time.sleep(seconds)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint._Handler, "finalize", fail)


def test_three_saves_in_vain_end_the_run_before_a_fourth(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch)
    with pytest.raises(UserError, match=r"3 saves in a row have failed: .* after step 150 .*No space left"):
        training.train(run_config(source, {"num_steps": 200, "checkpoint_every": 50}), tmp_path)
    assert lines(tmp_path)[-1]["step"] < 200


def test_divergence_is_told_even_if_saves_have_failed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, seconds=0.3)  # the third save is under way when the fourth state is seen not to be finite
    diverge_at(4, monkeypatch)
    with pytest.raises(Diverged, match=r"steps 4 and 4: .* not finite; no checkpoint .*; 3 saves .* step 3 .*No space"):
        training.train(run_config(source, {"num_steps": 7, "checkpoint_every": 1}), tmp_path)


def test_the_line_of_a_step_is_on_the_disk_before_its_checkpoint(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, saved = [], []
    save = checkpoint.Checkpoints.save
    monkeypatch.setattr(run_log.RunLog, "sync", lambda self: synced.append(lines(tmp_path)[-1]["step"]))

    def spied_save(self: checkpoint.Checkpoints, state: GANState, **options: Any) -> None:
        saved.append(synced[-1])
        save(self, state, **options)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", spied_save)
    training.train(run_config(source, {"num_steps": 4, "checkpoint_every": 2}), tmp_path)
    assert saved == [2, 4]


def test_a_discriminator_that_learns_too_fast_raises_the_alarm(source: str, tmp_path: Path) -> None:
    rates = {"optimizer.discriminator_learning_rate": 0.02, "optimizer.generator_learning_rate": 1e-6}
    training.train(run_config(source, {"num_steps": 60, **rates}), tmp_path)
    rows = run_folder.read_metrics(tmp_path)
    alarmed = [row["step"] for row in rows if "alarm_d_wins" in row]
    assert alarmed and alarmed[0] > 10
    assert alarmed[-1] == 60


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_a_run_keeps_the_precision_that_auto_chose(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: str
) -> None:
    """Also where it is resumed on a processor of another kind; given by name, the other precision is refused."""
    other = {"float32": "bfloat16", "bfloat16": "float32"}[fast]
    monkeypatch.setattr(processor, "fast_precision", lambda platform: fast)
    config = run_config(source, {"precision": "auto", "num_steps": 2})
    training.train(config, tmp_path / "auto")
    named = training.train(run_config(source, {"precision": fast, "num_steps": 4}), tmp_path / "named").state
    assert run_folder.load_config(tmp_path / "auto").precision == fast
    assert config.precision == "auto"

    monkeypatch.setattr(processor, "fast_precision", lambda platform: other)
    resumed = training.train(run_config(source, {"precision": "auto", "num_steps": 4}), tmp_path / "auto")
    assert_equal(resumed.state, named)
    with pytest.raises(UserError, match="precision"):
        training.train(run_config(source, {"precision": other, "num_steps": 6}), tmp_path / "auto")


@pytest.mark.parametrize(("width", "other"), [(0.25, 1.0), (1.0, 0.25)])
def test_a_run_keeps_the_width_that_its_start_decided(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: float, other: float
) -> None:
    """Also where it is resumed on a machine for which another one would be decided."""
    config = run_config(source, {"model.width": 0.0, "num_steps": 2})
    monkeypatch.setattr(processor, "trainable_width", lambda platform: width)
    training.train(config, tmp_path / "decided")
    named = training.train(run_config(source, {"model.width": width, "num_steps": 4}), tmp_path / "named").state
    assert run_folder.load_config(tmp_path / "decided").model.width == width
    assert config.model.width == 0.0

    monkeypatch.setattr(processor, "trainable_width", lambda platform: other)
    resumed = training.train(run_config(source, {"model.width": 0.0, "num_steps": 4}), tmp_path / "decided")
    assert_equal(resumed.state, named)
    with pytest.raises(UserError, match="width"):
        training.train(run_config(source, {"model.width": 0.5, "num_steps": 6}), tmp_path / "decided")


def test_what_was_decided_stays_after_a_return_to_the_start_and_in_runs_that_start_from_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without a checkpoint but those of before a collapse is not begun anew. `init_from` has its own width."""
    undecided = run_config(source, {"model.width": 0.0, "precision": "auto", "num_steps": 1})
    monkeypatch.setattr(processor, "trainable_width", lambda platform: 0.25)
    monkeypatch.setattr(processor, "fast_precision", lambda platform: "float32")
    training.train(undecided, tmp_path / "run")
    monkeypatch.setattr(processor, "trainable_width", lambda platform: 1.0)
    monkeypatch.setattr(processor, "fast_precision", lambda platform: "bfloat16")

    begun = training.decided(undecided, tmp_path / "other", tmp_path / "run")
    assert (begun.model.width, begun.precision) == (0.25, "bfloat16")
    checkpoint.set_collapsed_aside(tmp_path / "run", 0)
    assert run_folder.latest_step(tmp_path / "run") is None
    resumed = training.decided(undecided, tmp_path / "run")
    assert (resumed.model.width, resumed.precision) == (0.25, "float32")
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="missing"):
        training.decided(undecided, tmp_path / "run")
    with pytest.raises(UserError, match="cannot be written"):
        training.decided(undecided, tmp_path / ("x" * 300))
    new = training.decided(undecided, tmp_path / "new")
    assert (new.model.width, new.precision) == (1.0, "bfloat16")


def test_networks_cannot_be_built_before_their_settings_are_decided() -> None:
    with pytest.raises(UserError, match=r"config\.precision is 'auto'.*give float32 or bfloat16"):
        build_gan(tiny.config({"precision": "auto"}))
    with pytest.raises(UserError, match=r"config\.model\.width is 0\.0, .*give a number"):
        build_gan(tiny.config({"model.width": 0.0}))
