"""Progress bars where tqdm is not installed: nothing is shown, and everything else happens."""

import io

import pytest

from dcgan_jax.machine.progress import NoBar


def test_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(NoBar([1, 2], desc="parts", disable=None)) == [1, 2]
    with NoBar(total=5, initial=2, unit="step") as bar:
        bar.set_description("more")
        bar.set_postfix(loss="1")
        bar.update()
        bar.update(2)
        assert bar.n == 5
    bar.close()
    stream = io.BytesIO(b"content")
    with NoBar.wrapattr(stream, "read", total=7) as wrapped:
        assert wrapped.read() == b"content"
    assert capsys.readouterr().out == ""
    NoBar.write("a line")
    assert capsys.readouterr().out == "a line\n"
