"""One folder, one run; files appear whole or not at all."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dcgan_jax.config import flatten
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.runs import run_folder
from dcgan_jax.runs.rollbacks import add_rollback, rollbacks_before
from tests import tiny

META = {"source": "folder:/images", "count": 10, "sha256": "aa", "labels_sha256": None}


def make_run(workdir: Path, changes: Mapping[str, Any] = {}) -> None:
    """A folder as a run leaves it after its first checkpoint."""
    run_folder.record(workdir, tiny.config(changes), META)
    for step in (50, 100):
        (run_folder.checkpoints(workdir) / str(step)).mkdir(parents=True)
    (run_folder.checkpoints(workdir) / "150.orbax-checkpoint-tmp").mkdir()


def test_config_survives_the_round_trip(tmp_path: Path) -> None:
    config = tiny.config()
    run_folder.record(tmp_path, config, META)
    loaded = run_folder.load_config(tmp_path)
    assert flatten(loaded) == flatten(config)
    assert loaded.model.generator.stages == ((6, 2), (4, 2))


def test_fields_of_later_versions_get_the_value_of_what_was_done_before(tmp_path: Path) -> None:
    config = tiny.config().unlock()
    del config.model.resampling
    del config.eval
    run_folder.record(tmp_path, config, META)
    assert flatten(run_folder.load_config(tmp_path)) == flatten(tiny.config())


def test_a_run_may_be_extended_and_moved(tmp_path: Path) -> None:
    make_run(tmp_path)
    longer = tiny.config({"num_steps": 900, "data.cache_dir": "/elsewhere", "mapper": "pmap"})
    run_folder.check(tmp_path, longer)
    run_folder.record(tmp_path, longer, META)
    assert run_folder.load_config(tmp_path).num_steps == 900


def test_another_config_is_refused_with_every_difference(tmp_path: Path) -> None:
    make_run(tmp_path)
    other = tiny.config({"seed": 3, "num_steps": 100, "model.generator.stages": ((8, 2), (4, 2))})
    with pytest.raises(UserError) as error:
        run_folder.check(tmp_path, other)
    assert "seed: 0 in the folder, 3 now" in str(error.value)
    assert "model.generator.stages: ((6, 2), (4, 2)) in the folder, ((8, 2), (4, 2)) now" in str(error.value)
    assert "batch_size" not in str(error.value)
    assert run_folder.load_config(tmp_path).seed == 0


def test_imported_weights_may_be_trained_on_any_images(tmp_path: Path) -> None:
    """They are a run at step 0, whose data.json has no checksum. Later nothing else says what a run has seen."""
    make_run(tmp_path, {"data.source": "folder:images"})
    (tmp_path / "data.json").write_text(json.dumps({"layers": 4}))
    other = tiny.config({"data.source": "folder:/mine"})
    for step, fits in ((0, True), (1, False)):
        shutil.rmtree(run_folder.checkpoints(tmp_path), ignore_errors=True)
        run_folder.checkpoint(tmp_path, step).mkdir(parents=True)
        with contextlib.nullcontext() if fits else pytest.raises(UserError, match=r"data\.source: 'folder:images'"):
            run_folder.check(tmp_path, other)


def test_a_run_is_not_shortened(tmp_path: Path) -> None:
    make_run(tmp_path, {"num_steps": 100})
    with pytest.raises(UserError, match=r"at step 100 already, past config.num_steps 4: raise --config.num_steps"):
        run_folder.check(tmp_path, tiny.config({"num_steps": 4}))


@pytest.mark.parametrize(("meta", "aspect"), [({"aspect": 1.5}, 1.5), ({}, None), ({"aspect": "1.5"}, None)])
def test_aspect_of_squeezed_images(tmp_path: Path, meta: dict[str, Any], aspect: float | None) -> None:
    assert run_folder.aspect(tmp_path) is None
    run_folder.record(tmp_path, tiny.config(), {**META, **meta})
    assert run_folder.aspect(tmp_path) == aspect


def test_a_start_that_failed_does_not_hold_the_folder(tmp_path: Path) -> None:
    run_folder.record(tmp_path, tiny.config(), META)
    other = tiny.config({"seed": 3})
    run_folder.check(tmp_path, other)
    run_folder.record(tmp_path, other, {**META, "sha256": "bb"})
    assert run_folder.load_config(tmp_path).seed == 3


def test_workdir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        run_folder.check(tmp_path / "file" / "run", tiny.config())


@pytest.mark.parametrize("change", [{"count": 11, "sha256": "bb"}, {"labels_sha256": "cc"}])
def test_a_resumed_run_must_see_the_same_images_and_labels(tmp_path: Path, change: dict[str, Any]) -> None:
    make_run(tmp_path)
    run_folder.record(tmp_path, tiny.config(), {**META, "source": "folder:/moved"})
    with pytest.raises(UserError, match=r"10 images then, 1[01] now, with other pixels or labels"):
        run_folder.record(tmp_path, tiny.config(), {**META, **change})


@pytest.mark.parametrize("content", [None, "{", '{"seed": '])
def test_folder_without_a_readable_config(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"has no config.json|cannot be read"):
        run_folder.load_config(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)  # a file system may find room lacking only then
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_best_step_by_the_distance_that_tells_most(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "nnd": 1.0, "probe_frechet": 9.0},
        {"step": 2, "nnd": 2.0, "probe_frechet": 3.0},
        {"step": 3, "nnd": 3.0, "probe_frechet": 2.0},
        {"step": 4, "nnd": 0.5},
        {"step": 5, "d_loss": 0.0},
    ]
    run_folder.metrics(tmp_path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_folder.best_step(tmp_path, [1, 2, 3, 5]) == 3
    assert run_folder.best_step(tmp_path, [1, 2]) == 2
    assert run_folder.best_step(tmp_path, [4, 5]) == 4
    assert run_folder.best_step(tmp_path, [5]) is None


def test_what_is_measured_otherwise_is_not_compared(tmp_path: Path) -> None:
    """The best of before stays, beside the best of now."""
    rows = [
        {"step": 1, "probe_frechet": 5.0, "evaluation": 7},
        {"step": 2, "probe_frechet": 9.0, "evaluation": 7},
        {"step": 3, "probe_frechet": 4.0, "evaluation": 8},
        {"step": 4, "probe_frechet": 3.0, "evaluation": 8},
        {"step": 5, "probe_frechet": 2.0, "fid": 80.0, "evaluation": 9},
        {"step": 6, "probe_frechet": 1.0, "fid": 90.0, "evaluation": 9},
    ]
    run_folder.metrics(tmp_path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_folder.best_steps(tmp_path, [1, 2, 3, 4, 5, 6]) == [1, 4, 5]
    assert run_folder.best_step(tmp_path, [1, 2, 3, 4]) == 4
    with run_folder.metrics(tmp_path).open("a") as file:
        file.write('{"step": 7, "probe_frechet": 6.0, "evaluation": 7}\n')
    assert run_folder.best_step(tmp_path, [1, 2, 3, 4, 7]) == 1  # measured as at first again


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    ours = [
        ".config.json.123",
        ".metrics.jsonl.7",
        ".rollbacks.json.9",
        ".init_from.json.3",
        "samples/.step_00000500.png.123",
    ]
    others = [".config.json.mine", ".hidden.123", "notes.txt", "samples/step_00000500.png", "analysis/.page.html.5"]
    for name in ours + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with run_folder.lock(tmp_path):
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*others, ".lock"}


def test_rollbacks_to_later_steps_are_forgotten(tmp_path: Path) -> None:
    for back_to in (10, 10, 20):
        add_rollback(tmp_path, "divergence", 25, back_to, "reason")
    assert rollbacks_before(tmp_path, 20) == 3
    assert rollbacks_before(tmp_path, 19) == 2
    assert rollbacks_before(tmp_path, 99) == 2
    assert rollbacks_before(tmp_path, 0) == 0
