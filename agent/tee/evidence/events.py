"""TCG event logs: the firmware's CCEL and our runtime log, parsed, replayed and written (attesters.md 17)."""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.secret import without
from agent.tee.evidence.events_names import (
    EV_EFI_HCRTM_EVENT,
    EV_EVENT_TAG,
    EV_NO_ACTION,
    TYPE_NAMES,
)
from agent.tee.evidence.reader import Reader, malformed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TERMINATOR: Final = b"\xff" * 8
"""What is sent after the last event (17.7)."""

ALGORITHMS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0x0004: "sha1",
        0x000B: "sha256",
        0x000C: "sha384",
        0x000D: "sha512",
        0x0012: "sm3",
        0x0027: "sha3_256",
        0x0028: "sha3_384",
        0x0029: "sha3_512",
    }
)
"""TCG algorithm identifiers to hashlib's names (TCG Algorithm Registry, table 3)."""

SIZES: Final[Mapping[int, int]] = MappingProxyType(
    {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32, 0x0027: 32, 0x0028: 48, 0x0029: 64}
)
"""Bytes of a digest by algorithm identifier."""

SIGNATURES: Final = (b"Spec ID Event03\0", bytes(16))
"""Of the first event's data; the second is what the runtime log's own header has (17.7)."""

_LOCALITY: Final = b"StartupLocality\0"
_HCRTM_LOCALITY: Final = 4

_AAEL_TAG: Final = b"LEAA"
_TAG_HEADER: Final = 8
_U32: Final = 0xFFFFFFFF
_WHAT: Final = "event log"


class Digest(msgspec.Struct, frozen=True):
    """One digest of an event.

    Attributes:
        algorithm: TCG identifier, e.g. 0x000C.
        value: as long as the log's first event says.
    """

    algorithm: int
    value: bytes

    @property
    def name(self) -> str:
        """Name in hashlib, e.g. ``sha384``, or the identifier, e.g. ``0x0099``."""
        return ALGORITHMS.get(self.algorithm, f"{self.algorithm:#06x}")


class Event(msgspec.Struct, frozen=True):
    """One event.

    Attributes:
        register: measurement register index: a PCR, or for a CCEL 0 = MRTD, 1 = RTMR0, ... (17.8).
        kind: event type, e.g. 6.
        digests: one for each algorithm; empty for the log's first event.
        data: the event's own bytes.
        offset: where it starts in the log.
        size: bytes it takes there.
    """

    register: int
    kind: int
    digests: tuple[Digest, ...]
    data: bytes
    offset: int
    size: int

    def __repr__(self) -> str:
        return without(self, "data")

    @property
    def type_name(self) -> str:
        """``EV_EVENT_TAG``, or ``EV_0x00000099`` for a type without a name."""
        return TYPE_NAMES.get(self.kind, f"EV_{self.kind:#010x}")

    def digest(self, algorithm: str) -> bytes | None:
        """The digest by hashlib's name of the algorithm; None when the event has none."""
        return next((each.value for each in self.digests if each.name == algorithm), None)


class EventLog(msgspec.Struct, frozen=True):
    """A parsed log.

    Attributes:
        events: all of them in order, the first (Spec ID) one included.
        algorithms: digest size by TCG identifier, as the first event says.
        end: bytes up to and including the last event.
        terminated: whether a terminator follows there; else the data just ends.
    """

    events: tuple[Event, ...]
    algorithms: Mapping[int, int]
    end: int
    terminated: bool


class RuntimeEvent(msgspec.Struct, frozen=True):
    """What an entry of the runtime log says (17.3).

    Attributes:
        domain: who measures, e.g. ``github.com/confidential-containers``.
        operation: what was done, e.g. ``PullImage``.
        content: with what; one line.
    """

    domain: str
    operation: str
    content: str


def parse_log(data: bytes) -> EventLog:
    """A whole log: CCEL, a TPM's binary log, or what evidence carries.

    Args:
        data: at most ``limits.EVENT_LOG_MAX`` bytes. After the last event comes a terminator (8 bytes of 0x00
            or 0xFF, and then anything), or nothing.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    log, problem = salvage(data)
    if problem is not None:
        raise problem
    return log


def salvage(data: bytes) -> tuple[EventLog, AgentError | None]:
    """The log as far as it can be read, and what is wrong after that.

    Raises:
        AgentError: EVIDENCE_MALFORMED, not even the first event can be read.
    """
    # T-TEE-20: the table comes from the host's side; its size is bounded before it is parsed.
    if len(data) > limits.EVENT_LOG_MAX:
        raise malformed(_WHAT, f"{len(data)} bytes, more than {limits.EVENT_LOG_MAX}")
    reader = Reader(data, _WHAT)
    first, sizes = _first(reader)
    events, end, terminated, problem = _events(reader, {**SIZES, **sizes}, terminators=True)
    return EventLog((first, *events), MappingProxyType(sizes), end, terminated), problem


def parse_entries(data: bytes) -> tuple[Event, ...]:
    """Entries without a first event and without a terminator, as our log file holds them (17.2).

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    events, problem = salvage_entries(data)
    if problem is not None:
        raise problem
    return events


