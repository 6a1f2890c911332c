"""The request target, taken as it came.

Clients depend on the path being forwarded undecoded (cdh.md 1.2, 1.6), so nothing here normalises,
decodes or joins anything.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from agent.config import limits
from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError

_PATH: Final = re.compile(r"/[!-~]*", re.ASCII)
_ABSOLUTE: Final = re.compile(
    r"http://(?P<authority>[^/?#]*)(?P<rest>.*)", re.ASCII | re.IGNORECASE | re.DOTALL
)


class Target(msgspec.Struct, frozen=True):
    """A request target in origin-form or absolute-form (RFC 9112 sections 3.2.1 and 3.2.2).

    Attributes:
        path: starts with a slash; percent escapes are still there.
        query: what follows the first question mark, still encoded; empty without one.
        authority: the host an absolute-form target names, as sent; None in origin-form. Not judged here.
    """

    path: str
    query: str = ""
    authority: str | None = None


def parse_target(raw: str) -> Target:
    """Split a raw request target behind its authority, if it has one, and at its first question mark.

    Args:
        raw: the target of the request line; bytes that are not UTF-8 as surrogate escapes.

    Raises:
        RestError: PAYLOAD_TOO_LARGE above ``limits.REST_MAX_TARGET`` bytes; INVALID_REQUEST for
            absolute-form of another scheme than http, asterisk-form, authority-form, a fragment, or a path
            with spaces, control or non-ASCII characters.
    """
    # T-REST-15: the target is bounded before anything looks into it.
    if len(raw.encode("utf-8", "surrogatepass")) > limits.REST_MAX_TARGET:
        raise RestError(ErrorCode.PAYLOAD_TOO_LARGE, "request target")
    if "#" in raw:
        raise RestError(ErrorCode.INVALID_REQUEST, "the request target has a fragment")
    authority, rest = (None, raw) if raw.startswith("/") else _split_absolute(raw)
    path, _, query = rest.partition("?")
    if authority is not None and not path:
        path = "/"  # RFC 9110 4.2.3: the same resource
    if _PATH.fullmatch(path) is None:
        raise RestError(ErrorCode.INVALID_REQUEST, "the path has characters that must be escaped")
    return Target(path, query, authority)


def _split_absolute(raw: str) -> tuple[str, str]:
    match = _ABSOLUTE.fullmatch(raw)
    # T-REST-16: asterisk-form, authority-form and other schemes are for a proxy, which this is not.
    if match is None:
        raise RestError(ErrorCode.INVALID_REQUEST, "the request target is neither a path nor an http URL")
    return match["authority"], match["rest"]


def split_nth_slash(text: str, n: int) -> tuple[str, str] | None:
    """Split before the ``n``-th slash (counted from 1), which stays with the second part.

    Returns:
        None when there is no such slash (cdh.md 1.2, 10.1).
    """
    position = -1
    for _ in range(n):
        position = text.find("/", position + 1)
        if position < 0:
            return None
    return (text[:position], text[position:]) if n > 0 else None
