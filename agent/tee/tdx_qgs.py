"""Quotes straight from the host's quote generation service (QGS), over vsock (attesters.md 3.4).

A frame is a big-endian length of four bytes and a message; numbers inside a message are little-endian.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Deadline

    Connect = Callable[[tuple[int, int], float], socket.socket]

_MAJOR: Final = 1
_MINOR: Final = 1
_GET_QUOTE: Final = 0
_QUOTE: Final = 1
_HEADER: Final = 16
_ERRORS: Final = {
    0x12001: "unexpected error",
    0x12002: "out of memory",
    0x12003: "invalid parameter",
    0x12004: "invalid version",
    0x12005: "invalid type",
    0x12006: "invalid size",
    0x12007: "invalid code",
}


def connect(address: tuple[int, int], seconds: float) -> socket.socket:
    """A connected vsock stream.

    Args:
        address: CID and port.
        seconds: time for the connection.

    Raises:
        OSError: it cannot be had; also where Python or the kernel has no vsock.
    """
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        raise OSError("this Python has no vsock")
    stream = socket.socket(family, socket.SOCK_STREAM)
    try:
        stream.settimeout(seconds)
        stream.connect(address)
    except BaseException:
        stream.close()
        raise
    return stream


def quote(address: tuple[int, int], report: bytes, deadline: Deadline, connect: Connect = connect) -> bytes:
    """The quote over a TDREPORT.

    Args:
        address: CID and port; the host is CID 2, QGS listens on 4050 unless told otherwise.
        report: 1024 bytes.
        deadline: when the caller stops waiting.
        connect: opens the connection; tests use another kind.

    Raises:
        AgentError: QUOTE_SERVICE_UNREACHABLE, EVIDENCE_TIMEOUT, EVIDENCE_MALFORMED, EVIDENCE_FAILED.
    """
    where = f"the quote generation service at vsock {address[0]}:{address[1]}"
    wire = _Wire(where, deadline)
    message = request(report)
    try:
        with connect(address, wire.seconds()) as stream:
            wire.send(stream, len(message).to_bytes(4, "big") + message)
            size = int.from_bytes(wire.receive(stream, 4), "big")
            # T-TEE-39: the host's length, bounded before anything is kept.
            if not _HEADER <= size <= limits.QGS_MAX_ANSWER:
                raise AgentError(ErrorCode.EVIDENCE_MALFORMED, f"{where}: an answer of {size} bytes")
            answer = wire.receive(stream, size)
    except TimeoutError:
        raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, f"{where} did not answer in time") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "no vsock in this system"
        raise AgentError(ErrorCode.QUOTE_SERVICE_UNREACHABLE, f"{where}: {reason}") from None
    return quote_of(answer)


def request(report: bytes) -> bytes:
    """GET_QUOTE_REQ for a TDREPORT and any key, without its frame."""
    body = len(report).to_bytes(4, "little") + bytes(4) + report
    head = _MAJOR.to_bytes(2, "little") + _MINOR.to_bytes(2, "little") + _GET_QUOTE.to_bytes(4, "little")
    return head + (_HEADER + len(body)).to_bytes(4, "little") + bytes(4) + body


def quote_of(answer: bytes) -> bytes:
    """The quote in a GET_QUOTE_RESP, given without its frame.

    Raises:
        AgentError: EVIDENCE_FAILED, the service refused; EVIDENCE_MALFORMED.
    """
    reader = Reader(answer, "QGS answer")
    major = reader.u16("major version")
    reader.skip(2, "minor version")  # another minor version is compatible, as the service sees it too
    kind, size, code = reader.u32("type"), reader.u32("size"), reader.u32("error code")
    if major != _MAJOR or kind != _QUOTE or size != len(answer):
        raise reader.wrong(f"version {major}, type {kind}, size {size} in {len(answer)} bytes")
    if code:
        name = _ERRORS.get(code, "an error of the quoting library")
        raise AgentError(
            ErrorCode.EVIDENCE_FAILED, f"the quote generation service refused: {code:#x}, {name}"
        )
    id_size, quote_size = reader.u32("id size"), reader.u32("quote size")
    reader.skip(id_size, "id")
    found = reader.take(quote_size, "quote")
    if not found or reader.left:
        raise reader.wrong(f"a quote of {quote_size} bytes with {reader.left} bytes after it")
    return found


class _Wire:
    """Sends and receives within one deadline, counted over all pieces."""

    def __init__(self, where: str, deadline: Deadline) -> None:
        self._where = where
        self._deadline = deadline

    def seconds(self) -> float:
        left = self._deadline.remaining()
        if left <= 0:
            raise TimeoutError
        return min(left, limits.EVIDENCE_DEADLINE)

    def send(self, stream: socket.socket, data: bytes) -> None:
        stream.settimeout(self.seconds())
        stream.sendall(data)

    def receive(self, stream: socket.socket, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            stream.settimeout(self.seconds())
            piece = stream.recv(size - len(content))
            if not piece:
                raise AgentError(
                    ErrorCode.QUOTE_SERVICE_UNREACHABLE,
                    f"{self._where} hung up after {len(content)} of {size} bytes",
                )
            content += piece
        return bytes(content)
