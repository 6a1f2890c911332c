"""HTTP/1.1 messages out of bytes (RFC 9112), without IO. llhttp decides what a message is; bounds are ours.

A reader takes the bytes of one direction of one connection and stops behind each message:

1. The head is collected up to its empty line, and bounded while it grows; only a whole one is parsed.
2. The body goes to the parser in pieces that cannot reach past the message's end: by its announced length or,
   when it is chunked, up to the next empty line, since a chunked body ends with one.
3. What is left belongs to the next message. Nothing of it was looked at.

Every sequence of bytes makes messages or raises :class:`FramingError`, whose text never holds input.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from httptools import HttpRequestParser, HttpResponseParser
from httptools.parser.errors import HttpParserError, HttpParserUpgrade

from agent.http.messages import FramingError, RequestHead, ResponseHead, TooLargeError, TooManyLinesError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from httptools.parser.parser import HttpParser

    from agent.http.messages import Bounds

_CRLF: Final = b"\r\n"
_END: Final = b"\r\n\r\n"
_OWS: Final = " \t"
_LENGTH: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_METHOD: Final = re.compile(rb"[A-Z-]{1,20}(?: |\Z)")
_REQUEST_LINE: Final = re.compile(rb"([A-Z-]{1,20}) ([!-~]+) HTTP/1\.([01])\r\n")
_UPGRADE: Final = re.compile(rb"\r\n[Uu][Pp][Gg][Rr][Aa][Dd][Ee]:[\t -~\x80-\xff]*(?=\r\n)")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\r\n")
_STATUS_START: Final = b"HTTP/1."


class _Reader(ABC):
    """What both directions have in common: :meth:`feed`, look, and :meth:`clear` before the next message.

    Attributes:
        complete: the whole message has come.
        received: bytes of the body so far, taken or not.
        held: bytes that are kept for the message: its head as it came, and its body unless it was taken.
    """

    __slots__ = (
        "_body",
        "_bounds",
        "_fields",
        "_framing",
        "_in_body",
        "_left",
        "_lines",
        "_open_ended",
        "_parser",
        "_raw",
        "_tail",
        "complete",
        "held",
        "received",
    )

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._raw = bytearray()
        self._fields: dict[str, list[str]] = {}
        self._lines = 0
        self._body: list[bytes] = []
        self._left: int | None = 0
        self._open_ended = False
        self._framing = 0
        self._tail = b""
        self._in_body = False
        self.complete = False
        self.received = 0
        self.held = 0
        self._parser = self._new_parser()

    # --- called by httptools ----------------------------------------------------------------------
    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line; trailers are dropped."""
        if self._in_body:
            return
        self._lines += 1
        # T-HTTP-2: each line becomes objects, so lines are counted besides their bytes.
        if self._lines > self._bounds.fields:
            raise TooManyLinesError("the head has too many lines")
        if self._bounds.field is not None and len(name) + len(value) > self._bounds.field:
            raise TooLargeError("a header line is too long")
        text = value.decode("utf-8", "surrogateescape").strip(_OWS)
        self._fields.setdefault(name.decode("ascii").lower(), []).append(text)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body.append(data)
        self.received += len(data)
        self.held += len(data)

    def on_message_complete(self) -> None:
        """The message's last byte was parsed."""
        self.complete = True

    # --- called by the connection -----------------------------------------------------------------
    @property
    def started(self) -> bool:
        """Whether anything of a message has come."""
        return self._in_body or bool(self._raw)

    def feed(self, data: bytes) -> int:
        """Take bytes, up to the end of the message at most.

        Returns:
            How many were taken; all of them unless :attr:`complete`.

        Raises:
            FramingError: the connection is of no more use.
        """
        at = 0
        while at < len(data) and not self.complete:
            at += self._feed_body(data, at) if self._in_body else self._feed_head(data, at)
        return at

    def take(self) -> bytes:
        """The body's bytes since the last call."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self.held -= len(body)
        return body

    def clear(self) -> None:
        """Forget a complete message, so that the next one may come."""
        self._raw = bytearray()
        self._fields = {}
        self._body.clear()
        self._lines = self._framing = self.received = self.held = 0
        self._left, self._tail = 0, b""
        self._in_body = self.complete = False

    def end(self) -> None:
        """Forget everything for good. The parser and this reader hold each other, which is ended here."""
        self.clear()
        del self._parser

    def _feed_head(self, data: bytes, at: int) -> int:
        raw, before = self._raw, len(self._raw)
        # T-HTTP-1: never more than the bound is kept, however much arrives at once.
        piece = data[at : at + self._bounds.head + len(_END) - before]
        raw += piece
        while raw.startswith(_CRLF):  # RFC 9112 2.2: empty lines ahead of a request are ignored
            del raw[:2]
        end = raw.find(_END, max(0, before - len(_END)))
        extra = 0 if end < 0 else len(raw) - end - len(_END)
        if extra:
            del raw[-extra:]
        self.held = len(raw)
        self._check(raw, whole=end >= 0)
        if end >= 0:
            self._begin_body(bytes(raw))
        return len(piece) - extra

    def _check(self, raw: bytearray, *, whole: bool) -> None:
        """Refuse early what can become no head, so that who sent it hears so at once."""
        line = raw.find(b"\n")
        if (line if line >= 0 else len(raw)) > self._bounds.start:
            raise TooLargeError("the start line is too long")
        if not whole and len(raw) > self._bounds.head:
            raise TooLargeError("the head is too long")
        # T-HTTP-4: a line feed alone ends a line for some readers and not for others.
        if raw.count(b"\n") != raw.count(_CRLF):
            raise FramingError("a line ends without CR")
        if not self._may_begin(raw):
            raise FramingError("this is not HTTP")

    def _begin_body(self, raw: bytes) -> None:
        self._read_line(raw)
        # An offer to change the protocol may be ignored (RFC 9110 7.8). llhttp would stop ahead of the body.
        self._feed_parser(_UPGRADE.sub(b"", raw))
        self._in_body = True
        chunked, length = self._framed(self._fields)
        self._left = None if chunked or length is None else length
        self._open_ended = length is None and not chunked
        self._accept(self._fields, length)

    def _feed_body(self, data: bytes, at: int) -> int:
        if self._open_ended:
            piece = data[at:]
            self._feed_parser(piece)
            return len(piece)
        if self._left is not None:
            piece = data[at : at + self._left]
            self._left -= len(piece)
            self._feed_parser(piece)
            return len(piece)
        joined = self._tail + data[at:]
        end = joined.find(_END)
        size = len(data) - at if end < 0 else end + len(_END) - len(self._tail)
        piece = data[at : at + size]
        self._tail = joined[-len(_END) + 1 :] if end < 0 else b""
        before = self.received
        self._feed_parser(piece)
        self._framing += len(piece) - (self.received - before)
        # T-HTTP-5: chunks of one byte with long extensions cost more than the body that is bounded.
        if self._framing > self._bounds.framing:
            raise TooLargeError("the chunks are too small for what surrounds them")
        return len(piece)

    def _feed_parser(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return  # CONNECT: for llhttp its head is all there is
        except HttpParserError as error:
            if isinstance(error.__context__, FramingError):
                raise error.__context__ from None
            raise FramingError("this is not HTTP as it should be") from None

    def _framed(self, headers: Mapping[str, Sequence[str]]) -> tuple[bool, int | None]:
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None:
            # T-HTTP-3: with another coding, or a length beside it, two readers may find two ends.
            if length is not None or [text.lower() for text in coding] != ["chunked"]:
                raise FramingError("the body is framed in a way that is not chunked")
            return True, None
        if length is None:
            return False, self._unannounced()
        if len(length) != 1 or not _LENGTH.fullmatch(length[0]):
            raise FramingError("the length of the body is not a number")
        return False, int(length[0])

    # --- each direction's own ---------------------------------------------------------------------
    @abstractmethod
    def _new_parser(self) -> HttpParser: ...

    @abstractmethod
    def _may_begin(self, raw: bytearray) -> bool:
        """Whether a head may begin like this."""

    @abstractmethod
    def _read_line(self, raw: bytes) -> None:
        """Read the start line of a whole head."""

    @abstractmethod
    def _unannounced(self) -> int | None:
        """Bytes of a body without length and chunks; None when the connection's end ends it."""

    @abstractmethod
    def _accept(self, headers: Mapping[str, Sequence[str]], length: int | None) -> None:
        """The head was parsed."""


