"""The door for files: what is damaged is told in one way, and what can be made again is made once."""

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from dcgan_jax import command_line
from dcgan_jax.machine import files
from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.files import Damaged, Missing
from dcgan_jax.runs import run_folder
from tests import fuzz

ROOT = Path(__file__).parents[1]


def test_json(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    with pytest.raises(Missing, match=r"file\.json cannot be read: .*No such file"):
        files.read_json(file, dict)
    file.write_text('{"a": [1]}')
    assert files.read_json(file, dict) == {"a": [1]}
    with pytest.raises(Damaged, match=r"file\.json cannot be read: it holds no list"):
        files.read_json(file, list)


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe{}", b"[" * 100_000])
def test_json_that_is_damaged(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with pytest.raises(Damaged) as error:
        files.read_json(file, list)
    assert not isinstance(error.value, Missing)
    assert error.value.path == file
    assert str(error.value) == f"{file} cannot be read: {error.value.reason}"


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    for read in (lambda path: files.read_json(path, dict), files.load_npy, files.load_npz):
        with pytest.raises(Damaged, match="Is a directory"):
            read(tmp_path)


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.ones((2, 2), np.float32))
    assert files.load_npy(tmp_path / "x.npy").tolist() == [0, 1, 2]
    assert isinstance(files.load_npy(tmp_path / "x.npy", mapped=True), np.memmap)
    loaded = files.load_npz(tmp_path / "x.npz")
    assert {name: array.tolist() for name, array in loaded.items()} == {"a": [0, 1, 2], "b": [[1, 1], [1, 1]]}
    assert loaded["b"].dtype == np.float32
    for read, name in ((files.load_npy, "y.npy"), (files.load_npz, "y.npz")):
        with pytest.raises(Missing):
            read(tmp_path / name)
    with pytest.raises(Damaged, match="it holds no single array"):
        files.load_npy(tmp_path / "x.npz")
    with pytest.raises(Damaged, match=r"it is no \.npz file"):
        files.load_npz(tmp_path / "x.npy")


def test_every_cut_of_an_archive_is_damage(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3))
    whole = (tmp_path / "x.npz").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "x.npz").write_bytes(whole[:length])
        with pytest.raises(Damaged):
            files.load_npz(tmp_path / "x.npz")


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    bomb = np.array([fuzz.Bomb(tmp_path / "ran")], object)
    np.save(tmp_path / "x.npy", bomb)
    np.savez(tmp_path / "x.npz", bomb)
    for read, name in ((files.load_npy, "x.npy"), (files.load_npz, "x.npz")):
        with pytest.raises(Damaged, match="allow_pickle"):
            read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_what_reading_lets_pass(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^of its own$"), files.reading(tmp_path):
        raise UserError("of its own")
    with pytest.raises(KeyboardInterrupt), files.reading(tmp_path):
        raise KeyboardInterrupt
    with pytest.raises(Damaged, match="KeyError: 'name'"), files.reading(tmp_path):
        raise KeyError("name")


# --- Cached ----------------------------------------------------------------------------------------------------------


class Kept:
    """A list in a JSON file; counts how often it is made."""

    def __init__(self, path: Path) -> None:
        self.path, self.made = path, 0

    def __call__(self) -> list[int]:
        return files.cached(
            self.path,
            purpose="the list",
            load=lambda path: files.read_json(path, list),
            make=self._make,
            save=lambda made: json.dumps(made).encode(),
        )

    def _make(self) -> list[int]:
        self.made += 1
        return [1, 2]


def test_made_once_and_again_when_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(tmp_path / "new" / "list.json")
    assert kept() == kept() == [1, 2]
    assert kept.made == 1
    kept.path.write_text("[3]")
    assert kept() == [3]
    assert not caplog.records
    kept.path.write_text("[3")
    with caplog.at_level(logging.WARNING):
        assert kept() == [1, 2]
    assert f"{kept.path} is damaged or outdated (Expecting" in caplog.text
    assert (kept.made, kept.path.read_text()) == (2, "[1, 2]")


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    kept = Kept(tmp_path / "file" / "list.json")
    with caplog.at_level(logging.WARNING):
        assert kept() == [1, 2]
    assert "list.json cannot be kept (" in caplog.text


def test_what_making_raises_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> list[int]:
        raise UserError("the source is gone")

    path = tmp_path / "list.json"
    with pytest.raises(UserError, match="the source is gone"):
        files.cached(path, purpose="", load=lambda path: files.read_json(path, list), make=fail, save=bytes)
    assert not path.exists()


def test_others_wait_for_the_one_that_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thread here: a lock on a file that is opened twice excludes it as it does a process."""
    kept, found = Kept(tmp_path / "list.json"), list[list[int]]()
    with files.lock(tmp_path / "list.lock", "this test"):
        thread = threading.Thread(target=lambda: found.append(kept()))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        kept.path.write_text("[7]")
    thread.join()
    assert (found, kept.made) == ([[7]], 0)
    assert "Waiting for another process to finish the list" in capsys.readouterr().err


# --- Systems without fcntl -------------------------------------------------------------------------------------------


NO_FCNTL = r"dcgan_jax needs Linux or macOS: Windows has no fcntl; use WSL\."


def test_no_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    with pytest.raises(UserError, match=NO_FCNTL), files.lock(tmp_path / "lock", "this test"):
        pass
    with pytest.raises(SystemExit) as exit:
        command_line.run(pytest.fail)
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"error: {NO_FCNTL}\n".replace("\\", "")


def test_no_fcntl_on_the_command_line() -> None:
    script = (
        "import sys; sys.modules['fcntl'] = None; sys.argv = ['main', '--config=x', '--workdir=x']\n"
        "import runpy; runpy.run_module('dcgan_jax.main', run_name='__main__')"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 2
    assert process.stderr == f"error: {NO_FCNTL}\n".replace("\\", "")


def test_a_lock_says_whether_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with files.lock(tmp_path / "lock", "this test") as held:
        assert held

    def refuse(number: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(number, "reason")

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    for wait in (True, False):
        with files.lock(tmp_path / "lock", "this test", wait=wait) as held:
            assert not held
    refuse(errno.EIO)
    with pytest.raises(OSError, match="reason"), files.lock(tmp_path / "lock", "this test"):
        pass


def test_a_run_trains_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), run_folder.lock(tmp_path):
        pass
    assert f"{tmp_path} is on a file system without locks (Function not implemented)" in caplog.text


def no_home(path: str) -> str:
    return path


def test_without_a_home_folder_the_cache_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", no_home)  # HOME unset, and a user id without a name
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files._temporary_cache.cache_clear()
    with caplog.at_level(logging.WARNING):
        folder = files.cache_folder()
        assert files.cache_folder() == folder == tmp_path / f"dcgan_jax-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert caplog.text.count("There is no home folder") == 1
    # One that others can write to, or a link, is not trusted.
    for number in range(2):
        if number == 0:
            folder.chmod(0o777)
        else:
            folder.rmdir()
            folder.symlink_to(tmp_path)
        files._temporary_cache.cache_clear()
        assert files.cache_folder().name.startswith("dcgan_jax-") and files.cache_folder() != folder
    files._temporary_cache.cache_clear()
