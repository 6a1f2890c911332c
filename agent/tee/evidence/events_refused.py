"""What Trustee refuses in an event log that can be read: one event, and the evidence is lost."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError
from agent.tee.evidence.events import TERMINATOR, hash_of
from agent.tee.evidence.events_names import EV_EVENT_TAG, EV_NO_ACTION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.tee.evidence.events import Event, EventLog

KINDS: Final = frozenset(
    {*range(0x13), *range(0x80000000, 0x8000000D), 0x80000010, 0x800000E0, 0x800000E1, 0x800000E2}
)
"""Event types that it knows."""

ALGORITHMS: Final = frozenset({0x0001, 0x0003, 0x0004, 0x000B, 0x000C, 0x000D, 0x0012})
"""Algorithms that it knows by number."""

HASHES: Final = frozenset({0x000B, 0x000C, 0x000D, 0x0012})
"""Those that it hashes with: SHA-256, SHA-384, SHA-512, SM3."""

_RTMRS: Final = range(1, 5)
_AAEL: Final = b"LEAA"
_GRUB_OF_GOOGLE: Final = b".\0"


def refusals(log: EventLog, data: bytes) -> tuple[str, ...]:
    """Each reason once, with the first event that gives it.

    Args:
        log: read from ``data``.
        data: the log's bytes as they are sent.
    """
    found: dict[str, list[str]] = {}
    for number, event in enumerate(log.events[1:], 1):
        if reason := _refused(event, log.algorithms):
            where = f"event {number}, {event.type_name} at offset {event.offset}"
            found.setdefault(reason, []).append(where)
    reasons = [
        f"{reason} ({places[0]}{f'; {len(places)} events' if len(places) > 1 else ''})"
        for reason, places in found.items()
    ]
    unknown = [f"{number:#06x}" for number in log.algorithms if number not in ALGORITHMS]
    if unknown:
        reasons.insert(0, f"algorithms that it does not know: {', '.join(unknown)}")
    left = len(data) - log.end
    if log.terminated and left < len(TERMINATOR):
        reasons.append(f"a terminator of {left} bytes, where 8 or none belong")
    return tuple(reasons)


def _refused(event: Event, declared: Mapping[int, int]) -> str:
    if event.kind not in KINDS:
        return "a type that it does not know"
    for digest in event.digests:
        if digest.algorithm not in declared:
            return "a digest of an algorithm that the first event does not list"
    if wrong := _compared(event):
        return wrong
    if event.kind == EV_NO_ACTION and event.digests and event.register in _RTMRS:
        return "a digest that it replays although EV_NO_ACTION is never extended"
    return _PARSERS.get(event.kind, _anything)(event.data)


def _compared(event: Event) -> str:
    """It compares digests with the data, one after the other, until one differs."""
    for digest in event.digests:
        if digest.algorithm not in HASHES:
            return f"a digest of {digest.name}, which it does not hash with"
        try:
            if hash_of(digest.name, event.data) != digest.value:
                return ""
        except AgentError:  # SM3 is not in every Python; it is in Trustee
            return ""
    return ""


def _anything(_data: bytes) -> str:
    return ""


def _text(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "text that is not UTF-8"
    return ""


def _tagged(data: bytes) -> str:
    size = int.from_bytes(data[4:8], "little")
    if len(data) < 8 or 8 + size > len(data):
        return "a tagged event that is shorter than it says"
    text = data[8 : 8 + size]
    if not data.startswith(_AAEL):
        return ""
    return _text(text) or ("" if text.count(b" ") >= 2 else "an AAEL entry without domain and operation")


def _boot_loader(data: bytes) -> str:
    if len(data) < 2:
        return "a boot loader's event of less than 2 bytes"
    if data.startswith(_GRUB_OF_GOOGLE) and (len(data) == 2 or len(data) % 2):
        return "a boot loader's event that is not UTF-16"
    return ""


def _blob(data: bytes) -> str:
    """A length, a description of one byte less in Trustee's reading, and the rest."""
    if not data or not 1 <= data[0] <= len(data):
        return "a description that is shorter than it says"
    return _text(data[1 : data[0]])


def _variable(data: bytes) -> str:
    characters, size = int.from_bytes(data[16:24], "little"), int.from_bytes(data[24:32], "little")
    if len(data) < 32 or 32 + 2 * characters + size > len(data):
        return "a variable that is shorter than it says"
    try:
        data[32 : 32 + 2 * characters].decode("utf-16-le")
    except UnicodeDecodeError:
        return "a variable whose name is not UTF-16"
    return ""


def _application(data: bytes) -> str:
    size = int.from_bytes(data[24:32], "little")
    if len(data) < 32:
        return "an image's event of less than 32 bytes"
    path = data[32 : 32 + size - 4] if size >= 4 else b""
    if size and (size < 8 or len(path) != size - 4):
        return "a device path that is shorter than it says"
    while path:
        length = int.from_bytes(path[2:4], "little")
        if not 4 <= length <= len(path):
            return "a device path with a broken node"
        path = path[length:]
    return ""


_PARSERS: Final[Mapping[int, Callable[[bytes], str]]] = MappingProxyType(
    {
        **dict.fromkeys((0x01, 0x05, 0x0C, 0x12, 0x80000007), _text),
        EV_EVENT_TAG: _tagged,
        0x0D: _boot_loader,
        **dict.fromkeys((0x80000001, 0x80000002, 0x8000000C, 0x800000E0), _variable),
        0x80000003: _application,
        **dict.fromkeys((0x8000000A, 0x8000000B), _blob),
    }
)
"""Whose data it takes apart, and what is wrong with them; all others may hold anything."""