class RequestReader(_Reader):
    """Requests, on the server's side.

    Attributes:
        head: of the request that is coming in, once its head is there.
    """

    __slots__ = ("_line", "head")

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(bounds)
        self._line: tuple[str, str, tuple[int, int]] = ("", "", (1, 1))
        self.head: RequestHead | None = None

    def clear(self) -> None:
        """Forget a complete message, so that the next one may come."""
        super().clear()
        self.head = None

    def _new_parser(self) -> HttpParser:
        return HttpRequestParser(self)

    def _may_begin(self, raw: bytearray) -> bool:
        return not raw.strip(b"\r") or _METHOD.match(raw) is not None

    def _read_line(self, raw: bytes) -> None:
        line = _REQUEST_LINE.match(raw)
        if line is None:  # llhttp also knows RTSP, ICE and HTTP/0.9
            raise FramingError("the request line is not HTTP/1.1")
        self._line = (line[1].decode("ascii"), line[2].decode("ascii"), (1, int(line[3])))

    def _unannounced(self) -> int:
        return 0

    def _accept(self, headers: Mapping[str, Sequence[str]], length: int | None) -> None:
        method, target, version = self._line
        if length is None and version == (1, 0):
            raise FramingError("HTTP/1.0 knows no chunks")
        self.head = RequestHead(
            method=method,
            target=target,
            version=version,
            headers=headers,
            length=length,
            keep=method != "CONNECT" and _keeps(version, headers),
            expects=version == (1, 1) and "100-continue" in _tokens(headers, "expect"),
        )


