"""A gRPC client without manners: what it sends, and what it takes, is said frame by frame (RFC 9113)."""

from __future__ import annotations

import contextlib
import socket
import struct

DATA, HEADERS, RESET, SETTINGS, PING = 0, 1, 3, 4, 6
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW = 4


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def head(path: str) -> bytes:
    lines = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    # Literal, not indexed, not Huffman-coded (RFC 7541, 6.2.2); all are below 127 bytes.
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in lines.items()
    )


def message(payload: bytes) -> bytes:
    return struct.pack(">BI", 0, len(payload)) + payload


class MiniGrpc:
    """Blocking, with a time limit of 10 s on everything."""

    def __init__(self, path: str, window: int = 65535) -> None:
        """Connect.

        Args:
            path: of the Unix socket.
            window: bytes of an answer that are taken unasked.
        """
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        settings = struct.pack(">HI", INITIAL_WINDOW, window)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))

    def begin(self, stream: int, path: str, body: bytes, *, end: bool) -> None:
        """Send a request's head and some of its body."""
        data = frame(DATA, END_STREAM if end else 0, stream, body)
        self.socket.sendall(frame(HEADERS, END_HEADERS, stream, head(path)) + data)

    def until(self, *wanted: tuple[int, int]) -> None:
        """Read until a frame of each kind and stream has come."""
        missing = set(wanted)
        while missing:
            top = self._exactly(9)
            size, kind, flags = int.from_bytes(top[:3], "big"), top[3], top[4]
            stream = int.from_bytes(top[5:], "big")
            body = self._exactly(size)
            missing.discard((kind, stream))
            if kind in {SETTINGS, PING} and not flags & ACK:
                self.socket.sendall(frame(kind, ACK, 0, body if kind == PING else b""))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()
