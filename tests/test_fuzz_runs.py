"""Run folders, weights and results with anything in them: read, or refused with a message; nothing in them is run."""

import ast
import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import dcgan_jax
from dcgan_jax import import_weights, plot_metrics, training
from dcgan_jax.analysis import boxes, page
from dcgan_jax.config import check_config, flatten
from dcgan_jax.datasets import semantic_hash
from dcgan_jax.machine.errors import UserError
from dcgan_jax.nets.losses import LOSSES
from dcgan_jax.runs import checkpoint, run_folder, run_log, trained, warm_start
from dcgan_jax.runs.alarms import Alarms
from dcgan_jax.runs.rollbacks import add_rollback, rollbacks
from dcgan_jax.train_state import build_gan
from tests import fuzz, test_import_weights, tiny

# Orbax leaves tasks behind when it gives up.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

META = {"source": "folder:/images", "count": 10, "sha256": "aa", "labels_sha256": None}
CONFIG = tiny.config().to_json().encode()
FIELDS = sorted(flatten(tiny.config()))


def make_run(workdir: Path) -> None:
    """A folder as a run leaves it after step 100, but for the content of its checkpoint."""
    run_folder.record(workdir, tiny.config({"num_steps": 900}), META)
    (run_folder.checkpoints(workdir) / "100").mkdir(parents=True)


# --- config.json and data.json ---------------------------------------------------------------------------------------


@st.composite
def other_fields(draw: st.DrawFn) -> bytes:
    """A config whose fields, or groups of them, have other values, are gone, or have company."""
    content = json.loads(CONFIG)
    for _ in range(draw(st.integers(1, 3))):
        *parents, field = draw(
            st.sampled_from([*FIELDS, "data", "model.generator", "model", "optimizer", "eval"])
        ).split(".")
        node: Any = content
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict):
            kind = draw(st.sampled_from(["other", "gone", "more"]))
            name = (
                draw(st.sampled_from(["a.b", "items", "__class__", "\ud800", "lock", ""])) if kind == "more" else field
            )
            node[name] = draw(fuzz.any_json)
            if kind == "gone":
                del node[name]
    return json.dumps(content).encode()


CONFIGS = st.one_of(
    fuzz.damaged(CONFIG),
    other_fields(),
    fuzz.any_json.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b'{"a":' * 1500 + b"1" + b"}" * 1500, b'{"seed": ' + b"9" * 5000 + b"}", b"\xff\xfe{}", b"NaN"]),
)


@fuzz.examples(150)
@given(CONFIGS)
def test_any_config_is_read_or_refused(content: bytes) -> None:
    with fuzz.folder() as folder:
        make_run(folder)
        (folder / "config.json").write_bytes(content)
        before = fuzz.snapshot(folder)
        with contextlib.suppress(UserError):
            config = run_folder.load_config(folder)
            flatten(config)
            check_config(config)
            build_gan(config)
        with pytest.raises(UserError):  # there are no weights in the checkpoint
            trained.load(folder)
        with contextlib.suppress(UserError):
            run_folder.check(folder, tiny.config({"num_steps": 900}))
        assert fuzz.snapshot(folder).keys() == before.keys()


@fuzz.examples(150)
@given(
    st.one_of(
        fuzz.damaged(json.dumps(META).encode()),
        fuzz.any_json.map(lambda value: json.dumps(value).encode()),
        st.builds(
            lambda name, value: json.dumps({**META, name: value}).encode(), st.sampled_from(sorted(META)), fuzz.any_json
        ),
    ),
    st.booleans(),
)
def test_any_record_of_the_images_is_read_or_refused(content: bytes, same: bool) -> None:
    with fuzz.folder() as folder:
        make_run(folder)
        (folder / "data.json").write_bytes(content)
        now = META if same else {**META, "sha256": "bb"}
        try:
            run_folder.record(folder, tiny.config(), now)
        except UserError:
            assert (folder / "data.json").read_bytes() == content
        else:
            assert json.loads((folder / "data.json").read_text()) == now


