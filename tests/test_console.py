"""Output that nobody takes: a closed pipe, a full disk."""

import os
from pathlib import Path

import pytest

from dcgan_jax.machine.console import Console


def test_a_reader_that_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    console = Console(os.fdopen(writer, "w"), "stdout")
    console.write("first\n")
    console.flush()
    assert os.read(reader, 100) == b"first\n"
    os.close(reader)
    for _ in range(3):
        console.write("lost\n")
        console.flush()
    console.close()
    assert capsys.readouterr().err == "warning: stdout cannot be written (Broken pipe); its lines are dropped.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this disk that is always full")
def test_a_disk_that_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(open("/dev/full", "w"), "stdout")  # noqa: SIM115  # closed below
    for _ in range(3):
        print("x" * 100_000, file=console)  # type: ignore[call-overload]
    console.close()
    warning = "warning: stdout cannot be written (No space left on device); its lines are dropped.\n"
    assert capsys.readouterr().err == warning


def test_what_can_be_written_is(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as file:
        console = Console(file, "stdout")
        assert console.write("abc") == 3
        console.flush()
        assert not console.isatty() and console.encoding == file.encoding
    assert (tmp_path / "log").read_text() == "abc"
