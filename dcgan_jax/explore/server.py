"""A server of the page on this machine, for networks whose weights lie beside it."""

from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from dcgan_jax.reports import local_server


def serve(page: Path, port: int) -> None:
    """Serves the page on localhost until it is interrupted; arguments and errors as of `make_server`."""
    with make_server(page, port) as server:
        print(f"Open http://127.0.0.1:{server.server_port}/ and press Ctrl-C here at the end.", flush=True)
        server.serve_forever(poll_interval=0.1)


def make_server(page: Path, port: int) -> ThreadingHTTPServer:
    """A server of a page, and of the weights beside it, on localhost. It serves nothing else.

    Args:
      page: as `page.write` wrote it.
      port: 0 takes a free one.

    Raises:
      UserError: the port is taken.
    """
    weights = page.with_suffix(".weights")
    served = {"/": (page, "text/html; charset=utf-8"), f"/{weights.name}": (weights, "application/octet-stream")}

    class Handler(local_server.Handler):
        def do_GET(self) -> None:
            file, kind = served.get(unquote(self.path), (None, ""))
            if file is None or not file.is_file():
                self.send_error(404)
            else:
                self.send(kind, file.read_bytes())

    return local_server.make(Handler, port)
