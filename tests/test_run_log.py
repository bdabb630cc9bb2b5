"""metrics.jsonl on a disk that is full for a while."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from dcgan_jax.runs import run_folder, run_log

VALUES = {"d_loss": 1.0, "g_loss": 2.0, "d_real": 0.5, "d_fake": 0.5}


def test_lines_that_could_not_be_written_follow_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no TensorFlow
    log = run_log.RunLog(tmp_path, 0, 10)
    log.scalars(1, VALUES, 0.0)
    path_open = Path.open

    def open_full(self: Path, *args: Any, **kwargs: Any) -> Any:
        """The disk takes a part of what is written, as a disk that fills up does."""
        file = path_open(self, *args, **kwargs)
        write = file.write

        def write_part(text: str) -> None:
            write(text[:10])
            file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

        file.write = write_part
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        log.scalars(2, VALUES, 0.0)
        log.scalars(3, VALUES, 0.0)
    assert [row["step"] for row in run_folder.read_metrics(tmp_path)] == [1]
    log.scalars(4, VALUES, 0.0)
    log.close()
    assert run_folder.metrics(tmp_path).read_text().count("\n") == 4
    assert run_folder.read_metrics(tmp_path) == [{"step": step, **VALUES} for step in (1, 2, 3, 4)]
    assert capsys.readouterr().out.count("cannot be written (No space left on device); its lines are kept.") == 1


def test_sync_puts_the_lines_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    log = run_log.RunLog(tmp_path, 0, 10)
    log.sync()  # there is nothing yet
    log.scalars(1, VALUES, 0.0)
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.fstat(file.fileno()).st_ino))
    log.sync()
    log.close()
    assert synced == [run_folder.metrics(tmp_path).stat().st_ino]


def test_every_line_is_json_for_every_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is no JSON: a value that could not be measured is left out."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    log = run_log.RunLog(tmp_path, 0, 10)
    log.scalars(1, {**VALUES, "diversity": math.nan, "images_per_second": 5.0}, math.nan)
    log.close()
    (line,) = run_folder.metrics(tmp_path).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, **VALUES, "images_per_second": 5.0}
