"""A server of the page on this machine, for networks whose weights lie beside it."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dcgan_jax.machine.errors import UserError


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

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file, kind = served.get(self.path, (None, ""))
            if file is None or not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}): give another --port.") from error