@fuzz.examples(150)
@given(
    fuzz.damaged(b'[{"diverged_at": 3, "back_to": 2, "reason": "text"}]')
    | fuzz.any_json.map(lambda value: json.dumps(value).encode())
)
def test_any_rollbacks_are_read_or_refused(content: bytes) -> None:
    with fuzz.folder() as folder:
        (folder / "rollbacks.json").write_bytes(content)
        with contextlib.suppress(UserError):
            count = len(rollbacks(folder))
            assert isinstance(json.loads(content), list)
            add_rollback(folder, "collapse", 4, 2, "reason")
            assert len(rollbacks(folder)) == count + 1


@fuzz.examples(100)
@given(
    fuzz.damaged(b'{"init_from": "runs/a,2", "step": 2}') | fuzz.any_json.map(lambda value: json.dumps(value).encode())
)
def test_any_note_of_a_start_is_that_of_the_flag_or_refused(content: bytes) -> None:
    with fuzz.folder() as folder:
        (folder / "init_from.json").write_bytes(content)
        try:
            warm_start.check_resumed(folder, "runs/a,2")
        except UserError:
            return
        assert json.loads(content)["init_from"] == "runs/a,2"


SUMS = b"0" * 64 + b"  d/data\n" + b"1" * 64 + b"  ../../secret\n"


@fuzz.examples(100)
@given(fuzz.damaged(SUMS) | st.binary(max_size=80))
def test_any_checksums_are_damage(content: bytes) -> None:
    with fuzz.folder() as folder:
        make_run(folder)
        item = run_folder.checkpoint(folder, 100) / "default"
        (item / "d").mkdir(parents=True)
        (item / "d" / "data").write_bytes(b"data")
        (item / "SHA256SUMS").write_bytes(content)
        before = fuzz.snapshot(folder)
        assert checkpoint.find_damage(item.parent)
        with pytest.raises(UserError, match=r"all checkpoints .* are damaged"):
            checkpoint.newest_intact(folder, print)
        assert fuzz.snapshot(folder) == before


# --- Files and folders in each other's place, odd names --------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_a_file_where_a_folder_belongs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("in the way")
    with pytest.raises(UserError, match=f"{name} is a file"):
        training.train(tiny.config({"data.source": tiny.image_folder(tmp_path / "images")}), tmp_path)
    with pytest.raises(UserError):
        trained.load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "data.json", "metrics.jsonl", "rollbacks.json", "init_from.json"])
def test_a_folder_where_a_file_belongs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder"):
        training.train(tiny.config({"data.source": tiny.image_folder(tmp_path / "images")}), tmp_path)
    for read in (trained.load, plot_metrics.plot):
        with pytest.raises(UserError):
            read(tmp_path)


NAMES = st.one_of(fuzz.file_names, st.sampled_from(["²", "٣", "-1", "1.5", "007", "9" * 40, "5.orbax-checkpoint-tmp"]))


@fuzz.examples(40)
@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=4))
def test_any_names_beside_the_checkpoints(entries: list[tuple[str, bool]]) -> None:
    with fuzz.folder() as folder:
        make_run(folder)
        for name, is_folder in entries:
            with contextlib.suppress(OSError):
                path = run_folder.checkpoints(folder) / name
                path.mkdir() if is_folder else path.touch(exist_ok=False)
        assert 100 in run_folder.steps(folder)
        with contextlib.suppress(UserError):
            run_folder.check(folder, tiny.config({"num_steps": 900}))
        with pytest.raises(UserError):
            trained.load(folder)


def test_damaged_checkpoints_are_refused(trained_run: Path, tmp_path: Path) -> None:
    """Each file of one, in turn: emptied, filled with something else, a pickle, or gone."""
    files = [path.relative_to(trained_run) for path in run_folder.checkpoints(trained_run).rglob("*") if path.is_file()]
    contents = [b"", b"\xff\0{garbage", fuzz.bomb(tmp_path / "ran"), None]
    refused = 0
    for i, file in enumerate(sorted(files)):
        workdir = tmp_path / str(i)
        shutil.copytree(trained_run, workdir)
        content = contents[i % len(contents)]
        (workdir / file).unlink() if content is None else (workdir / file).write_bytes(content)
        try:
            trained.load(workdir)  # not every file is needed
        except UserError:
            refused += 1
    assert refused
    assert not (tmp_path / "ran").exists()


def test_a_workdir_whose_name_is_no_text(tmp_path: Path) -> None:
    workdir = tmp_path / os.fsdecode(b"caf\xe9")
    for use in (run_folder.load_config, lambda workdir: run_folder.check(workdir, tiny.config())):
        with pytest.raises(UserError, match="not UTF-8"):
            use(workdir)


