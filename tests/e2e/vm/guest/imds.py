"""Azure's instance metadata service, at the address it has there."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Final

from tests.e2e.vm.wire import Answer, Ask

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS: Final = "169.254.169.254"


def serve(ask: Callable[[Ask], Answer], ready: Callable[[], None]) -> None:
    """Answer requests until the process ends."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            got = ask(Ask("imds", data=f"{self.command} {self.path}\n".encode() + body))
            content = got.blobs[0] if got.blobs else b""
            self.send_response(503 if got.error else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - the library's names

    with HTTPServer((ADDRESS, 80), Handler) as server:
        ready()
        server.serve_forever()
