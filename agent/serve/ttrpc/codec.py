"""The ttrpc frame format and its envelope, without IO (cdh.md 2.5, kata_integration.md 2.2).

A frame is a 10-byte header (body length u32, stream id u32, type u8, flags u8, big-endian) and a body
of at most 4 MiB, which holds a ``Request`` or a ``Response`` message.
"""

from __future__ import annotations

import enum
import math
import re
import struct
from typing import Final, TypeAlias

import msgspec
from google.protobuf.message import DecodeError

from agent.config import limits
from agent.errors import RpcCode
from agent.protos import ttrpc_pb2

HEADER: Final = struct.Struct(">IIBB")
REMOTE_OPEN: Final = 2
"""Flag of a request whose sender goes on with data frames: a streaming call."""

MAX_MESSAGE: Final = 8 * limits.KIB
"""UTF-8 bytes of a status message that are kept."""

_MAX_NANO: Final = 2**63 - 1
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}")


class FrameType(enum.IntEnum):
    """The type byte."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Frame(msgspec.Struct, frozen=True):
    """A complete frame; ``kind`` may be a number that :class:`FrameType` does not know."""

    stream: int
    kind: int
    flags: int
    body: bytes


class Oversized(msgspec.Struct, frozen=True):
    """A frame announced a body of ``length`` bytes, above the limit; the body is thrown away."""

    stream: int
    kind: int
    length: int


Event: TypeAlias = Frame | Oversized


class EnvelopeError(ValueError):
    """A body is not the message it should be. The text never holds input."""


class StatusError(Exception):
    """A call ended with a status other than OK, here or at the peer.

    Attributes:
        code: number of google.rpc.Code; a peer may send one that :class:`RpcCode` does not know.
        message: text for the caller.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Request(msgspec.Struct, frozen=True):
    """The envelope of one call.

    Attributes:
        timeout: seconds the caller waits; None when it named no limit.
    """

    service: str
    method: str
    payload: bytes
    timeout: float | None


class Decoder:
    """Cuts a byte stream into frames. Holds the body of one unfinished frame and nothing else."""

    def __init__(self, max_body: int = limits.TTRPC_MAX_BODY) -> None:
        self._max_body = max_body
        self._begun = bytearray()  # of a header
        self._header: tuple[int, int, int, int] | None = None
        self._held: list[bytearray] = []
        self._size = 0
        self._skip = 0

    @property
    def unfinished(self) -> int:
        """Bytes held of a body that is not complete."""
        return self._size

    def feed(self, data: bytes | memoryview) -> list[Event]:
        """The events that ``data`` completes; every byte sequence is accepted, and what is kept is copied."""
        view, at = memoryview(data), 0
        events: list[Event] = []
        while at < len(view):
            if self._skip:
                dropped = min(self._skip, len(view) - at)
                self._skip -= dropped
                at += dropped
            elif self._header is None:
                at = self._head(view, at, events)
            else:
                at = self._body(view, at, self._header, events)
        return events

    def drop(self) -> tuple[int, int]:
        """Give up the unfinished body; its rest is thrown away as it comes.

        Returns:
            The frame's stream id and type; 0 and 0 when there is none.
        """
        if self._header is None:
            return 0, 0
        length, stream, kind, _ = self._header
        self._skip = length - self._size
        self._header, self._held, self._size = None, [], 0
        return stream, kind

    def _head(self, view: memoryview, at: int, events: list[Event]) -> int:
        missing = HEADER.size - len(self._begun)
        self._begun += view[at : at + missing]
        if len(self._begun) < HEADER.size:
            return len(view)
        length, stream, kind, flags = header = HEADER.unpack(self._begun)
        self._begun.clear()
        at += missing
        if length > self._max_body:
            # T-TTRPC-10: an announced size never decides how much is held; the body is dropped as it comes.
            self._skip = length
            events.append(Oversized(stream, kind, length))
        elif length:
            self._header = header
        else:
            events.append(Frame(stream, kind, flags, b""))
        return at

    def _body(self, view: memoryview, at: int, header: tuple[int, int, int, int], events: list[Event]) -> int:
        length, stream, kind, flags = header
        piece = view[at : at + length - self._size]
        at += len(piece)
        if self._size + len(piece) < length:
            self._keep(piece)
            return at
        body = b"".join((*self._held, piece))
        self._header, self._held, self._size = None, [], 0
        events.append(Frame(stream, kind, flags, body))
        return at

    def _keep(self, piece: memoryview) -> None:
        # In pieces: one that grows is copied from place to place, and leaves holes as large as itself.
        if self._held and len(self._held[-1]) + len(piece) <= limits.TTRPC_READ_BUFFER:
            self._held[-1] += piece
        else:
            self._held.append(bytearray(piece))
        self._size += len(piece)


