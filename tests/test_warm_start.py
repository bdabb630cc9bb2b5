"""Runs that begin with the weights of another one: what is taken, what stays fresh, and how they resume."""

import json
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import dcgan_jax
from dcgan_jax import training
from dcgan_jax.config import flatten
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import rollbacks, run_folder, trained, warm_start, weights_file
from dcgan_jax.runs.weights_file import PLAYERS, flat
from dcgan_jax.train_state import GANState, build_gan
from tests import networks, processes, tiny
from tests.test_collapse import draw_alike


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.image_folder(tmp_path_factory.mktemp("data") / "images", count=16)


@pytest.fixture(scope="module")
def other(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averaged weights and checkpoints of steps 2 and 4. Large learning rates: averages lag behind."""
    workdir = tmp_path_factory.mktemp("other") / "run"
    rates = {"optimizer.generator_learning_rate": 0.05, "optimizer.discriminator_learning_rate": 0.05}
    training.train(run_config(source, {"seed": 7, "checkpoint_every": 2, "ema_decay": 0.9, **rates}), workdir)
    return workdir


def run_config(source: str, changes: Mapping[str, Any] = {}) -> ConfigDict:
    return tiny.config({"data.source": source, **changes})


def tensors(state: GANState) -> dict[str, np.ndarray]:
    """Parameters and running averages of both networks by name."""
    return {name: np.asarray(leaf) for p in PLAYERS for name, leaf in flat(p, getattr(state, p).variables)}


def started(init_from: str | Path, changes: Mapping[str, Any] = {}, devices: int = 1) -> tuple[GANState, GANState]:
    """The state that a run starts from with tensors of another one, and the one that it would start from without."""
    gan, mesh = build_gan(tiny.config(changes)), tiny.mesh(devices)
    initial = warm_start.read(str(init_from), gan)
    with_them, without = (training.start_state(gan, Path("none"), None, mesh, one) for one in (initial, None))
    return with_them, without


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(("suffix", "step"), [("", None), (",2", 2)])
@pytest.mark.parametrize("devices", [1, 4])
def test_every_tensor_is_taken_and_all_else_is_fresh(other: Path, suffix: str, step: int | None, devices: int) -> None:
    """The generator's averages, with their statistics, are what the other run draws with. Optimizers are not taken."""
    state, fresh = started(f"{other}{suffix}", {"ema_decay": 0.5}, devices)
    run = trained.load(other, step)
    assert tiny.largest_difference(run.state.ema, run.state.generator.params) > 1e-3
    assert_same(state.generator.variables, run.variables)
    assert_same(state.discriminator.variables, run.state.discriminator.variables)
    assert_same(state.ema, run.state.ema)
    assert tiny.largest_difference(state.generator.params, fresh.generator.params) > 1e-3
    assert_same(
        (state.generator.opt_state, state.discriminator.opt_state),
        (fresh.generator.opt_state, fresh.discriminator.opt_state),
    )
    assert int(state.step) == 0
    assert all(leaf.sharding.is_fully_replicated and len(leaf.devices()) == devices for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(("player", "left"), [PLAYERS, PLAYERS[::-1]])
def test_one_network_alone_is_taken(other: Path, player: str, left: str) -> None:
    run = trained.load(other, 2)
    theirs = {"generator": run.variables, "discriminator": run.state.discriminator.variables}
    state, fresh = started(f"{other},2,{player}")
    assert_same(getattr(state, player).variables, theirs[player])
    assert_same(getattr(state, left), getattr(fresh, left))
    newest = warm_start.read(f"{other},{player}", build_gan(tiny.config()))
    assert newest.step == 4 and {name.split(".")[0] for name in newest.tensors} == {player}
    (line,) = (line for line in newest.lines() if line.startswith(f"start    {left}:"))
    assert line.endswith(": nothing of " + newest.init_from + ", all at initial values")


def test_without_averages_of_the_new_run_there_are_none(other: Path) -> None:
    assert started(other)[0].ema is None


def test_layers_of_other_shapes_stay_fresh(other: Path, tmp_path: Path) -> None:
    """Another z, image size and number of channels: heads, projection and the layers at the image."""
    changes = {"model.z_dim": 9, "data.image_size": 16, "data.channels": 1, "seed": 1}
    state, fresh = started(other, changes)
    run = trained.load(other)
    expected = tensors(fresh)
    theirs = dict(flat("generator", run.variables)) | dict(flat("discriminator", run.state.discriminator.variables))
    taken = [
        "generator.deconv1",
        "generator.deconv1_norm.gain",
        "generator.deconv1_norm.shift",
        "generator.deconv1_norm.mean",
        "generator.deconv1_norm.var",
        "discriminator.conv2",
        "discriminator.conv2_norm.gain",
        "discriminator.conv2_norm.shift",
        "discriminator.conv2_norm.mean",
        "discriminator.conv2_norm.var",
    ]
    expected |= {name: np.asarray(theirs[name]) for name in taken}
    assert_same(tensors(state), expected)
    initial = warm_start.read(str(other), build_gan(tiny.config(changes)))
    assert sorted(initial.tensors) == sorted(taken)
    assert sorted([*initial.tensors, *initial.fresh]) == sorted(expected) and not initial.unused
    assert initial.lines() == [
        f"start    generator: 5 of 11 tensors of {other}, step 4; at initial values: deconv2, projection.kernel, "
        "projection_norm.gain, projection_norm.shift, projection_norm.mean, projection_norm.var",
        f"start    discriminator: 5 of 7 tensors of {other}, step 4; at initial values: conv1, logit.kernel",
    ]


@pytest.mark.parametrize(("theirs", "ours"), [(0, 3), (2, 0), (2, 3), (3, 3)])
def test_of_other_classes_what_reads_features_is_taken(theirs: int, ours: int, tmp_path: Path) -> None:
    """Labels come last on a kernel's input axis: 2 of conv, 3 of deconv, 0 of dense kernels."""
    file = networks.trained_file(tmp_path, {"model.num_classes": theirs})
    state, fresh = started(file, {"model.num_classes": ours})
    weights = weights_file.read(file)
    assert weights.discriminator is not None
    found, initial = tensors(state), tensors(fresh)
    given = dict(flat("generator", weights.generator)) | dict(flat("discriminator", weights.discriminator))
    for name, axis, features in (
        ("generator.projection.kernel", 0, 5),
        ("generator.deconv1", 3, 6),
        ("generator.deconv2", 3, 4),
        ("discriminator.conv1", 2, 3),
        ("discriminator.conv2", 2, 4),
        ("discriminator.logit.kernel", 0, 2 * 2 * 6),
    ):
        assert found[name].shape[axis] == features + ours
        of_features, of_labels = np.split(found[name], [features], axis)
        np.testing.assert_array_equal(of_features, np.split(given[name], [features], axis)[0])
        rest = given if theirs == ours else initial
        np.testing.assert_array_equal(of_labels, np.split(rest[name], [features], axis)[1])
        found.pop(name)
    assert_same(found, {name: given[name] for name in found})


def test_an_axis_of_the_same_length_may_read_other_things(tmp_path: Path) -> None:
    """Five numbers of noise, and two with three classes: both kernels have five rows."""
    file = networks.trained_file(tmp_path)
    state, fresh = started(file, {"model.num_classes": 3, "model.z_dim": 2})
    name = "generator.projection.kernel"
    assert tensors(state)[name].shape == weights_file.read(file).generator["params"]["projection"]["kernel"].shape
    np.testing.assert_array_equal(tensors(state)[name], tensors(fresh)[name])


def test_an_export_without_discriminator(tmp_path: Path) -> None:
    file = networks.trained_file(tmp_path / "export", discriminator=False)
    state, fresh = started(file, {"ema_decay": 0.9})
    assert_same(state.generator.variables, weights_file.read(file).generator)
    assert_same(state.ema, weights_file.read(file).generator["params"])
    assert_same(state.discriminator, fresh.discriminator)
    gan = build_gan(tiny.config())
    initial = warm_start.read(str(file), gan)
    assert initial.lines()[1] == f"start    discriminator: nothing of {file}, all at initial values"
    for place in (f"{file},7", f"{tmp_path}/export", f"{tmp_path}/export,best"):
        assert_same(warm_start.read(place, gan).tensors, initial.tensors)


def test_a_network_of_the_package() -> None:
    run = dcgan_jax.load("toy_faces")
    fields = {name: value for name, value in flatten(run.config).items() if name.startswith("model.")}
    initial = warm_start.read("toy_faces", build_gan(tiny.config({**fields, "data.image_size": 64})))
    assert_same(initial.tensors, {name: np.asarray(leaf) for name, leaf in flat("generator", run.variables)})
    assert initial.fresh and all(name.startswith("discriminator.") for name in initial.fresh)


def test_of_imported_layers_no_others_are_taken(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the first layers of a discriminator, imported weights have networks at initial values."""
    gan = build_gan(tiny.config())
    for imported, layers in ((1, {"conv1"}), (2, {"conv1", "conv2", "conv2_norm"})):
        monkeypatch.setattr(run_folder, "imported_layers", lambda workdir, imported=imported: imported)
        taken = warm_start.read(str(other), gan).tensors
        assert {tuple(name.split(".")[:2]) for name in taken} == {("discriminator", layer) for layer in layers}
    monkeypatch.setattr(run_folder, "imported_layers", lambda workdir: 0)
    assert all(name.startswith("generator.") for name in warm_start.read(str(other), gan).tensors)


def test_layers_that_the_new_networks_lack_are_named(tmp_path: Path) -> None:
    file = networks.trained_file(tmp_path)
    gan = build_gan(tiny.config({"model.discriminator.stages": ((4, 2),), "model.norm": "none"}))
    (unused,) = [line.partition("; not used: ")[2] for line in warm_start.read(str(file), gan).lines()[1:]]
    assert set(unused.split(", ")) == {"conv2", *(f"conv2_norm.{part}" for part in ("gain", "shift", "mean", "var"))}


# --- Whole runs ------------------------------------------------------------------------------------------------------


def contents(workdir: Path) -> tuple[GANState, list[dict[str, Any]]]:
    """The newest state, and metrics without the speed and what a sheet at the end adds."""
    rows, added = run_folder.read_metrics(workdir), ("images_per_second", "diversity", "alarm_alike", "alarm_narrow")
    return trained.load(workdir).state, [{name: row[name] for name in row if name not in added} for row in rows]


@pytest.fixture(scope="module")
def straight(source: str, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps from `other`, with the first stage frozen."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    training.train(run_config(source, FREEZING), workdir, f"{other},2")
    return workdir


FREEZING = {"ema_decay": 0.9, "model.discriminator.freeze": 1, "log_every": 1, "checkpoint_every": 3}


def test_a_run_begins_with_them(other: Path, straight: Path) -> None:
    """Frozen layers end as the other run's; the others have moved on from there, by a few learning rates."""
    run, begun = trained.load(straight), trained.load(other, 2)
    params, before = run.state.discriminator.params, begun.state.discriminator.params
    np.testing.assert_array_equal(params["conv1"], before["conv1"])
    for a, b in ((params["conv2"], before["conv2"]), (run.state.generator.params, begun.variables["params"])):
        assert 1e-4 < tiny.largest_difference(a, b) < 4 * 4 * 2e-4
    assert [row["step"] for row in contents(straight)[1]] == [1, 2, 3, 4]


def test_the_folder_tells_what_was_taken(other: Path, straight: Path) -> None:
    noted = json.loads(run_folder.init_from_file(straight).read_text())
    assert (noted["init_from"], noted["step"]) == (f"{other},2", 2)
    assert set(noted["taken"]) == set(tensors(trained.load(straight).state))
    assert noted["features_only"] == noted["fresh"] == noted["unused"] == []


def test_stopped_and_resumed_it_ends_with_the_same_bits(
    source: str, other: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the flag or without it; the other run may be gone."""
    stopped, moved = tmp_path / "stopped", tmp_path / "moved"
    training.train(run_config(source, {**FREEZING, "num_steps": 2}), stopped, f"{other},2")
    assert "start    generator: 11 of 11 tensors of" in capsys.readouterr().out
    noted = run_folder.init_from_file(stopped).read_bytes()
    for number, flag in enumerate((f"{other},2", f"{other}/,2", None)):
        workdir = shutil.copytree(stopped, tmp_path / f"resumed {number}")
        other.rename(moved)
        try:
            training.train(run_config(source, FREEZING), workdir, flag)
        finally:
            moved.rename(other)
        assert "start    " not in capsys.readouterr().out
        (state, rows), (expected, expected_rows) = contents(workdir), contents(straight)
        assert_same(state, expected)
        assert rows == expected_rows
        assert run_folder.init_from_file(workdir).read_bytes() == noted


@pytest.mark.long
def test_killed_and_resumed_it_ends_with_the_same_bits(source: str, other: Path, tmp_path: Path) -> None:
    """Killed before the first checkpoint, where the flag is needed again, and after one, where it is not."""
    steps = {"num_steps": 9, "checkpoint_every": 4, "keep_checkpoints": 1, "sample_every": 4}
    config = tiny.write_config(tmp_path, {"data.source": source, **FREEZING, **steps})
    flag = f"--init_from={other},2"
    processes.finish(processes.start(config, tmp_path / "straight", flag))
    for fault, flags in (("compiling", [flag]), ("old checkpoint half deleted", [])):
        workdir = tmp_path / fault
        processes.finish(processes.start(config, workdir, flag, fault=fault), -signal.SIGKILL)
        processes.finish(processes.start(config, workdir, *flags))
        assert processes.contents(workdir) == processes.contents(tmp_path / "straight"), fault


def test_another_flag_on_resume_is_refused(source: str, other: Path, straight: Path) -> None:
    with pytest.raises(UserError, match=rf"began with --init_from={other},2, not with --init_from={other}: leave"):
        training.train(run_config(source, FREEZING), straight, other)
    with pytest.raises(UserError, match=r"began with initial values of its own, not with --init_from=toy_faces"):
        training.train(trained.load(other).config, other, "toy_faces")


def test_a_start_without_checkpoint_leaves_no_note(
    source: str, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another start in the same folder, without the flag, is a run with initial values of its own."""

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "make_mapped_step", interrupt)
        training.train(run_config(source), tmp_path, other)
    assert run_folder.init_from_file(tmp_path).exists()
    state = training.train(run_config(source, {"num_steps": 1}), tmp_path).state
    assert not run_folder.init_from_file(tmp_path).exists()
    assert tiny.largest_difference(state.generator.params, trained.load(other).variables["params"]) > 1e-2


def test_a_return_before_the_first_checkpoint_begins_with_them_again(
    source: str, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    make_step = training.make_mapped_step

    def make_broken(gan: Any, mesh: Any, mapper: str, rollbacks: int) -> Any:
        step = make_step(gan, mesh, mapper, rollbacks)

        def call(state: GANState, *rest: Any) -> Any:
            states.append(jax.tree.map(np.array, state))
            state, metrics = step(state, *rest)
            if not rollbacks:
                metrics = jax.tree.map(lambda value: value * np.nan, metrics)
            return state, metrics

        return call

    monkeypatch.setattr(training, "make_mapped_step", make_broken)
    training.train(run_config(source, {"num_steps": 1, "on_nonfinite": "rollback"}), tmp_path, other)
    first, again = states
    assert_same(first, again)
    assert_same(again.generator.variables, trained.load(other).variables)


@pytest.mark.parametrize("dies", [False, True])
def test_a_resumed_run_that_collapses_to_its_start_takes_them_again(
    source: str, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """Without the flag, which a run that resumes needs no more; also when it dies before it notes the return.

    The other run's newest checkpoint is another one by then.
    """
    draw_alike(monkeypatch, 1)  # an alarm comes with the third line
    changes = {"num_steps": 2, "sample_every": 1, "checkpoint_every": 1, "on_collapse": "rollback"}
    growing, later = shutil.copytree(other, tmp_path / "other"), tmp_path / "later"
    shutil.move(run_folder.checkpoint(growing, 4), later)
    training.train(run_config(source, changes), tmp_path, growing)
    shutil.move(later, run_folder.checkpoint(growing, 4))
    starts: list[GANState] = []
    start_state = training.start_state

    def note(*args: Any) -> GANState:
        starts.append(jax.tree.map(np.array, state := start_state(*args)))
        return state

    monkeypatch.setattr(training, "start_state", note)
    changes["num_steps"] = 3
    if dies:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(rollbacks, "add_rollback", interrupt)
            training.train(run_config(source, changes), tmp_path)
        assert run_folder.steps(tmp_path) == []
        draw_alike(monkeypatch, 10**6)
    training.train(run_config(source, changes), tmp_path)
    assert int(starts[0].step) == 2 and int(starts[-1].step) == 0
    assert_same(starts[-1].generator.variables, trained.load(other, 2).variables)
    assert json.loads(run_folder.init_from_file(tmp_path).read_text())["step"] == 2


def interrupt(*args: Any) -> NoReturn:
    raise KeyboardInterrupt


# --- What is told ----------------------------------------------------------------------------------------------------


def test_random_layers_that_stay_are_told(source: str, other: Path, tmp_path: Path) -> None:
    told = "note     conv1, conv2 of the discriminator stay at random values: see --init_from"
    config = run_config(source, {"model.discriminator.freeze": 2})
    gan, dataset = build_gan(config), tiny.dataset()

    fresh = tiny.fresh_state(config)

    def overview(initial: warm_start.Initial | None, workdir: Path, state: GANState = fresh) -> list[str]:
        return training.overview(config, state, dataset, workdir, initial).splitlines()

    initial = warm_start.read(str(other), gan)
    without = {name: one for name, one in initial.tensors.items() if name.startswith("generator.")}
    assert told in overview(None, tmp_path)
    assert told in overview(replace(initial, tensors=without), tmp_path)
    for lines in (overview(initial, tmp_path), overview(None, other)):  # the second: a run that has learned already
        assert not any("random values" in line for line in lines)

    returned = fresh.replace(step=fresh.step + 3)  # to a checkpoint, after a divergence
    for state, expected in ((fresh, initial.lines()), (returned, [])):
        assert [line for line in overview(initial, tmp_path, state) if line.startswith("start ")] == expected


@pytest.mark.parametrize(
    ("init_from", "message"),
    [
        ("nowhere", r"--init_from=nowhere: nowhere is not a run's folder"),
        ("{other},3", r"--init_from={other},3: .*has no checkpoint of step 3 \(available steps: 2, 4\)"),
        ("{other},best", r"--init_from={other},best: .* no checkpoint that was evaluated"),
        ("{other},last", r"--init_from={other},last: step is 'last'; it must be a number of steps or 'best'"),
        ("{other},", r"--init_from={other}, has nothing behind a comma: give RUN, RUN,STEP or RUN,best, and behind"),
        ("{other},generator,", r"--init_from={other},generator, has nothing behind a comma"),
        ("{other},,generator", r"--init_from={other},,generator has nothing behind a comma"),
        ("toy_faces,3", r"--init_from=toy_faces,3: .*holds step [0-9]+ only"),
    ],
)
def test_what_cannot_be_read_is_refused(init_from: str, message: str, other: Path) -> None:
    with pytest.raises(UserError, match=message.format(other=other)):
        warm_start.read(init_from.format(other=other), build_gan(tiny.config()))


def test_a_name_may_have_a_comma(tmp_path: Path) -> None:
    networks.trained_file(tmp_path / "faces,2")
    gan = build_gan(tiny.config())
    assert warm_start.read(f"{tmp_path}/faces,2", gan).step == warm_start.read(f"{tmp_path}/faces,2,7", gan).step == 7


def test_networks_of_which_nothing_fits(tmp_path: Path) -> None:
    """Gains of the same length count for nothing without a kernel that they belong to."""
    file = networks.trained_file(tmp_path, discriminator=False)
    changes = {"model.kernel_size": 5, "model.z_dim": 4, "seed": 3}
    with pytest.raises(UserError) as error:
        warm_start.read(str(file), build_gan(tiny.config(changes)))
    assert str(error.value).splitlines() == [
        f"--init_from={file}: none of its layers fits the networks of this config:",
        "  generator.deconv1: [3, 3, 4, 6] there, [5, 5, 4, 6] here",
        "  generator.deconv2: [3, 3, 3, 4] there, [5, 5, 3, 4] here",
        "  generator.projection.kernel: [5, 24] there, [4, 24] here",
        "  discriminator.conv1: none there, [5, 5, 3, 4] here",
        "  discriminator.conv2: none there, [5, 5, 4, 6] here",
        "  discriminator.logit.kernel: none there, [24, 1] here",
        "Give a run with some layers of the same shape, or change config.model.",
    ]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    source: str, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(other, tmp_path / "damaged")
    (run_folder.checkpoint(damaged, 4) / "default" / "manifest.ocdbt").unlink()
    gan = build_gan(tiny.config())
    assert warm_start.read(str(damaged), gan).step == 2
    assert "checkpoint of step 4 is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"step 4 .* is damaged"):
        warm_start.read(f"{damaged},4", gan)
    assert run_folder.steps(damaged) == [2, 4]  # it is left as it is