def salvage_entries(data: bytes) -> tuple[tuple[Event, ...], AgentError | None]:
    """Like :func:`parse_entries`: those that can be read, and what is wrong after them."""
    if len(data) > limits.EVENT_LOG_MAX:
        return (), malformed(_WHAT, f"{len(data)} bytes, more than {limits.EVENT_LOG_MAX}")
    events, _, _, problem = _events(Reader(data, _WHAT), SIZES, terminators=False)
    return tuple(events), problem


def _first(reader: Reader) -> tuple[Event, dict[int, int]]:
    register = reader.u32("register index")
    kind = reader.u32("event type")
    if kind != EV_NO_ACTION:
        raise reader.wrong("the first event is not a Spec ID event: a log of another format")
    reader.skip(20, "SHA-1 digest")
    data = reader.take(reader.u32("event size"), "Spec ID event")
    return Event(register, kind, (), data, 0, reader.at), _sizes(Reader(data, "Spec ID event"))


def _sizes(reader: Reader) -> dict[int, int]:
    if reader.take(16, "signature") not in SIGNATURES:
        raise reader.wrong("its signature is not Spec ID Event03")
    reader.skip(8, "class and version")
    count = reader.u32("number of algorithms")
    if count > limits.EVENT_DIGESTS:
        raise reader.wrong(f"{count} algorithms, more than {limits.EVENT_DIGESTS}")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = reader.u16("algorithm"), reader.u16("digest size")
        # T-TEE-21: another size for an algorithm we know would shift all that follows.
        if size == 0 or SIZES.get(algorithm, size) != size or sizes.get(algorithm, size) != size:
            raise reader.wrong(f"digests of algorithm {algorithm:#06x} have {size} bytes")
        sizes[algorithm] = size
    reader.skip(reader.u8("vendor information size"), "vendor information")
    return sizes


def _events(
    reader: Reader, sizes: Mapping[int, int], *, terminators: bool
) -> tuple[list[Event], int, bool, AgentError | None]:
    """Events, where the last one ends, whether a terminator follows, and why the rest cannot be read."""
    events: list[Event] = []
    end = reader.at
    while reader.left:
        try:
            if terminators and _terminated(reader):
                return events, end, True, None
            if len(events) == limits.EVENT_LOG_EVENTS:
                raise reader.wrong(f"more than {limits.EVENT_LOG_EVENTS} events")
            events.append(_event(reader, sizes))
        except AgentError as error:
            return events, end, False, error
        end = reader.at
    return events, end, False, None


def _terminated(reader: Reader) -> bool:
    at = reader.at
    following = reader.take(min(8, reader.left))
    reader.at = at
    return following in (bytes(len(following)), TERMINATOR[: len(following)])


def _event(reader: Reader, sizes: Mapping[int, int]) -> Event:
    offset = reader.at
    register = reader.u32("register index")
    kind = reader.u32("event type")
    count = reader.u32("number of digests")
    if count > limits.EVENT_DIGESTS:
        raise reader.wrong(f"{count} digests at offset {offset}, more than {limits.EVENT_DIGESTS}")
    digests = tuple(_digest(reader, sizes) for _ in range(count))
    data = reader.take(reader.u32("event size"), "event")
    return Event(register, kind, digests, data, offset, reader.at - offset)


def _digest(reader: Reader, sizes: Mapping[int, int]) -> Digest:
    algorithm = reader.u16("algorithm")
    if algorithm not in sizes:
        raise reader.wrong(f"algorithm {algorithm:#06x} at offset {reader.at - 2}, whose size is not known")
    return Digest(algorithm, reader.take(sizes[algorithm], "digest"))