def test_imported_weights_can_be_trained_on(tmp_path: Path) -> None:
    """Their run is at step 0 and has seen no images, so any will do."""
    run_folder.record(tmp_path, tiny.config(), {"source": "weights"})
    (run_folder.checkpoints(tmp_path) / "0").mkdir(parents=True)
    run_folder.record(tmp_path, tiny.config(), META)
    assert json.loads((tmp_path / "data.json").read_text()) == META


# --- Metrics ---------------------------------------------------------------------------------------------------------

GOOD = {"step": 1, "d_loss": 1.0, "g_loss": 2.0, "d_real": 0.6, "d_fake": 0.4}
LINES = st.one_of(
    st.builds(
        lambda name, value: json.dumps({**GOOD, name: value}).encode(), st.sampled_from(sorted(GOOD)), fuzz.any_json
    ),
    fuzz.damaged(json.dumps(GOOD).encode()),
    fuzz.any_json.map(lambda value: json.dumps(value).encode()),
)


@fuzz.examples(25)
@given(st.lists(LINES, max_size=4), st.booleans(), st.integers(0, 2))
@example([json.dumps({**GOOD, "d_loss": 10**400}).encode()], True, 2)
def test_any_metrics_are_plotted_or_refused(lines: list[bytes], closed: bool, good: int) -> None:
    with fuzz.folder() as folder:
        rows = [json.dumps({**GOOD, "step": step}).encode() for step in range(good)]
        run_folder.metrics(folder).write_bytes(b"\n".join(rows + lines) + b"\n" * closed)
        found = run_folder.read_metrics(folder)
        assert [row["step"] for row in found[:good]][:-1] == list(range(good))[:-1]
        Alarms(LOSSES["hinge"], found)
        run_folder.best_step(folder, [0, 1])
        run_log._drop_lines_after(folder, 1)
        assert all(row["step"] <= 1 for row in run_folder.read_metrics(folder))
        assert len(run_folder.metrics(folder).read_bytes().splitlines()) == len(run_folder.read_metrics(folder))
        try:
            assert plot_metrics.plot(folder).stat().st_size
        except UserError as error:
            assert not good and "holds no metrics" in str(error)


# --- What analyses leave ---------------------------------------------------------------------------------------------

RESULTS = {
    "step": 3,
    "title": "Walks",
    "command": "python",
    "table": [{"what": "change", "here": "1", "paper": ""}],
    "pictures": [{"file": "a.png", "caption": "A square."}],
}


@fuzz.examples(150)
@given(
    st.one_of(
        fuzz.damaged(json.dumps(RESULTS).encode()),
        st.builds(
            lambda name, value: json.dumps({**RESULTS, name: value}).encode(),
            st.sampled_from(sorted(RESULTS)),
            fuzz.any_json,
        ),
    )
)
def test_any_results_are_shown_or_made_again(content: bytes) -> None:
    with fuzz.folder() as folder:
        (folder / "a.png").write_bytes(b"PNG")
        (folder / "results.json").write_bytes(content)
        section = page._kept_section(folder, 3)
        assert section is None or section.startswith("<h2>")


@pytest.mark.parametrize("file", ["../secret.png", "{}/secret.png", "..", ".", "", "a.png\0"])
def test_pages_show_no_files_from_elsewhere(file: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "walk"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"PNG")
    for name, shown in (("a.png", True), (file.format(tmp_path), False)):
        results = {**RESULTS, "pictures": [{"file": name, "caption": ""}]}
        (folder / "results.json").write_text(json.dumps(results))
        assert (page._kept_section(folder, 3) is not None) == shown


@fuzz.examples(150)
@given(
    st.one_of(
        fuzz.damaged(b'{"samples": {"step": 3}, "boxes": [{"sample": 0, "x0": 1, "y0": 1, "x1": 2, "y1": 2}]}'),
        st.builds(
            lambda samples, drawn: json.dumps({"samples": samples, "boxes": drawn}).encode(),
            st.just({"step": 3}) | fuzz.any_json,
            st.lists(st.fixed_dictionaries({name: fuzz.any_json for name in ("sample", "x0", "y0", "x1", "y1")}))
            | fuzz.any_json,
        ),
    )
)
def test_any_boxes_are_read_or_refused(content: bytes) -> None:
    with fuzz.folder() as folder:
        (folder / "boxes.json").write_bytes(content)
        with contextlib.suppress(UserError):
            assert boxes.masks(boxes.read(folder / "boxes.json", {"step": 3}), 2, 8, 8).shape == (2, 8, 8)


