"""Strict base64 and JSON for input that nobody has vouched for yet."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agent.errors import AgentError

if TYPE_CHECKING:
    from agent.errors import ErrorCode

T = TypeVar("T")

_STANDARD: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_URL_SAFE: Final = re.compile(r"[A-Za-z0-9_-]*")


def standard_decode(text: str) -> bytes:
    """Base64 of RFC 4648 section 4 with its padding; exactly one text per value.

    Raises:
        ValueError: another alphabet, white space, wrong padding or stray bits at the end.
    """
    if not _STANDARD.fullmatch(text) or len(text) % 4:
        raise ValueError("not standard base64")
    value = base64.b64decode(text, validate=True)
    # The decoder ignores bits that belong to no byte; two spellings of one value defeat comparison.
    if base64.b64encode(value).decode() != text:
        raise ValueError("not standard base64")
    return value


def standard_encode(value: bytes) -> str:
    """Base64 of RFC 4648 section 4 with padding."""
    return base64.b64encode(value).decode()


def url_decode(text: str) -> bytes:
    """Base64url of RFC 7515 section 2, without padding; exactly one text per value.

    Raises:
        ValueError: another alphabet, padding, white space, impossible length or stray bits at the end.
    """
    if not _URL_SAFE.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("not base64url without padding")
    value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if url_encode(value) != text:
        raise ValueError("not base64url without padding")
    return value


def url_encode(value: bytes) -> str:
    """Base64url of RFC 7515 section 2, without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def read_json(data: bytes, shape: type[T], code: ErrorCode, what: str) -> T:
    """Parse ``data`` as ``shape``; unknown members are ignored.

    Args:
        data: bounded by the caller.
        shape: a msgspec struct or a plain generic type, without enumerations and literals: the parser's
            sentence about those repeats the value.
        code: raised for anything that is wrong.
        what: names the document in the operator detail; the content never appears there.

    Raises:
        AgentError: ``code``.
    """
    try:
        # msgspec skips over values it is not asked for without looking at their encoding.
        data.decode("utf-8")
        return msgspec.json.decode(data, type=shape)
    except UnicodeDecodeError:
        raise AgentError(code, f"{what} is not UTF-8") from None
    except RecursionError:
        raise AgentError(code, f"{what} is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise AgentError(code, f"{what}: {error}") from None
