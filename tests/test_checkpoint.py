"""Checkpoints: checksums, damage, retention, saves that fail, saves beside the training."""

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from configs import lsun
from dcgan_jax.machine import files, processes
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.mesh import replicate, replicated
from dcgan_jax.runs import checkpoint, run_folder
from dcgan_jax.runs.checkpoint import Checkpoints
from dcgan_jax.train_state import AdaptiveGANState, GANState, build_gan, create_state
from tests import tiny


@pytest.fixture(scope="module")
def state() -> GANState:
    return replicate(tiny.mesh(2), tiny.fresh_state(tiny.config()))


def at(state: GANState, step: int) -> GANState:
    return state.replace(step=jnp.full_like(state.step, step))


def save_all(workdir: Path, state: GANState, steps: list[int], **options: Any) -> list[str]:
    warnings: list[str] = []
    with Checkpoints(workdir, warn=warnings.append, **options) as checkpoints:
        for step in steps:
            checkpoints.save(at(state, step))
    return warnings


def restored(workdir: Path, step: int, state: GANState) -> GANState:
    return checkpoint.restore(workdir, step, jax.eval_shape(lambda: state), tiny.mesh(1))


@pytest.fixture(scope="module")
def saved(state: GANState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("saved")
    assert save_all(workdir, state, [1, 2], keep_latest=2) == []
    return workdir


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


class StateOfVersion010(flax.struct.PyTreeNode):
    """What version 0.1.0 has saved."""

    step: jax.Array
    generator: Any
    discriminator: Any
    ema: Any


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_checkpoints_of_version_0_1_0_are_read(ema_decay: float, tmp_path: Path) -> None:
    state = tiny.fresh_state(tiny.config({"ema_decay": ema_decay}))
    before = StateOfVersion010(at(state, 7).step, state.generator, state.discriminator, state.ema)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((run_folder.checkpoint(tmp_path, 7) / "default").absolute(), before)
    found = restored(tmp_path, 7, state)
    assert int(found.step) == 7
    assert tiny.largest_difference(found.generator, state.generator) == 0
    assert tiny.largest_difference(found.discriminator, state.discriminator) == 0
    assert (found.ema is None) == (ema_decay == 0)


def test_the_probability_of_augmentation_is_saved(tmp_path: Path) -> None:
    config = tiny.config({"augment.operations": ("cutout",), "augment.target": 0.6, "augment.probability": 0.25})
    state = replicate(tiny.mesh(1), tiny.fresh_state(config))
    save_all(tmp_path, state, [1])
    found = restored(tmp_path, 1, state)
    assert isinstance(found, AdaptiveGANState) and float(found.adaptive.probability) == 0.25


def test_checksums_are_those_of_sha256sum(saved: Path) -> None:
    folder = run_folder.checkpoint(saved, 2) / "default"
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert {"manifest.ocdbt", "_METADATA"} <= listed
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_what_is_saved_comes_back(saved: Path, state: GANState) -> None:
    assert tiny.largest_difference(restored(saved, 2, state), at(state, 2)) == 0
    assert checkpoint.newest_intact(saved, pytest.fail) == 2


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(folder: Path) -> None:
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(folder: Path) -> None:
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[:-1])


def delete_a_file(folder: Path) -> None:
    (folder / "default" / "manifest.ocdbt").unlink()


def empty_the_checksums(folder: Path) -> None:
    (folder / "default" / "SHA256SUMS").write_bytes(b"")


def cut_the_checksums_at_a_line(folder: Path) -> None:
    path = folder / "default" / "SHA256SUMS"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def delete_the_item(folder: Path) -> None:
    shutil.rmtree(folder / "default")


def cut_the_checksums(folder: Path) -> None:
    path = folder / "default" / "SHA256SUMS"
    path.write_bytes(path.read_bytes()[:70])


