"""The annotation page's server, and, where a browser is installed, the page under a real mouse (long)."""

import json
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.analysis import annotate, boxes
from dcgan_jax.machine.errors import UserError
from tests import tiny
from tests.browser import Browser, ask, needs_browser

SAMPLES = {"step": 7, "seed": 3}
BOX = {"sample": 1.0, "x0": 1.0, "y0": 0.0, "x1": 3.0, "y1": 2.0}


@contextmanager
def served(file: Path, images: np.ndarray) -> Iterator[str]:
    """The page's address. Ends it with Done."""
    with annotate.make_server(images, file, SAMPLES, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        yield address
        if thread.is_alive():
            ask(address + "done", "POST")
        thread.join(10)
        assert not thread.is_alive()


def test_server(tmp_path: Path) -> None:
    file, images = tmp_path / "boxes.json", tiny.images(3, width=12)
    with served(file, images) as address:
        assert b"Drag a box" in ask(address)
        (tmp_path / "samples.png").write_bytes(ask(address + "samples.png"))
        with Image.open(tmp_path / "samples.png") as sheet:
            np.testing.assert_array_equal(np.asarray(sheet).reshape(images.shape), images)
        assert json.loads(ask(address + "boxes")) == {"count": 3, "height": 8, "width": 12, "boxes": []}
        ask(address + "boxes", "PUT", [BOX])
        assert boxes.read(file, SAMPLES) == [BOX]
        assert json.loads(ask(address + "boxes"))["boxes"] == [BOX]
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(address + "boxes", "PUT", [{"sample": 1}])
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(address + "other")
        assert boxes.read(file, SAMPLES) == [BOX]
    with served(file, images) as address:
        assert json.loads(ask(address + "boxes"))["boxes"] == [BOX]


def test_boxes_of_other_samples_are_not_overwritten(tmp_path: Path) -> None:
    boxes.write(tmp_path / "boxes.json", {**SAMPLES, "step": 8}, [BOX])
    with pytest.raises(UserError, match="move the file away"):
        annotate.make_server(tiny.images(3), tmp_path / "boxes.json", SAMPLES, 0)


def test_port_in_use(tmp_path: Path) -> None:
    with served(tmp_path / "boxes.json", tiny.images(1)) as address:
        port = int(address.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            annotate.make_server(tiny.images(1), tmp_path / "other.json", SAMPLES, port)


@pytest.mark.long
@needs_browser
def test_mouse_in_a_browser(tmp_path: Path) -> None:
    """A drag makes a box, a click removes one, and Done ends the server."""
    file = tmp_path / "boxes.json"
    with served(file, tiny.images(12, size=64)) as address:
        browser = Browser(address)
        try:
            wait_for(browser, "0 boxes on 0 samples, saved")
            place = "const r = document.getElementById('sample4').getBoundingClientRect(); return [r.x, r.y, r.width]"
            left, top, width = browser.run(place)
            scale = width / 64
            browser.drag((left + 10 * scale, top + 20 * scale), (left + 30 * scale, top + 44 * scale))
            wait_for(browser, "1 boxes on 1 samples, saved")
            browser.drag((left + 40 * scale, top + 9 * scale), (left + 50 * scale, top + 9 * scale + 30))
            wait_for(browser, "2 boxes on 1 samples, saved")
            browser.drag((left + 45 * scale, top + 12 * scale))
            wait_for(browser, "1 boxes on 1 samples, saved")
            browser.run("document.getElementById('done').click()")
            wait_for(browser, "goes on in the terminal")
        finally:
            browser.close()
    (box,) = boxes.read(file, SAMPLES)
    assert box == pytest.approx({"sample": 4, "x0": 10, "y0": 20, "x1": 30, "y1": 44}, abs=0.5)


def wait_for(browser: Browser, text: str) -> None:
    found = ""
    for _ in range(100):
        found = browser.run("return document.getElementById('status').value")
        if text in found:
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"the page says {found!r}, not {text!r}")
