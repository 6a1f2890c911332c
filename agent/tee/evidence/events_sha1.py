"""Event logs of the first format, which has SHA-1 digests only (TCG EFI Platform Specification 1.22, 8.2)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError
from agent.tee.evidence.events import SIGNATURES, Digest, Event, EventLog
from agent.tee.evidence.events_names import TYPE_NAMES
from agent.tee.evidence.reader import Reader, malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

SHA1: Final = 0x0004
SIZE: Final = 20

_REGISTERS: Final = 24
_WHAT: Final = "SHA-1 event log"
_ALGORITHMS: Final[Mapping[int, int]] = MappingProxyType({SHA1: SIZE})


def salvage_sha1(data: bytes) -> tuple[EventLog, AgentError | None]:
    """The log as far as it can be read, and what is wrong after that; like ``events.salvage``.

    Args:
        data: at most ``limits.EVENT_LOG_MAX`` bytes. Zeros after the last event end it.

    Raises:
        AgentError: EVIDENCE_MALFORMED, not even the first event can be read.
    """
    # T-TEE-20
    if len(data) > limits.EVENT_LOG_MAX:
        raise malformed(_WHAT, f"{len(data)} bytes, more than {limits.EVENT_LOG_MAX}")
    reader = Reader(data, _WHAT)
    events = [_event(reader)]
    while reader.left:
        end = reader.at
        if not any(data[end:]):
            return EventLog(tuple(events), _ALGORITHMS, end, terminated=True), None
        try:
            if len(events) == limits.EVENT_LOG_EVENTS:
                raise reader.wrong(f"more than {limits.EVENT_LOG_EVENTS} events")
            events.append(_event(reader))
        except AgentError as error:
            return EventLog(tuple(events), _ALGORITHMS, end, terminated=False), error
    return EventLog(tuple(events), _ALGORITHMS, reader.at, terminated=False), None


def looks_like_sha1_log(data: bytes) -> bool:
    """Whether this is such a log, and none of the format with a Spec ID event in front."""
    try:
        log, problem = salvage_sha1(data)
    except AgentError:
        return False
    # One event may be anything; a second one where the first ends is no accident.
    return data[32:48] not in SIGNATURES and (problem is None or len(log.events) > 1)


def _event(reader: Reader) -> Event:
    offset = reader.at
    register, kind = reader.u32("register index"), reader.u32("event type")
    if register >= _REGISTERS or kind not in TYPE_NAMES:
        raise reader.wrong(f"register {register} and type {kind:#x} at offset {offset} are none of a TPM's")
    digest = Digest(SHA1, reader.take(SIZE, "digest"))
    data = reader.take(reader.u32("event size"), "event")
    return Event(register, kind, (digest,), data, offset, reader.at - offset)