class ResponseReader(_Reader):
    """Answers, on the client's side.

    Args:
        bounds: of each answer.
        tunnel: the answer is to ``CONNECT``: a good one has no body, whatever its head says (RFC 9110 9.3.6).
            What follows is not HTTP, so the reader takes nothing more.

    Attributes:
        head: of the answer that counts, once it is there.
    """

    __slots__ = ("_interim", "_status", "_tunnel", "_version", "head")

    def __init__(self, bounds: Bounds, *, tunnel: bool = False) -> None:
        super().__init__(bounds)
        self._tunnel = tunnel
        self._interim = 0
        self._version = (1, 1)
        self._status = 0
        self.head: ResponseHead | None = None

    def on_message_complete(self) -> None:
        """The message's last byte was parsed; behind an interim answer comes another."""
        self.complete = self._status >= 200

    def clear(self) -> None:
        """Forget a complete message, so that the next one may come."""
        super().clear()
        self._interim = 0
        self.head = None

    def finish(self) -> None:
        """The connection has ended: so has an answer that was to end with it.

        Raises:
            FramingError: in the middle of an answer, or before one.
        """
        if not self.complete and not self._open_ended:
            raise FramingError("the answer broke off")
        self.complete = True

    def _new_parser(self) -> HttpParser:
        return HttpResponseParser(self)

    def _may_begin(self, raw: bytearray) -> bool:
        return not raw.strip(b"\r") or raw.startswith(_STATUS_START) or _STATUS_START.startswith(raw)

    def _read_line(self, raw: bytes) -> None:
        line = _STATUS_LINE.match(raw)
        if line is None:
            raise FramingError("the status line is not HTTP/1.1")
        self._version, self._status = (1, int(line[1])), int(line[2])
        if self._status == 101:
            raise FramingError("the protocol was changed, which nobody asked for")

    def _unannounced(self) -> int | None:
        return 0 if self.complete or self._status < 200 else None

    def _accept(self, headers: Mapping[str, Sequence[str]], length: int | None) -> None:
        if self._status < 200:
            self._interim += 1
            # T-HTTP-6: interim answers could go on for ever.
            if self._interim > self._bounds.interim:
                raise TooLargeError("too many interim answers")
            super().clear()
            return
        if self._tunnel and self._status < 300:
            self.complete = True
        if self.complete:  # no body, whatever was announced: 204, 304, or a tunnel
            length = self._left = 0
            self._open_ended = False
        self.head = ResponseHead(
            status=self._status,
            version=self._version,
            headers=headers,
            length=length,
            keep=not self._open_ended and _keeps(self._version, headers),
        )


def _tokens(headers: Mapping[str, Sequence[str]], name: str) -> set[str]:
    return {token.strip(_OWS).lower() for value in headers.get(name, ()) for token in value.split(",")}


def _keeps(version: tuple[int, int], headers: Mapping[str, Sequence[str]]) -> bool:
    """RFC 9112 9.3."""
    if "connection" not in headers:
        return version == (1, 1)
    options = _tokens(headers, "connection")
    return "close" not in options and (version == (1, 1) or "keep-alive" in options)
