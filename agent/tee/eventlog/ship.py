"""The event log as evidence carries it (attesters.md 17.7)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError
from agent.files import read_beneath, read_trusted
from agent.tee.evidence import events

if TYPE_CHECKING:
    from agent.config.model import Attester as Settings
    from agent.tee.evidence.events import Event

LOG_NAME: Final = "eventlog"
CCEL: Final = "sys/firmware/acpi/tables/data/CCEL"
"""Below ``sysroot``."""

_log = logging.getLogger("coco.eventlog")

_SHA384, _SM3 = 0x000C, 0x0012


def shipped(settings: Settings) -> bytes | None:
    """The firmware's log, our entries, and a terminator: raw bytes for ``cc_eventlog``; None without both.

    A log that cannot be read to its end does not make evidence impossible: what can be read is shipped, with
    a warning, and a verifier that replays it sees where it parts from the registers. Of a firmware log whose
    first event is broken nothing can be read.

    Without a firmware log a Spec ID event of ours comes first: upstream's 69 bytes, which announce SHA-384
    and SM3, or for entries of another algorithm a full one (attesters.md 20 row 10).
    """
    log, wrong = _gather(settings)
    for reason in wrong:
        _log.warning("event log", extra={"reason": reason})
    return log


def problems(settings: Settings) -> tuple[str, ...]:
    """What is wrong with the logs that evidence carries; nothing when none is there."""
    return _gather(settings)[1]


def unreplayable(settings: Settings) -> str | None:
    """Why a verifier could not replay a log with entries of ours; None when the firmware began it.

    Without a log Trustee takes a quote as it is. With one it wants it to lead to every register, those that
    the firmware extended before us included.
    """
    if not settings.require_firmware_log:
        return None
    wrong: list[str] = []
    if _firmware(settings.sysroot, wrong) is not None:
        return None
    return (
        f"{wrong[0] if wrong else f'no /{CCEL}'}; with one event of ours verifiers would refuse this guest's "
        "evidence, since the log would not lead to the registers that the firmware extended. Use firmware "
        "that writes the log, or set eventlog_config.require_firmware_log = false"
    )


def header(entries: tuple[Event, ...] = ()) -> bytes:
    """The first event of a log that the firmware did not begin (17.7, 17.8)."""
    used = {digest.algorithm for event in entries for digest in event.digests}
    announced = (_SHA384, _SM3) if used <= {_SHA384, _SM3} else tuple(sorted(used))
    headless = announced == (_SHA384, _SM3)
    data = b"".join(
        (
            # Platform class 0, version 2.0, errata 0, and UINTN of 64 bits, as recorded logs have it.
            bytes(24) if headless else b"Spec ID Event03\0" + bytes(4) + b"\0\x02\0\x02",
            len(announced).to_bytes(4, "little"),
            *(one.to_bytes(2, "little") + events.SIZES[one].to_bytes(2, "little") for one in announced),
            b"\0",
        )
    )
    return b"".join((bytes(4), (3).to_bytes(4, "little"), bytes(20), len(data).to_bytes(4, "little"), data))


def _gather(settings: Settings) -> tuple[bytes | None, tuple[str, ...]]:
    wrong: list[str] = []
    firmware = _firmware(settings.sysroot, wrong)
    runtime = _runtime(settings.eventlog_dir, wrong)
    if firmware is None and runtime is None:
        return None, tuple(wrong)
    raw, parsed = runtime or (b"", ())
    return (header(parsed) if firmware is None else firmware) + raw + events.TERMINATOR, tuple(wrong)


def _firmware(sysroot: str, wrong: list[str]) -> bytes | None:
    """The CCEL up to its last readable event."""
    try:
        table = read_beneath(sysroot, CCEL, limits.EVENT_LOG_MAX)
        log, problem = events.salvage(table)
    except FileNotFoundError:
        return None
    except AgentError as error:
        wrong.append(f"the firmware's log (CCEL) is left out: {error.detail}")
        return None
    if problem is not None:
        wrong.append(f"the firmware's log (CCEL) is shipped up to where it is corrupt: {problem.detail}")
    return table[: log.end]


def _runtime(folder: str, wrong: list[str]) -> tuple[bytes, tuple[Event, ...]] | None:
    """The runtime log up to its last readable entry."""
    try:
        content = read_trusted(f"{folder}/{LOG_NAME}", limits.RUNTIME_LOG_MAX)
    except FileNotFoundError:
        return None
    except AgentError as error:
        wrong.append(f"the runtime log is left out: {error.detail}")
        return None
    entries, problem = events.salvage_entries(content)
    if problem is not None:
        wrong.append(f"the runtime log is shipped up to where it is corrupt: {problem.detail}")
    return content[: entries[-1].offset + entries[-1].size if entries else 0], entries
