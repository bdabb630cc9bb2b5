"""A page on this machine on which the mouse draws boxes on samples; every change is written to a file at once."""

import json
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_jax.analysis import boxes
from dcgan_jax.reports import image_grid, local_server

_MOST_BYTES = 10_000_000  # of a request


def serve(images: np.ndarray, file: Path, samples: dict[str, Any], port: int) -> None:
    """Serves the page on localhost until its button Done is pressed; arguments and errors as in `make_server`."""
    with make_server(images, file, samples, port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"Draw boxes at {address} and press Done. They are kept in {file}", flush=True)
        server.serve_forever(poll_interval=0.1)


def make_server(images: np.ndarray, file: Path, samples: dict[str, Any], port: int) -> ThreadingHTTPServer:
    """A server of the page on localhost.

    Args:
      images: uint8 [count, height, width, channels].
      file: of the boxes, see boxes.py; those that it holds are shown.
      samples: what they depend on, see boxes.py.
      port: 0 takes a free one.

    Raises:
      UserError: the port is taken, or the file holds boxes on other samples: nobody's work is overwritten.
    """
    drawn = boxes.read(file, samples) if file.exists() else []
    page = resources.files("dcgan_jax.analysis").joinpath("annotate.html").read_bytes()
    count, height, width, _ = images.shape
    state = {"count": count, "height": height, "width": width, "boxes": drawn}
    contents = {
        "/": ("text/html; charset=utf-8", page),
        "/samples.png": ("image/png", image_grid.png(image_grid.make_grid(images, 1))),
        "/boxes": ("application/json", json.dumps(state).encode()),
    }

    def keep(drawn: list[boxes.Box]) -> None:
        boxes.write(file, samples, drawn)
        contents["/boxes"] = ("application/json", json.dumps({**state, "boxes": drawn}).encode())

    return local_server.make(_make_handler(contents, keep), port)


def _make_handler(
    contents: dict[str, tuple[str, bytes]], keep: Callable[[list[boxes.Box]], None]
) -> type[local_server.Handler]:
    """Answers GET with `contents` (kind and bytes by path), PUT /boxes with `keep`, and POST /done by ending."""

    class Handler(local_server.Handler):
        def do_GET(self) -> None:
            if self.path in contents:
                self.send(*contents[self.path])
            else:
                self.send_error(404)

        def do_PUT(self) -> None:
            size = self.headers.get("Content-Length", "0")
            if self.path != "/boxes" or not size.isdecimal() or int(size) > _MOST_BYTES:
                self.send_error(404)
                return
            try:
                keep(boxes.check(json.loads(self.rfile.read(int(size)))))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                self.send_error(400)
                return
            self.send("application/json", b"{}")

        def do_POST(self) -> None:
            self.send("application/json", b"{}")
            if self.path == "/done":
                threading.Thread(target=self.server.shutdown).start()  # waits for serve_forever, which waits for us

    return Handler
