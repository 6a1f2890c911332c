"""Query strings as form data, and the runtime data in them (cdh.md 1.2, 1.5)."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from agent.config import limits
from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


def parse_query(query: str) -> dict[str, str]:
    """Parse ``application/x-www-form-urlencoded`` text: ``+`` is a space, the last duplicate wins.

    A percent sign without two hex digits stands for itself (WHATWG URL section 5.1). Text that is not
    UTF-8 is refused, where upstream puts U+FFFD into its place: evidence over other bytes than the
    caller's would only fail later, at the verifier.

    Args:
        query: encoded, without the question mark; raw bytes that are not UTF-8 as surrogate escapes.

    Raises:
        RestError: INVALID_REQUEST for text that is not UTF-8.
    """
    fields: dict[str, str] = {}
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            fields[_decode(name)] = _decode(value)
    return fields


def _decode(text: str) -> str:
    try:
        raw = text.replace("+", " ").encode("utf-8", "surrogateescape")
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeError:
        raise RestError(ErrorCode.INVALID_REQUEST, "the query is not UTF-8") from None


def refresh(query: str) -> bool:
    """Whether a resource's query says ``refresh=1``; nothing else in it has a meaning, or can be wrong."""
    if not query:
        return False
    try:
        return parse_query(query).get("refresh") == "1"
    except RestError:
        return False


def required(fields: Mapping[str, str], name: str) -> str:
    """The value of a field; it may be empty.

    Raises:
        RestError: INVALID_REQUEST when the field is missing.
    """
    value = fields.get(name)
    if value is None:
        raise RestError(ErrorCode.INVALID_REQUEST, f"the query has no {name}")
    return value


def runtime_data(fields: Mapping[str, str]) -> bytes:
    """Runtime data of an evidence request.

    Args:
        fields: ``runtime_data`` and optionally ``encoding``. Without encoding the value's UTF-8 bytes
            count; ``base64`` means URL-safe base64 without padding, strict (RFC 4648 section 5).

    Raises:
        RestError: INVALID_REQUEST for missing or undecodable data or another encoding;
            PAYLOAD_TOO_LARGE above ``limits.MAX_RUNTIME_DATA`` bytes.
    """
    value = required(fields, "runtime_data")
    encoding = fields.get("encoding")
    if encoding is None:
        data = value.encode("utf-8")
    elif encoding == "base64":
        data = _base64url(value)
    else:
        raise RestError(ErrorCode.INVALID_REQUEST, "the encoding is not base64")
    if len(data) > limits.MAX_RUNTIME_DATA:
        raise RestError(ErrorCode.PAYLOAD_TOO_LARGE, "runtime_data")
    return data


def _base64url(text: str) -> bytes:
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        raise RestError(ErrorCode.INVALID_REQUEST, "runtime_data is not unpadded URL-safe base64")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # Two texts for the same bytes would let a caller and a log disagree about what was attested.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise RestError(ErrorCode.INVALID_REQUEST, "runtime_data has stray bits after its last byte")
    return data
