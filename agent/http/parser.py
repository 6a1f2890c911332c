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

from agent.http.collected import Collected
from agent.http.messages import (
    FramingError,
    RequestHead,
    ResponseHead,
    TooLargeError,
    keeps,
    tokens,
)

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
_OFFER: Final = re.compile(rb"\r\n(?:upgrade|proxy-connection):[\t -~\x80-\xff]*(?=\r\n)", re.IGNORECASE)
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t -~\x80-\xff]*)?\r\n")
_STATUS_START: Final = b"HTTP/1."


class _Reader(ABC):
    """What both directions have in common: :meth:`feed`, look, and :meth:`clear` before the next message.

    Attributes:
        complete: the whole message has come.
        received: bytes of the body so far, taken or not.
        held: bytes that are kept for the message: its head as it came, its body unless it was taken, and what
            surrounds chunks, since llhttp keeps unfinished trailers.
    """

    __slots__ = (
        "__weakref__",
        "_bounds",
        "_found",
        "_framing",
        "_left",
        "_open_ended",
        "_parser",
        "_raw",
        "_tail",
        "_version",
        "complete",
        "held",
        "received",
    )

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._raw = bytearray()
        self._found = Collected(bounds)
        self._left: int | None = 0
        self._open_ended = False
        self._framing = 0
        self._tail = b""
        self._version = (1, 1)
        self.complete = False
        self.received = 0
        self.held = 0
        self._parser = self._new_parser()

    # --- called by the connection -----------------------------------------------------------------
    @property
    def started(self) -> bool:
        """Whether anything of a message has come."""
        return self._found.headed or bool(self._raw)

    def feed(self, data: bytes) -> int:
        """Take bytes, up to the end of the message at most.

        Returns:
            How many were taken; all of them unless :attr:`complete`.

        Raises:
            FramingError: the connection is of no more use.
        """
        at = 0
        while at < len(data) and not self.complete:
            at += self._feed_body(data, at) if self._found.headed else self._feed_head(data, at)
        return at

    def take(self) -> bytes:
        """The body's bytes since the last call."""
        body = self._found.take()
        self.held -= len(body)
        return body

    def clear(self) -> None:
        """Forget a complete message, so that the next one may come."""
        if self._left is None:  # llhttp reads a trailer's Connection too, and would take nothing more
            self._parser = self._new_parser()
        self._raw = bytearray()
        self._found.clear()
        self._framing = self.received = self.held = 0
        self._left, self._tail = 0, b""
        self.complete = False

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
        self._check(raw)
        if end >= 0:
            self._begin_body(bytes(raw))
        return len(piece) - extra

    def _check(self, raw: bytearray) -> None:
        """Refuse early what can become no head, so that who sent it hears so at once."""
        line = raw.find(b"\n")
        if (line if line >= 0 else len(raw)) > self._bounds.start:
            raise TooLargeError("the start line is too long")
        if len(raw) > self._bounds.head:
            raise TooLargeError("the head is too long")
        # T-HTTP-4: a line feed alone ends a line for some readers and not for others.
        if raw.count(b"\n") != raw.count(_CRLF):
            raise FramingError("a line ends without CR")
        if raw and raw != b"\r" and not self._may_begin(raw):
            tls = raw[0] in {0x15, 0x16}  # an alert, or a handshake (RFC 8446 5.1)
            raise FramingError("this is TLS, not HTTP" if tls else "this is not HTTP")

    def _begin_body(self, raw: bytes) -> None:
        self._read_line(raw)
        # An offer to change the protocol may be ignored (RFC 9110 7.8). llhttp would stop ahead of the body;
        # and with a Proxy-Connection, which says nothing (RFC 9112 C.2.2), ahead of the next message.
        self._feed_parser(_OFFER.sub(b"", raw))
        self._found.headed = True
        chunked, length = self._framed(self._found.fields)
        if chunked and self._version == (1, 0):  # RFC 9112 6.1
            raise FramingError("HTTP/1.0 knows no chunks")
        # T-HTTP-3: llhttp stops at PRI without a word, and its end would be waited for without end.
        if length == 0 and not self.complete:
            raise FramingError("this is not HTTP as it should be")
        self._left = None if chunked or length is None else length
        self._open_ended = length is None and not chunked
        self._accept(self._found.fields, length)

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
        start = self._tail + data[at : at + len(_END) - 1]
        end = start.find(_END)
        size = end + len(_END) - len(self._tail)
        if end < 0:
            end = data.find(_END, at)
            size = end + len(_END) - at if end >= 0 else len(data) - at
        piece = data[at : at + size]
        self._tail = (self._tail + piece[-len(_END) + 1 :])[-len(_END) + 1 :] if end < 0 else b""
        around = len(piece) - self._feed_parser(piece)
        self._framing += around
        self.held += around
        # T-HTTP-5: chunks of one byte with long extensions cost more than the body that is bounded.
        if self._framing > self._bounds.framing:
            raise TooLargeError("the chunks are too small for what surrounds them")
        return len(piece)

    def _feed_parser(self, data: bytes) -> int:
        """Bytes of the body that were in it."""
        found = self._found
        before = found.size
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # CONNECT: for llhttp its head is all there is
        except HttpParserError as error:
            if isinstance(error.__context__, FramingError):
                raise error.__context__ from None
            raise FramingError("this is not HTTP as it should be") from None
        more = found.size - before
        self.received += more
        self.held += more
        self.complete = found.ended
        return more

    def _framed(self, headers: Mapping[str, Sequence[str]]) -> tuple[bool, int | None]:
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None:
            # T-HTTP-3: with another coding two readers may find two ends. A length beside it llhttp refuses.
            if [text.lower() for text in coding] != ["chunked"]:
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
        self._line = ("", "")
        self.head: RequestHead | None = None

    def clear(self) -> None:
        """Forget a complete message, so that the next one may come."""
        super().clear()
        self.head = None

    def _new_parser(self) -> HttpParser:
        return HttpRequestParser(self._found)

    def _may_begin(self, raw: bytearray) -> bool:
        return _METHOD.match(raw) is not None

    def _read_line(self, raw: bytes) -> None:
        line = _REQUEST_LINE.match(raw)
        if line is None:  # llhttp also knows RTSP, ICE and HTTP/0.9
            raise FramingError("the request line is not HTTP/1.1")
        self._line = (line[1].decode("ascii"), line[2].decode("ascii"))
        self._version = (1, int(line[3]))

    def _unannounced(self) -> int:
        return 0

    def _accept(self, headers: Mapping[str, Sequence[str]], length: int | None) -> None:
        method, target = self._line
        self.head = RequestHead(
            method=method,
            target=target,
            version=self._version,
            headers=headers,
            length=length,
            keep=method != "CONNECT" and keeps(self._version, headers),
            expects=self._version == (1, 1) and "100-continue" in tokens(headers, "expect"),
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

    __slots__ = ("_interim", "_status", "_tunnel", "head")

    def __init__(self, bounds: Bounds, *, tunnel: bool = False) -> None:
        super().__init__(bounds)
        self._tunnel = tunnel
        self._interim = 0
        self._status = 0
        self.head: ResponseHead | None = None

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
        return HttpResponseParser(self._found)

    def _may_begin(self, raw: bytearray) -> bool:
        return raw.startswith(_STATUS_START) or _STATUS_START.startswith(raw)

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
            if length != 0:
                raise FramingError("an interim answer announces a body")
            super().clear()
            self._parser = self._new_parser()  # llhttp would take nothing more behind a Connection: close
            return
        keep = keeps(self._version, headers)
        if self._tunnel and self._status < 300:
            self.complete = True
        elif self.complete:
            # T-HTTP-3: what a 204 or 304 announces may come all the same, and answers no other request.
            keep = keep and length == 0
        if self.complete:
            length = self._left = 0
            self._open_ended = False
        self.head = ResponseHead(
            status=self._status,
            version=self._version,
            headers=headers,
            length=length,
            keep=keep and not self._open_ended,
        )
