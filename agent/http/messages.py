"""HTTP/1.1 messages as data: what the readers of :mod:`agent.http.parser` make, and within which bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class FramingError(ValueError):
    """The bytes are no HTTP message that this end takes. The text is one of a closed set."""


class TooLargeError(FramingError):
    """A head, or what surrounds a chunked body, is above its bound."""


class TooManyLinesError(TooLargeError):
    """A head has more lines than its bound."""


class Bounds(msgspec.Struct, frozen=True):
    """What a message may weigh. Its body is bounded by whoever reads it.

    Attributes:
        head: bytes of the start line and the header lines together.
        start: bytes of the start line.
        fields: header lines.
        field: bytes of one header line, name and value together; None for as many as the head has.
        framing: bytes of chunk sizes, extensions and trailers of one body together.
        interim: answers with a status below 200 ahead of the one that counts.
    """

    head: int
    start: int
    fields: int
    framing: int
    interim: int = 0
    field: int | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of message begin with.

    Attributes:
        version: 1, and 0 or 1.
        headers: every value by lower-case name, in order, without white space around it; bytes that are not
            UTF-8 as surrogate escapes.
        length: announced bytes of the body, 0 when there is none; None when it is chunked or ends with the
            connection.
        keep: whether the sender goes on with the connection after this message.
    """

    version: tuple[int, int]
    headers: Mapping[str, Sequence[str]]
    length: int | None
    keep: bool


class RequestHead(Head, frozen=True, kw_only=True):
    """A request.

    Attributes:
        method: as sent; case counts.
        target: as sent: printable ASCII, not empty.
        expects: it waits for ``100 Continue`` before it sends its body.
    """

    method: str
    target: str
    expects: bool


class ResponseHead(Head, frozen=True, kw_only=True):
    """An answer.

    Attributes:
        status: 200 or above.
    """

    status: int


def tokens(headers: Mapping[str, Sequence[str]], name: str) -> set[str]:
    """A comma-separated list's members over all its lines, in lower case."""
    return {token.strip(" \t").lower() for value in headers.get(name, ()) for token in value.split(",")}


def keeps(version: tuple[int, int], headers: Mapping[str, Sequence[str]]) -> bool:
    """Whether the connection goes on after a message (RFC 9112 9.3)."""
    if "connection" not in headers:
        return version == (1, 1)
    options = tokens(headers, "connection")
    return "close" not in options and (version == (1, 1) or "keep-alive" in options)