def parse_request(body: bytes) -> Request:
    """The call in a request frame.

    Raises:
        EnvelopeError: not a ``ttrpc.Request``, too many fields, or names that are not names.
    """
    _bound_fields(body)
    try:
        message = ttrpc_pb2.Request.FromString(body)
    except DecodeError:
        raise EnvelopeError("not a ttrpc request") from None
    # T-TTRPC-12: names go into answers and logs, so they are names and nothing else.
    if not _NAME.fullmatch(message.service) or not _NAME.fullmatch(message.method):
        raise EnvelopeError("service or method is not a name")
    nano = message.timeout_nano
    return Request(message.service, message.method, message.payload, nano / 1e9 if nano > 0 else None)


def parse_response(body: bytes) -> bytes:
    """The payload of a response frame; the status may be absent or empty.

    Raises:
        EnvelopeError: not a ``ttrpc.Response``.
        StatusError: the peer answered with an error status.
    """
    try:
        message = ttrpc_pb2.Response.FromString(body)
    except DecodeError:
        raise EnvelopeError("not a ttrpc response") from None
    if message.status.code != RpcCode.OK:
        raise StatusError(message.status.code, message.status.message[:MAX_MESSAGE])
    return message.payload


def encode_frame(kind: int, stream: int, body: bytes, flags: int = 0) -> bytes:
    """One frame.

    Raises:
        EnvelopeError: the body is larger than 4 MiB.
    """
    if len(body) > limits.TTRPC_MAX_BODY:
        raise EnvelopeError(f"a body of {len(body)} bytes is above {limits.TTRPC_MAX_BODY}")
    return HEADER.pack(len(body), stream, kind, flags) + body


def encode_request(stream: int, request: Request) -> bytes:
    """The frame of a call.

    Raises:
        EnvelopeError: larger than 4 MiB.
    """
    seconds = request.timeout
    message = ttrpc_pb2.Request(service=request.service, method=request.method, payload=request.payload)
    if seconds is not None and math.isfinite(seconds):
        # 0 means "no limit" on the wire, so a limit that has just passed becomes the shortest one.
        message.timeout_nano = max(1, min(round(seconds * 1e9), _MAX_NANO))
    return encode_frame(FrameType.REQUEST, stream, message.SerializeToString())


def encode_response(stream: int, payload: bytes) -> bytes:
    """The frame of a successful answer.

    Raises:
        EnvelopeError: larger than 4 MiB.
    """
    return encode_frame(FrameType.RESPONSE, stream, ttrpc_pb2.Response(payload=payload).SerializeToString())


def encode_status(stream: int, code: int, message: str) -> bytes:
    """The frame of a failed answer; a long message is cut."""
    status = ttrpc_pb2.Status(code=code, message=message[: MAX_MESSAGE // 4])
    return encode_frame(FrameType.RESPONSE, stream, ttrpc_pb2.Response(status=status).SerializeToString())


def _bound_fields(body: bytes) -> None:
    # T-TTRPC-11: two bytes of empty metadata become an object of a hundred; count before parsing.
    at = fields = 0
    while at < len(body):
        fields += 1
        if fields > limits.TTRPC_MAX_FIELDS:
            raise EnvelopeError("too many fields")
        tag, at = _varint(body, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(body, at)
        elif wire == 1:
            at += 8
        elif wire == 2:
            size, at = _varint(body, at)
            at += size
        elif wire == 5:
            at += 4
        else:
            raise EnvelopeError("unknown wire type")
    if at != len(body):
        raise EnvelopeError("the message ends early")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise EnvelopeError("the message ends early")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise EnvelopeError("a number is too long")