DAMAGE = {
    flip_a_bit: "does not match its checksum",
    cut_short: "does not match its checksum",
    delete_a_file: "manifest.ocdbt is missing",
    empty_the_checksums: "is empty",
    cut_the_checksums: "is cut short",
    cut_the_checksums_at_a_line: "is cut short",
    delete_the_item: "_METADATA is missing",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(copy: Path, damage: Any) -> None:
    damage(run_folder.checkpoint(copy, 2))
    warnings: list[str] = []
    assert checkpoint.newest_intact(copy, warnings.append) == 1
    assert run_folder.steps(copy) == [1, 2]  # reading changes nothing
    assert len(warnings) == 1
    assert warnings[0].startswith("WARNING: the checkpoint of step 2 is damaged: ")
    assert DAMAGE[damage] in warnings[0]

    assert checkpoint.newest_intact(copy, warnings.append, set_aside=True) == 1
    assert run_folder.steps(copy) == [1]
    assert (run_folder.checkpoints(copy) / "2.damaged").is_dir()


def test_damage_twice_at_the_same_step_is_set_aside_twice(copy: Path, state: GANState) -> None:
    for _ in range(2):
        flip_a_bit(run_folder.checkpoint(copy, 2))
        assert checkpoint.newest_intact(copy, print, set_aside=True) == 1
        save_all(copy, state, [2], keep_latest=2, last_step=1)
    assert sorted(path.name for path in run_folder.checkpoints(copy).iterdir()) == [
        "1",
        "2",
        "2-2.damaged",
        "2.damaged",
    ]


def test_all_damaged_is_an_error_and_not_a_fresh_start(copy: Path) -> None:
    for step in (1, 2):
        flip_a_bit(run_folder.checkpoint(copy, step))
    for _ in range(2):  # asking again must not make it a run without checkpoints
        with pytest.raises(UserError, match=r"all checkpoints in .* are damaged"):
            checkpoint.newest_intact(copy, print, set_aside=True)
    assert run_folder.steps(copy) == [1, 2]


def test_one_without_checksums_is_read(copy: Path, state: GANState) -> None:
    (run_folder.checkpoint(copy, 2) / "default" / "SHA256SUMS").unlink()
    assert checkpoint.newest_intact(copy, pytest.fail) == 2
    assert int(restored(copy, 2, state).step) == 2


def test_the_newest_every_third_and_the_best_stay(state: GANState, tmp_path: Path) -> None:
    rows = [{"step": 1, "nnd": 9.0}, {"step": 2, "nnd": 3.0}, {"step": 4, "nnd": 5.0}, {"step": 100, "nnd": 1.0}]
    run_folder.metrics(tmp_path).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "nn')
    save_all(tmp_path, state, [1, 2, 3, 4, 5, 6, 7, 8], keep_latest=2, keep_every=3)
    assert run_folder.steps(tmp_path) == [2, 3, 6, 7, 8]
    assert len(list(run_folder.checkpoints(tmp_path).iterdir())) == 5


def test_what_a_killed_process_left_is_removed_and_never_listed(copy: Path, state: GANState) -> None:
    folder = run_folder.checkpoints(copy)
    for name in ("3.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-170000", "1.deleted"):
        shutil.copytree(folder / "1", folder / name)
    assert run_folder.steps(copy) == [1, 2]
    save_all(copy, state, [3], keep_latest=3, last_step=2)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


def test_a_step_that_is_there_is_not_saved_again(copy: Path, state: GANState) -> None:
    before = (run_folder.checkpoint(copy, 2) / "default" / "SHA256SUMS").stat().st_mtime_ns
    save_all(copy, state, [2, 2], last_step=2, keep_latest=2)
    assert (run_folder.checkpoint(copy, 2) / "default" / "SHA256SUMS").stat().st_mtime_ns == before


class FullDisk:
    """A disk that is full while `full` is true: the last file of a checkpoint cannot be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        write = files.write_atomically

        def write_if_not_full(path: Path, content: bytes) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            write(path, content)

        monkeypatch.setattr(files, "write_atomically", write_if_not_full)


def test_a_save_that_fails_is_a_warning_and_older_ones_stay(
    copy: Path, state: GANState, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    warnings: list[str] = []
    with Checkpoints(copy, 2, keep_latest=1, warn=warnings.append) as checkpoints:
        for step in (3, 4):
            checkpoints.save(at(state, step))
            checkpoints.wait()
        assert run_folder.steps(copy) == [1, 2]
        assert len(list(run_folder.checkpoints(copy).iterdir())) == 2  # what was written in vain is gone
        disk.full = False
        checkpoints.save(at(state, 5))
    assert run_folder.steps(copy) == [5]
    assert warnings == [
        f"warning: step {step} could not be saved ([Errno 28] No space left on device); the checkpoint of step 2 is "
        "kept, training continues."
        for step in (3, 4)
    ]


def test_the_first_save_after_a_failed_one_succeeds(
    copy: Path, state: GANState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if files of Orbax's own could not be written, whose errors it keeps."""

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    warnings: list[str] = []
    with Checkpoints(copy, 2, warn=warnings.append) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr("etils.epath.abstract_path.Path.write_text", fail)
            checkpoints.save(at(state, 3))
            checkpoints.wait()
        checkpoints.save(at(state, 4))
    assert run_folder.steps(copy) == [4]
    assert len(warnings) == 1


def test_three_saves_that_fail_stop_the_run(copy: Path, state: GANState, monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(monkeypatch)
    with pytest.raises(UserError, match=r"3 saves in a row have failed: .* after step 5 .*No space left"):
        save_all(copy, state, [3, 4, 5, 6], last_step=2)
    assert run_folder.steps(copy) == [1, 2]


def test_the_last_save_must_not_fail(copy: Path, state: GANState, monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(monkeypatch)
    with pytest.raises(UserError, match=r"the state after step 3 could not be saved .*No space left"):
        save_all(copy, state, [3], last_step=2)


def test_a_save_that_is_waited_for_must_not_fail(copy: Path, state: GANState, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one before a signal ends the process: nobody must be told that it is there."""
    FullDisk(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Checkpoints(copy, 2) as checkpoints:
        with pytest.raises(UserError, match=r"the state after step 3 could not be saved .*No space left"):
            checkpoints.save(at(state, 3), block=True)
        raise KeyboardInterrupt


def test_a_process_that_is_lost_during_the_last_save_counts_as_lost(
    tmp_path: Path, state: GANState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is handed on; it is no mistake of the user's."""

    def lose_peer(self: Any, directory: Any) -> None:
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: Connection reset by peer")

    monkeypatch.setattr(checkpoint._Handler, "finalize", lose_peer)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="UNAVAILABLE") as error, Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    assert processes.lost_peer(error.value)


def test_what_is_written_is_a_copy(tmp_path: Path, state: GANState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is not that of the state, which the next step reuses."""
    given: list[GANState] = []
    save = ocp.AsyncCheckpointer.save

    def spied_save(self: Any, path: Any, args: Any) -> None:
        given.append(args["default"].item)
        save(self, path, args=args)

    def places(tree: GANState) -> set[int]:
        shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
        return {shard.data.unsafe_buffer_pointer() for shard in shards}

    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", spied_save)
    mine = at(state, 7)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(mine)
        assert not places(given[0]) & places(mine)


def test_training_goes_on_while_a_save_is_written(
    tmp_path: Path, state: GANState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`save` returns before the files are there, and the state may be overwritten at once."""
    go_on = threading.Event()
    finalize = checkpoint._Handler.finalize

    def finalize_later(self: Any, directory: Any) -> None:
        assert go_on.wait(60)
        finalize(self, directory)

    monkeypatch.setattr(checkpoint._Handler, "finalize", finalize_later)
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    mine = jax.tree.map(jnp.copy, at(state, 7))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(mine)
        for _ in range(5):
            mine = overwrite(mine)
        assert run_folder.steps(tmp_path) == []
        go_on.set()
    assert tiny.largest_difference(restored(tmp_path, 7, state), at(state, 7)) == 0


@pytest.mark.long
def test_a_save_of_the_papers_network_returns_early(tmp_path: Path) -> None:
    """430 MB of numbers that do not compress, as after some training."""
    config = lsun.get_config()
    mesh = tiny.mesh(1)

    def noise() -> GANState:
        state = create_state(build_gan(config))
        leaves, structure = jax.tree.flatten(state)
        keys = jax.random.split(jax.random.key(0), len(leaves))
        noisy = [
            jax.random.normal(key, leaf.shape) if leaf.dtype == jnp.float32 else leaf
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, noisy)

    state = jax.jit(noise, out_shardings=replicated(mesh))()
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            begin = time.monotonic()
            checkpoints.save(at(state, step))
            returned = time.monotonic() - begin
            checkpoints.wait()
            complete = time.monotonic() - begin
            print(f"returned after {returned:.2f} s, complete after {complete:.2f} s")
    begin = time.monotonic()
    assert checkpoint.find_damage(run_folder.checkpoint(tmp_path, 3)) is None
    print(f"verified in {time.monotonic() - begin:.2f} s")
    assert returned < complete / 2
