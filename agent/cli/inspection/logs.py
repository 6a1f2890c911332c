"""Event logs for people, with the registers they lead to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.cli.inspection.document import Context, Document, Field, Table
from agent.errors import AgentError
from agent.tee.evidence.events import (
    ALGORITHMS,
    Event,
    digest_matches_event,
    parse_entries,
    replay,
    runtime_event,
    salvage,
    startup_locality,
)
from agent.tee.evidence.events_refused import refusals
from agent.tee.evidence.events_sha1 import salvage_sha1
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.tee.evidence.events import EventLog

_HEADER: Final = ("REGISTER", "TYPE", "DIGEST", "OF EVENT", "EVENT")
_SHOWN: Final = 200
_RTMR_HASH: Final = "sha384"
_REPLAYED: Final = "replayed registers (in a TD's log 1 to 4 are RTMR0 to 3, in a TPM's they are PCRs)"
_VARIABLE: Final = "EV_EFI_VARIABLE_"
_BOOT_ENTRY: Final = re.compile(r"Boot[0-9A-F]{4}")
_VALUE_SHOWN: Final = 16
_RUN: Final = re.compile(rb"[ -~]{4,}")


def event_log(data: bytes, _context: Context, rtmrs: Sequence[bytes] | None = None) -> Document:
    """A log with a first (Spec ID) event: CCEL, with or without our runtime log behind it, or a TPM's.

    Args:
        data: the log.
        _context: not used; readers are alike.
        rtmrs: RTMR0 to 3 as the quote has them, to hold the replay against; they are indices 1 to 4.
    """
    log, problem = salvage(data)
    algorithms = [ALGORITHMS.get(number, f"{number:#06x}") for number in log.algorithms]
    checks, registers = _replayed(log.events[1:], algorithms, rtmrs)
    return Document(
        kind="event-log",
        title="event log",
        fields=(
            Field("algorithms", tuple(algorithms)),
            Field("events", len(log.events)),
            Field("terminator", log.terminated),
            *_started(log.events),
        ),
        warnings=(
            *_weak(algorithms),
            *(f"Trustee refuses the log for {each}" for each in refusals(log, data)),
        ),
        checks=(_whole(log, problem), *checks),
        tables=(_events(log.events), *registers),
    )


def sha1_log(data: bytes, _context: Context) -> Document:
    """A TPM's log of the first format: no Spec ID event, SHA-1 digests."""
    log, problem = salvage_sha1(data)
    checks, registers = _replayed(log.events, ["sha1"], None)
    return Document(
        kind="sha1-event-log",
        title="event log in the SHA-1 format (TCG 1.2)",
        fields=(Field("algorithms", ("sha1",)), Field("events", len(log.events)), *_started(log.events)),
        warnings=_weak(["sha1"]),
        checks=(_whole(log, problem), *checks),
        tables=(_events(log.events), *registers),
    )


def _whole(log: EventLog, problem: AgentError | None) -> Check:
    detail = f"{len(log.events)} events, {log.end} bytes" if problem is None else problem.detail
    return Check("event log", problem is None, detail)


def _started(events: Sequence[Event]) -> tuple[Field, ...]:
    locality = startup_locality(events)
    return () if locality is None else (Field("startup locality (PCR 0 begins with it)", locality),)


def _weak(algorithms: Sequence[str]) -> tuple[str, ...]:
    if set(algorithms) != {"sha1"}:
        return ()
    return ("weak: SHA-1 is the only digest, and two boots can be made to share one; use the SHA-256 bank",)


def runtime_log(data: bytes, _context: Context) -> Document:
    """Our own log file: entries without a first event (attesters.md 17.2)."""
    events = parse_entries(data)
    names = list(dict.fromkeys(digest.name for event in events for digest in event.digests))
    checks, registers = _replayed(events, names, None)
    return Document(
        kind="runtime-event-log",
        title="runtime event log (AAEL)",
        fields=(Field("algorithms", tuple(names)), Field("events", len(events))),
        checks=checks,
        tables=(_events(events), *registers),
    )


def _replayed(
    events: Sequence[Event], algorithms: Sequence[str], rtmrs: Sequence[bytes] | None
) -> tuple[tuple[Check, ...], tuple[Table, ...]]:
    used = [
        name
        for name in algorithms
        if any(event.digest(name) is not None for event in events)  # declared is not used
    ]
    checks: list[Check] = []
    rows: list[tuple[str | int | bytes, ...]] = []
    for name in used:
        try:
            found = replay(events, name)
        except AgentError as error:
            needed = rtmrs is not None and name == _RTMR_HASH
            checks.append(Check(f"replay {name}", passed=False if needed else None, detail=error.detail))
            continue
        rows += [(index, name, value) for index, value in sorted(found.items())]
        if rtmrs is not None and name == _RTMR_HASH:
            checks += _compared(found, rtmrs)
    if rtmrs is not None and _RTMR_HASH not in used:
        checks += _compared({}, rtmrs)
    tables = (Table(_REPLAYED, ("REGISTER", "ALGORITHM", "VALUE"), tuple(rows)),) if rows else ()
    return tuple(checks), tables


def _compared(found: Mapping[int, bytes], rtmrs: Sequence[bytes]) -> list[Check]:
    """All four have to match, as the verifier wants it (attesters.md 21.3)."""
    checks = []
    for index, expected in enumerate(rtmrs):
        value = found.get(index + 1, bytes(len(expected)))
        passed = value == expected
        detail = "as the events lead to" if passed else f"the events lead to {value.hex()}"
        checks.append(Check(f"replay of RTMR{index}", passed, detail))
    return checks


def _events(events: Sequence[Event]) -> Table:
    rows = tuple(
        (
            event.register,
            event.type_name,
            ", ".join(f"{each.name}:{each.value.hex()}" for each in event.digests[:1]),
            digest_matches_event(event) if event.digests else None,
            _described(event),
        )
        for event in events
    )
    return Table("events", _HEADER, rows, narrow="DIGEST")


def _described(event: Event) -> str:
    entry = runtime_event(event)
    if entry is not None:
        return f"{entry.domain} {entry.operation} {entry.content}"[:_SHOWN]
    if event.type_name.startswith(_VARIABLE) and (variable := _variable(event.data)) is not None:
        return variable[:_SHOWN]
    if event.type_name == "EV_IPL":
        # Boot loaders end their text with a zero, and GRUB has whatever follows it measured, too.
        wide = event.data[1:2] == b"\0"
        return _readable(event.data if wide else event.data.partition(b"\0")[0])
    return _readable(event.data)


def _readable(data: bytes) -> str:
    """What looks like text, in ASCII or UTF-16."""
    return b" ".join(_RUN.findall(data[: 2 * _SHOWN].replace(b"\0", b"")))[:_SHOWN].decode("ascii")


def _variable(data: bytes) -> str | None:
    """Name and value of a UEFI_VARIABLE_DATA (UEFI GUID, two sizes, UTF-16 name, value); None: it is none."""
    characters, size = int.from_bytes(data[16:24], "little"), int.from_bytes(data[24:32], "little")
    if 32 + 2 * characters + size != len(data):
        return None
    name = data[32 : 32 + 2 * characters].decode("utf-16-le", "replace")
    value = data[32 + 2 * characters :]
    if _BOOT_ENTRY.fullmatch(name):
        return f"{name} {_readable(value[6:])}"  # behind attributes and the size of a path
    if size > _VALUE_SHOWN:
        return f"{name}, {size} bytes"
    return f"{name} = {value.hex()}" if size else f"{name}, empty"
