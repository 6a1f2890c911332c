"""A second ttrpc client, written from the sheet (cdh.md 2.5) with nothing but ``struct``.

It shares no code with the agent, so that an error in our codec does not hide itself.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return out + struct.pack("B", value)


def text(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(body: bytes) -> dict[int, bytes | int]:
    found: dict[int, bytes | int] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(body):
        tag = number()
        if tag & 7 == 0:
            found[tag >> 3] = number()
        else:
            size = number()
            found[tag >> 3] = body[at : at + size]
            at += size
    return found


def request(service: str, method: str, payload: bytes, nano: int = 0) -> bytes:
    timeout = varint(4 << 3) + varint(nano) if nano else b""
    return text(1, service.encode()) + text(2, method.encode()) + text(3, payload) + timeout


def frame(stream: int, body: bytes, kind: int = 1, flags: int = 0) -> bytes:
    return struct.pack(">IIBB", len(body), stream, kind, flags) + body


class MiniClient:
    """Blocking, with a time limit of 10 s on everything."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))

    def send(self, stream: int, body: bytes, kind: int = 1, flags: int = 0) -> None:
        self.socket.sendall(frame(stream, body, kind, flags))

    def receive(self) -> tuple[int, int, str, bytes]:
        """Stream id, status code, status message, payload."""
        length, stream, kind, _ = struct.unpack(">IIBB", self._exactly(10))
        assert kind == 2
        answer = fields(self._exactly(length))
        raw = answer.get(1, b"")
        assert isinstance(raw, bytes)
        status = fields(raw)
        code, message, payload = status.get(1, 0), status.get(2, b""), answer.get(2, b"")
        assert isinstance(code, int)
        assert isinstance(message, bytes)
        assert isinstance(payload, bytes)
        return stream, code, message.decode(), payload

    def ask(self, stream: int, service: str, method: str, payload: bytes) -> tuple[int, int, str, bytes]:
        self.send(stream, request(service, method, payload))
        return self.receive()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return data

    def close(self) -> None:
        self.socket.close()
