"""Azure's instance metadata service for development (attesters.md 5.2)."""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

CERTIFICATION: Final = "/metadata/THIM/amd/certification"
TD_QUOTE: Final = "/acc/tdquote"

_LARGEST: Final = 16 * 1024


class Faults(msgspec.Struct):
    """What goes wrong from now on.

    Attributes:
        status: answered to every request, with an empty body.
        busy: so many requests are answered with 429 first.
        unpadded_only: a report in standard base64 is refused with 400.
        url_quote: the quote comes in base64url.
        body: answered instead of any document.
    """

    status: int = 0
    busy: int = 0
    unpadded_only: bool = False
    url_quote: bool = False
    body: bytes | None = None


class Imds:
    """A running service on loopback. A context manager.

    Args:
        vcek_pem: the certificate of the machine's SNP key, PEM; and the chain behind it, PEM.
        quote: makes a TD quote of a TDREPORT (1024 bytes).

    Attributes:
        url: base URL, for ``attester.imds_url``.
        faults: see :class:`Faults`.
        asked: how often each path was asked for.
    """

    def __init__(
        self, vcek_pem: tuple[str, str] = ("", ""), quote: Callable[[bytes], bytes] | None = None
    ) -> None:
        self.vcek_pem = vcek_pem
        self.quote = quote
        self.faults = Faults()
        self.asked: Counter[str] = Counter()
        self.url = ""

    def __enter__(self) -> Self:
        service = self

        class Handler(_Handler):
            imds: Imds = service

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="imds", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to one request."""
        self.asked[path] += 1
        if self.faults.busy > 0:
            self.faults.busy -= 1
            return 429, b""
        if self.faults.status:
            return self.faults.status, b""
        if self.faults.body is not None:
            return 200, self.faults.body
        if (method, path) == ("GET", CERTIFICATION) and self.vcek_pem[0]:
            names = ("vcekCert", "certificateChain")
            document = dict(zip(names, self.vcek_pem, strict=True)) | {"tcbm": "DB18000000000004"}
            return 200, json.dumps(document).encode()
        if (method, path) == ("POST", TD_QUOTE) and self.quote is not None:
            return self._td_quote(body)
        return 404, b""

    def _td_quote(self, body: bytes) -> tuple[int, bytes]:
        try:
            text = str(json.loads(body)["report"])
            if self.faults.unpadded_only and set(text) & set("+/="):
                return 400, b""
            plain = text.translate(str.maketrans("-_", "+/")).rstrip("=")
            report = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except (ValueError, KeyError, TypeError, binascii.Error):
            return 400, b""
        if len(report) != 1024 or self.quote is None:
            return 400, b""
        quote = self.quote(report)
        encoded = base64.urlsafe_b64encode(quote).rstrip(b"=") if self.faults.url_quote else None
        return 200, json.dumps({"quote": (encoded or base64.b64encode(quote)).decode()}).encode()


class _Handler(BaseHTTPRequestHandler):
    imds: Imds

    def do_GET(self) -> None:
        self._reply(b"")

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "0")
        length = int(size) if size.isascii() and size.isdecimal() else 0
        self._reply(self.rfile.read(min(length, _LARGEST)))

    def _reply(self, body: bytes) -> None:
        # As Azure: a request that a browser or a proxy could have sent is refused.
        marked = self.headers.get("Metadata") == "true" and "X-Forwarded-For" not in self.headers
        status, answer = self.imds.answer(self.command, self.path, body) if marked else (400, b"")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Nothing: tests and demos have their own output."""
