"""What the runtime log remembers beside its entries: the write-ahead record, and where registers began.

The formats are our own; both files are read by this program only (attesters.md 17.6 describes upstream's).
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from agent.config import limits
from agent.tee.evidence.events import Event, parse_entries
from agent.tee.evidence.reader import Reader, malformed

_MAGIC: Final = b"COCOWAL1"
_CHECKSUM: Final = 32
_OVERHEAD: Final = 512

RECORD_MAX: Final = limits.RUNTIME_EVENT_MAX + 2 * _OVERHEAD
"""Bytes of a write-ahead record: an entry, two register values, and their lengths."""

STARTS_MAX: Final = 64 * limits.KIB
"""Bytes of the file of starting points: there are at most 24 registers."""


class Intent(msgspec.Struct, frozen=True):
    """One event about to be extended and logged.

    Attributes:
        offset: where its entry goes in the log.
        before: the register's value before it was extended.
        after: and after.
        entry: the entry's exact bytes, which also name the register.
    """

    offset: int
    before: bytes
    after: bytes
    entry: bytes

    @property
    def event(self) -> Event:
        """The entry, parsed."""
        (event,) = parse_entries(self.entry)
        return event


def encode(intent: Intent) -> bytes:
    """The record: every field with its length, and a checksum over all of it.

    Magic of 8 bytes, offset u64, before and after each u16 and bytes, entry u32 and bytes (all
    big-endian), SHA-256.
    """
    body = b"".join(
        (
            _MAGIC,
            intent.offset.to_bytes(8, "big"),
            len(intent.before).to_bytes(2, "big"),
            intent.before,
            len(intent.after).to_bytes(2, "big"),
            intent.after,
            len(intent.entry).to_bytes(4, "big"),
            intent.entry,
        )
    )
    return body + hashlib.sha256(body).digest()


def decode(data: bytes) -> Intent:
    """The inverse of :func:`encode`.

    Raises:
        AgentError: EVIDENCE_MALFORMED, torn or changed.
    """
    what = "write-ahead record"
    if hashlib.sha256(data[:-_CHECKSUM]).digest() != data[-_CHECKSUM:]:
        raise malformed(what, "its checksum is wrong")
    reader = Reader(data[:-_CHECKSUM], what)
    if reader.take(len(_MAGIC), "magic") != _MAGIC:
        raise reader.wrong("of another program")
    intent = Intent(
        offset=reader.be64("offset"),
        before=reader.take(reader.be16(), "value before"),
        after=reader.take(reader.be16(), "value after"),
        entry=reader.take(reader.be32(), "entry"),
    )
    if reader.left or len(parse_entries(intent.entry)) != 1:
        raise reader.wrong("not one event")
    return intent


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the log begins to speak for a register.

    Attributes:
        register: its index.
        offset: bytes of the log that were there already.
        value: the register's value then.
    """

    register: int
    offset: int
    value: bytes


def encode_starts(starts: dict[int, Start]) -> bytes:
    """JSON, values in base64."""
    return msgspec.json.encode([starts[register] for register in sorted(starts)])


def decode_starts(data: bytes) -> dict[int, Start]:
    """The inverse of :func:`encode_starts`.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    try:
        starts = msgspec.json.decode(data, type=list[Start])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise malformed("starting points of registers", "not as they were written") from None
    return {start.register: start for start in starts}
