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


class Target(msgspec.Struct, frozen=True):
    """An origin-form request target (RFC 9112 section 3.2.1).

    Attributes:
        path: starts with a slash; percent escapes are still there.
        query: what follows the first question mark, still encoded; empty without one.
    """

    path: str
    query: str = ""


def parse_target(raw: str) -> Target:
    """Split a raw request target at its first question mark.

    Args:
        raw: the target of the request line; bytes that are not UTF-8 as surrogate escapes.

    Raises:
        RestError: PAYLOAD_TOO_LARGE above ``limits.REST_MAX_TARGET`` bytes; INVALID_REQUEST for
            absolute-form, asterisk-form, authority-form, a fragment, or a path with spaces, control
            or non-ASCII characters.
    """
    # T-REST-15: the target is bounded before anything looks into it.
    if len(raw.encode("utf-8", "surrogatepass")) > limits.REST_MAX_TARGET:
        raise RestError(ErrorCode.PAYLOAD_TOO_LARGE, "request target")
    # T-REST-16: only origin-form. Other forms exist for proxies, and this is not one.
    if not raw.startswith("/"):
        raise RestError(ErrorCode.INVALID_REQUEST, "the request target is not an absolute path")
    if "#" in raw:
        raise RestError(ErrorCode.INVALID_REQUEST, "the request target has a fragment")
    path, _, query = raw.partition("?")
    if _PATH.fullmatch(path) is None:
        raise RestError(ErrorCode.INVALID_REQUEST, "the path has characters that must be escaped")
    return Target(path, query)


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
