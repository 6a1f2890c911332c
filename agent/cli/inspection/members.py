"""Members of JSON objects, taken out with the right type or not at all."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

import msgspec

from agent.tee.evidence.reader import malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.errors import AgentError

_WHAT: Final = "evidence JSON"


def parse_object(data: bytes) -> dict[str, object]:
    """A JSON object.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    try:
        found = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise malformed(_WHAT, f"not a JSON object ({str(error)[:120]})") from None
    return found


def encode(value: object) -> bytes:
    """A member as JSON again, for a parser that takes bytes."""
    return msgspec.json.encode(value)


def mapping(value: object, name: str) -> dict[str, object]:
    """An object."""
    if not isinstance(value, dict):
        raise wrong(name, "an object")
    return value


def listing(value: object, name: str) -> list[object]:
    """A list."""
    if not isinstance(value, list):
        raise wrong(name, "a list")
    return value


def string(found: Mapping[str, object], name: str) -> str:
    """Text."""
    value = found.get(name)
    if not isinstance(value, str):
        raise wrong(name, "text")
    return value


def number(found: Mapping[str, object], name: str) -> int:
    """An integer."""
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(name, "a number")
    return value


def b64(found: Mapping[str, object], name: str) -> bytes:
    """Standard or URL-safe base64, with or without padding."""
    value = string(found, name).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise wrong(name, "base64") from None


def octets(value: object, name: str, size: int | None = None) -> bytes:
    """A list of integers from 0 to 255, of ``size`` bytes if that is given."""
    try:
        found = bytes(item for item in listing(value, name) if isinstance(item, int))
    except ValueError:
        raise wrong(name, "bytes as integers") from None
    if len(found) != len(listing(value, name)) or len(found) != (len(found) if size is None else size):
        raise wrong(name, "bytes as integers" if size is None else f"{size} bytes as integers")
    return found


def wrong(name: str, kind: str) -> AgentError:
    """EVIDENCE_MALFORMED for a member; for the caller to raise."""
    return malformed(_WHAT, f"{name} is not {kind}")
