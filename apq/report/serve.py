"""Serve a page on the loopback address, protected against other users and pages.

Protections: the loopback address, so that no other machine can connect; a secret in the URL, which
other pages and users cannot guess; checks of the ``Host`` and ``Origin`` headers, against DNS
rebinding and cross-site requests; and a content security policy that lets the page connect to this
server only.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from apq.errors import ApqError
from apq.files import to_json

LOOPBACK = "127.0.0.1"
MOST_ASKED = 64_000
"""Largest request body in bytes."""
PATIENCE = 20.0
"""Timeout of a connection in seconds."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageServer(ThreadingHTTPServer):
    """Serves one page, and the answers that it asks for.

    Args:
        page: HTML; asks by ``fetch("ask", …)``.
        answer: From the bytes of a question to plain data; an ``ApqError`` becomes words.
        port: 0: a free one.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, page: str, answer: Callable[[bytes], Any], port: int = 0) -> None:
        self.page, self.answer = page.encode(), answer
        self.token = secrets.token_urlsafe(32)
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def host(self) -> str:
        """Address and port."""
        return f"{LOOPBACK}:{self.server_address[1]}"

    @property
    def address(self) -> str:
        """URL of the page, with its secret."""
        return f"http://{self.host}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closed the connection."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: PageServer
    timeout = PATIENCE
    server_version, sys_version = "apq", ""

    def do_GET(self) -> None:
        """The page."""
        if self._allowed(""):
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """A question of the page."""
        if not self._allowed("ask"):
            return
        if self.headers.get("Origin") != f"http://{self.server.host}":
            return self._refuse(HTTPStatus.FORBIDDEN)
        if self.headers.get_content_type() != "application/json":
            return self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return self._refuse(HTTPStatus.LENGTH_REQUIRED)
        if len(length) > 9 or int(length) > MOST_ASKED:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            status, told = HTTPStatus.OK, self.server.answer(self.rfile.read(int(length)))
        except ApqError as error:
            status, told = HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)}
        self._send(status, to_json(told).encode(), "application/json")

    def _allowed(self, name: str) -> bool:
        """Whether the request is for the page's address plus ``name``, and comes from the page or
        the user; otherwise it is refused."""
        host, origin = self.server.host, f"http://{self.server.host}"
        own = (
            self.headers.get_all("Host") == [host]
            and self.headers.get("Origin", origin) == origin
            and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        )
        wanted = f"/{self.server.token}/{name}"
        if own and secrets.compare_digest(self.path.encode(), wanted.encode()):
            return True
        self._refuse(HTTPStatus.FORBIDDEN)
        return False

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(status, f"{status.phrase}\n".encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: addresses hold the secret."""
