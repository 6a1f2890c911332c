"""Both ends of a recording: a server that answers everybody and a client that sends bytes as they are."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LONG: Final = 1500
_FEW: Final = 2
"""Of each program's long messages: pages for people differ in their text only."""


@dataclass(frozen=True)
class Recording:
    """One message. Bytes are characters of Latin-1, so that the file can be read.

    Attributes:
        program: and its version.
        what: it was asked to do.
        start: method and target, or the status.
        fields: header lines.
        body: without chunks; how many of the last bytes it is, when it stands there as it is.
    """

    program: str
    what: str
    data: str
    start: str
    fields: int
    body: str | int


def write(path: Path, recordings: Iterable[Recording]) -> int:
    """One line each, without those that differ in numbers only; how many."""
    kept: dict[tuple[str, str], Recording] = {}
    long: Counter[str] = Counter()
    for each in recordings:
        if len(each.data) > _LONG:
            long[each.program] += 1
        if len(each.data) <= _LONG or long[each.program] <= _FEW:
            kept.setdefault((each.program, re.sub("[0-9]+", "0", each.data)), each)
    path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in kept.values()))
    return len(kept)


class Listener:
    """Takes requests one after the other on each connection, keeps their bytes, and answers 200."""

    def __init__(self, port: int = 0, path: str = "") -> None:
        self.requests: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(path or ("127.0.0.1", port))
        self._socket.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self) -> list[bytes]:
        taken, self.requests = self.requests, []
        return taken

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            while request := _request(stream, connection):
                self.requests.append(request)
                connection.sendall(_OK)
                if _last(request):
                    break


def _last(request: bytes) -> bool:
    head, _, _ = request.lower().partition(b"\r\n\r\n")
    kept = b"keep-alive" in head
    return b"connection: close" in head or (b" http/1.0" in head and not kept)


def _request(stream: io.BufferedReader, connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    if re.search(rb"\r\nexpect: *100-continue", head, re.IGNORECASE):
        connection.sendall(_CONTINUE)
    if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
        return head + _chunks(stream)
    length = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
    return head + (stream.read(int(length[1])) if length else b"")


def _chunks(stream: io.BufferedReader) -> bytes:
    raw = b""
    while True:
        line = stream.readline()
        raw += line
        size = int(line.split(b";")[0], 16)
        if not size:
            break
        raw += stream.read(size + 2)
    while line := stream.readline():
        raw += line
        if line == b"\r\n":
            break
    return raw


def request(program: str, what: str, data: bytes) -> Recording:
    """What a request is, read in the plainest way: recordings are of programs that mean well."""
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    method, target, _ = first.decode("latin-1").split(" ")
    chunked = any(field.lower().startswith(b"transfer-encoding:") for field in fields)
    body = _joined(rest) if chunked else rest
    return Recording(program, what, _text(data), f"{method} {target}", len(fields), _body(data, body))


def _joined(chunks: bytes) -> bytes:
    body, stream = b"", io.BytesIO(chunks)
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    return body


class _Open(io.BytesIO):
    def close(self) -> None:
        """Stay open: the client closes what it has read, and the rest is of interest."""


def answer(program: str, what: str, data: bytes) -> Recording | None:
    """What an answer is for the standard library's client; None when it is not one answer of HTTP/1."""
    final = data
    while re.match(rb"HTTP/1\.[01] 1", final):
        _, _, final = final.partition(b"\r\n\r\n")
    stream = _Open(final)

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return stream

    found = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]  # all it asks of one
    try:
        found.begin()
        body = found.read()
    except (http.client.HTTPException, ValueError):
        return None
    if not final.startswith(b"HTTP/1.") or stream.read():
        return None
    return Recording(
        program, what, _text(data), str(found.status), len(found.getheaders()), _body(data, body)
    )


def _body(data: bytes, body: bytes) -> str | int:
    return len(body) if data.endswith(body) else _text(body)


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def ask(address: tuple[str, int], *parts: bytes, patience: float = 0.6) -> bytes:
    """Send parts, each when the other side is silent; all that comes back until it is silent or has ended."""
    came = b""
    with socket.create_connection(address, 5) as connection, suppress(OSError):
        for part in parts:
            connection.sendall(part)
            connection.settimeout(patience)
            with suppress(TimeoutError):
                while piece := connection.recv(65536):
                    came += piece
    return came