def replay(
    log: EventLog | Sequence[Event], algorithm: str, start: Mapping[int, bytes] | None = None
) -> dict[int, bytes]:
    """The registers that the events lead to: each H(register || digest), beginning with zeros.

    EV_NO_ACTION events are never extended, so they are passed by (17.8). Registers without an event are not
    in the answer. Register 0 begins with the log's :func:`startup_locality`.

    Args:
        log: a log, or events.
        algorithm: hashlib's name, e.g. ``sha384``.
        start: values to begin with.

    Raises:
        AgentError: EVIDENCE_MALFORMED, an event has no digest of this algorithm. NOT_SUPPORTED, this Python
            does not have the algorithm.
    """
    events = log.events if isinstance(log, EventLog) else log
    zeros = bytes(len(hash_of(algorithm, b"")))
    registers = dict(start or {})
    if locality := startup_locality(events):
        registers.setdefault(0, zeros[:-1] + bytes([locality]))
    for event in events:
        if event.kind == EV_NO_ACTION:
            continue
        digest = event.digest(algorithm)
        if digest is None:
            raise malformed(_WHAT, f"the event at offset {event.offset} has no {algorithm} digest")
        registers[event.register] = hash_of(algorithm, registers.get(event.register, zeros) + digest)
    return registers


def startup_locality(events: Sequence[Event]) -> int | None:
    """Last byte of PCR 0 before its first event, where the log says it (TCG PFP 1.06, 3.3.2 and 10.4.5.3).

    It is the locality that started the TPM; 4 when the hardware's own root (H-CRTM) measured before that,
    whoever started it then.
    """
    mine = [event for event in events if event.register == 0]
    if any(event.kind == EV_EFI_HCRTM_EVENT for event in mine):
        return _HCRTM_LOCALITY
    size = len(_LOCALITY) + 1
    return next(
        (
            event.data[-1]
            for event in mine
            if event.kind == EV_NO_ACTION and len(event.data) == size and event.data.startswith(_LOCALITY)
        ),
        None,
    )


def digest_matches_event(event: Event) -> bool:
    """Whether every digest is that of the event's data; firmware often hashes what the event only names."""
    try:
        return bool(event.digests) and all(
            hash_of(digest.name, event.data) == digest.value for digest in event.digests
        )
    except AgentError:  # an algorithm that is not known here: nothing matches
        return False


def runtime_event(event: Event) -> RuntimeEvent | None:
    """What an entry of the runtime log says; None for other events and for entries that say nothing clear.

    Domain and operation end at the first spaces; what follows is the content.
    """
    length = len(event.data) - _TAG_HEADER
    head = _AAEL_TAG + max(length, 0).to_bytes(4, "little")
    if event.kind != EV_EVENT_TAG or not event.data.startswith(head):
        return None
    try:
        parts = event.data[_TAG_HEADER:].decode("utf-8").split(" ", 2)
    except UnicodeDecodeError:
        return None
    return RuntimeEvent(*parts) if len(parts) == 3 and all(parts[:2]) else None


def encode_event(register: int, algorithm: str, domain: str, operation: str, content: str) -> bytes:
    """One entry of the runtime log, byte for byte as 17.3 says.

    Args:
        register: index as the log records it, which is not always the PCR's number (17.4).
        algorithm: hashlib's name of the registers' algorithm.
        domain: without white space; see ``agent.tee.eventlog.text`` for the rules. They are not applied here.
        operation: without white space.
        content: one line.

    Raises:
        AgentError: INVALID_REQUEST, a string that is no UTF-8, or a register above 32 bits. NOT_SUPPORTED,
            the algorithm.
    """
    identifier = next((number for number, name in ALGORITHMS.items() if name == algorithm), None)
    if identifier is None:
        raise AgentError(ErrorCode.NOT_SUPPORTED, f"event logs have no algorithm {algorithm}")
    if not 0 <= register <= _U32:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"register {register} does not fit 32 bits")
    try:
        text = f"{domain} {operation} {content}".encode()
    except UnicodeEncodeError:
        raise AgentError(ErrorCode.INVALID_REQUEST, "the event is not UTF-8") from None
    data = _AAEL_TAG + len(text).to_bytes(4, "little") + text
    return b"".join(
        (
            register.to_bytes(4, "little"),
            EV_EVENT_TAG.to_bytes(4, "little"),
            (1).to_bytes(4, "little"),
            identifier.to_bytes(2, "little"),
            hash_of(algorithm, data),
            len(data).to_bytes(4, "little"),
            data,
        )
    )


def hash_of(algorithm: str, data: bytes) -> bytes:
    """A digest by hashlib's name.

    Raises:
        AgentError: NOT_SUPPORTED; SM3, for one, is not in every build.
    """
    try:
        return hashlib.new(algorithm, data).digest()
    except ValueError:
        raise AgentError(ErrorCode.NOT_SUPPORTED, f"this Python has no {algorithm}") from None
