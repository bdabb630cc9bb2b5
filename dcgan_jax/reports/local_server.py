"""Servers of pages on this machine alone."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dcgan_jax.machine.errors import UserError


class Handler(BaseHTTPRequestHandler):
    """Sends whole contents, which browsers do not keep, and writes no log."""

    def send(self, kind: str, content: bytes) -> None:
        """Answers with a content of this MIME type."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def make(handler: type[Handler], port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1.

    Args:
      handler: answers the requests.
      port: 0 takes a free one.

    Raises:
      UserError: the port is taken.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}): give another --port.") from error
