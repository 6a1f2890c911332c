"""One change of register and log together: written ahead, carried out, and carried on after a crash (17.6).

The steps, each on the disk before the next begins: where the register begins (once), the write-ahead record,
the register, the entry, the record's removal. Whatever step a crash follows, the record tells which.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.eventlog import record
from agent.tee.eventlog.record import Intent, Start
from agent.tee.eventlog.ship import LOG_NAME
from agent.tee.evidence import events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config.model import Attester as Settings
    from agent.tee.base import Measures
    from agent.tee.eventlog.folder import Folder
    from agent.tee.evidence.events import Event

WAL_NAME: Final = ".wal_event_entry"
STARTS_NAME: Final = ".registers"

_log = logging.getLogger("coco.eventlog")


class Transaction:
    """What may be done while the folder is locked.

    Args:
        folder: with the log.
        registers: the TEE's.
        settings: for the TEE's module.
    """

    def __init__(self, folder: Folder, registers: Measures, settings: Settings) -> None:
        self._folder = folder
        self._registers = registers
        self._settings = settings

    def recover(self) -> None:
        """Carry on what a crash interrupted; nothing when there was none.

        An event whose record was complete is extended and logged, unless that was done; what came before
        the record left no trace.

        Raises:
            AgentError: EVENT_LOG_CORRUPT; FILE_UNSAFE, GUEST_EXHAUSTED, or what the register raised: the
                record stays, and the next try goes on.
        """
        data = self._folder.read(WAL_NAME, record.RECORD_MAX)
        if data is None:
            return
        try:
            intent = record.decode(data)
        except AgentError as error:
            self._discard(error)
            return
        self._carry_on(intent)

    def check(self) -> None:
        """Compare every register with what the log says about it.

        Raises:
            AgentError: EVENT_LOG_CORRUPT.
        """
        content = self._content()
        entries = self._entries(content)
        for start in self._starts().values():
            self._agree(start, self._read(start.register), content, entries)

    def append(self, entry: bytes, *, once: bool) -> None:
        """Extend the register that an entry names, and log it.

        Args:
            entry: see ``events.encode_event``.
            once: do nothing when the log has the same entry already.

        Raises:
            AgentError: EVENT_LOG_CORRUPT; GUEST_EXHAUSTED, no room; or what the register raised: nothing was
                extended then.
        """
        (event,) = events.parse_entries(entry)
        content = self._content()
        entries = self._entries(content)
        starts = self._starts()
        before = self._read(event.register)
        start = starts.get(event.register)
        if start is not None:
            self._agree(start, before, content, entries)
        if once and any(content[each.offset : each.offset + each.size] == entry for each in entries):
            return
        # T-TEE-25: the log travels in every piece of evidence; it must stay small enough to be taken.
        if len(content) + len(entry) > limits.RUNTIME_LOG_MAX:
            raise AgentError(ErrorCode.GUEST_EXHAUSTED, f"the event log is full ({len(content)} bytes)")
        if start is None:
            starts[event.register] = Start(event.register, len(content), before)
            self._folder.replace(STARTS_NAME, record.encode_starts(starts))
        digest = event.digests[0].value
        after = events.hash_of(self._registers.ALGORITHM, before + digest)
        intent = Intent(len(content), before, after, entry)
        self._folder.replace(WAL_NAME, record.encode(intent))
        refusal = self._extend(intent)
        if refusal is not None:
            self._folder.remove(WAL_NAME)
            raise refusal
        self._log_entry(intent)

    def _carry_on(self, intent: Intent) -> None:
        register = intent.event.register
        content = self._content()
        written = content[intent.offset :]
        if len(content) < intent.offset or not intent.entry.startswith(written):
            raise self._corrupt("the log was changed after the write-ahead record", register)
        current = self._read(register)
        if current == intent.before:
            refusal = self._extend(intent)
            if refusal is not None:
                raise refusal
        elif current != intent.after:
            raise self._corrupt("the register has neither the value before the event nor after it", register)
        self._log_entry(intent)
        _log.warning(
            "an interrupted runtime measurement was completed", extra={"event": f"register {register}"}
        )

    def _discard(self, torn: AgentError) -> None:
        """Drop a record that cannot be read, if register and log agree without it."""
        if not self._starts():
            raise self._corrupt(f"{torn.detail}; delete {WAL_NAME} if no other program wrote it")
        self.check()
        self._folder.remove(WAL_NAME)
        _log.warning("an unreadable write-ahead record was dropped", extra={"detail": torn.detail})

    def _extend(self, intent: Intent) -> AgentError | None:
        """Extend the register; why not, when it still has its old value."""
        event = intent.event
        refusal = AgentError(ErrorCode.EVIDENCE_FAILED, f"register {event.register} did not change")
        try:
            self._registers.extend_register(self._settings, event.register, event.digests[0].value)
        except AgentError as error:
            refusal = error
        # A driver can fail after the hardware has done it, so the register itself is asked.
        current = self._read(event.register)
        if current == intent.before:
            return refusal
        if current != intent.after:
            raise self._corrupt("the register has another value than the event leads to", event.register)
        return None

    def _log_entry(self, intent: Intent) -> None:
        self._folder.write_at(LOG_NAME, intent.offset, intent.entry)
        self._folder.remove(WAL_NAME)

    def _agree(self, start: Start, current: bytes, content: bytes, entries: Sequence[Event]) -> None:
        # T-TEE-26: extending on top of a lost log would hide the loss behind a log that looks whole.
        ours = [each for each in entries if each.register == start.register and each.offset >= start.offset]
        try:
            replayed = events.replay(ours, self._registers.ALGORITHM, {start.register: start.value})
        except AgentError as error:
            raise self._corrupt(error.detail, start.register) from None
        if not all(events.digest_matches_event(each) for each in ours):
            raise self._corrupt("an entry has another text than its digest says", start.register)
        if len(content) < start.offset or replayed[start.register] != current:
            raise self._corrupt("the register has another value than the log leads to", start.register)

    def _content(self) -> bytes:
        return self._folder.read(LOG_NAME, limits.RUNTIME_LOG_MAX) or b""

    def _entries(self, content: bytes) -> tuple[Event, ...]:
        try:
            return events.parse_entries(content)
        except AgentError as error:
            raise self._corrupt(error.detail) from None

    def _starts(self) -> dict[int, Start]:
        data = self._folder.read(STARTS_NAME, record.STARTS_MAX)
        try:
            return {} if data is None else record.decode_starts(data)
        except AgentError as error:
            raise self._corrupt(error.detail) from None

    def _read(self, register: int) -> bytes:
        return self._registers.read_register(self._settings, register)

    def _corrupt(self, reason: str, register: int | None = None) -> AgentError:
        which = "" if register is None else f", register {register}"
        return AgentError(ErrorCode.EVENT_LOG_CORRUPT, f"{self._folder.path}/{LOG_NAME}{which}: {reason}")