# --- Arrays ----------------------------------------------------------------------------------------------------------


def saved(array: np.ndarray) -> bytes:
    """A .npy file."""
    with fuzz.folder() as folder:
        np.save(folder / "array.npy", array)
        return (folder / "array.npy").read_bytes()


ARRAYS = [
    saved(np.linspace(0, 1, 6)),
    saved(np.arange(6, dtype=np.int64).reshape(2, 3)),
    saved(np.array(["text"])),
    saved(np.array([1j])),
    saved(np.zeros(3, [("a", np.uint8)])),
    saved(np.array(2.0)),
    saved(np.zeros((0, 3))),
    saved(np.array([True])),
]


@fuzz.examples(200)
@given(st.sampled_from(ARRAYS) | st.sampled_from(ARRAYS).flatmap(fuzz.damaged))
def test_any_weights_are_read_or_refused(content: bytes) -> None:
    with fuzz.folder() as folder:
        (folder / "x_gen_params.jl_01.npy").write_bytes(content)
        try:
            array = import_weights._Parameters(folder, "gen_params").take()
        except UserError as error:
            assert "x_gen_params.jl_01.npy" in str(error)
        else:
            assert array.dtype == np.float32


def pickled_array(file: Path, marker: Path) -> None:
    np.save(file, np.array([fuzz.Bomb(marker)], object))


def pickled_member(file: Path, marker: Path) -> None:
    with file.open("wb") as opened:
        np.savez(opened, a=np.array([fuzz.Bomb(marker)], object))


def bare_pickle(file: Path, marker: Path) -> None:
    file.write_bytes(fuzz.bomb(marker))


Write = Callable[[Path, Path], None]


def test_nothing_that_could_run_a_file_is_called() -> None:
    """But `runpy`, for the config file that the user names, and a class of `pickle` that allows nothing but tensors.

    The latter's own tests give it what should not run.
    """
    found = set()
    for file in Path(dcgan_jax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                found |= {
                    (file.name, name) for name in modules & {"pickle", "marshal", "shelve", "yaml", "joblib", "runpy"}
                }
            elif isinstance(node, ast.Call):
                call = ast.unparse(node)
                if re.match(r"(eval|exec|compile|__import__|os\.system|pickle\.\w+)\(", call):
                    found.add((file.name, call))
                if call.startswith("torch.load(") and "weights_only=True" not in call:
                    found.add((file.name, call))
                if call.startswith("np.load(") and "allow_pickle=False" not in call:
                    found.add((file.name, call))
            elif isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases):
                assert "find_class" in {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    raised = "pickle.UnpicklingError("
    found = {(name, what) for name, what in found if not str(what).startswith(raised)}
    assert found == {("config.py", "runpy"), ("torch_file.py", "pickle")}


@pytest.mark.parametrize("write", [pickled_array, pickled_member, bare_pickle])
def test_weights_are_never_unpickled(write: Write, tmp_path: Path) -> None:
    config = test_import_weights.config_of()
    folder = test_import_weights.write(tmp_path / "weights", *test_import_weights.random_arrays(config))
    write(folder / "200_gen_params.jl_02.npy", tmp_path / "ran")
    with pytest.raises(UserError, match=r"200_gen_params\.jl_02\.npy is not an array of numbers"):
        import_weights.import_weights(config, folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("write", [pickled_array, bare_pickle])
def test_hashes_are_never_unpickled(write: Write, tmp_path: Path) -> None:
    settings = semantic_hash.Settings(steps=1)
    images = tiny.images(4, semantic_hash.SIDE)
    expected = semantic_hash.hash_images(images, tmp_path / "hashes", settings)
    for file in ("hashes.npy", "autoencoder.msgpack", "hashes.partial"):
        write(semantic_hash._subfolder(tmp_path / "hashes", settings) / file, tmp_path / "ran")
    found = semantic_hash.hash_images(images, tmp_path / "hashes", settings)
    assert found.shape == expected.shape and found.dtype == np.uint8
    assert not (tmp_path / "ran").exists()
