"""The runtime event log of one TEE: events measured into its registers and kept (attesters.md 17)."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode
from agent.roles import MeasurementResult
from agent.tee.eventlog import text
from agent.tee.eventlog.folder import opened
from agent.tee.eventlog.ship import unreplayable
from agent.tee.eventlog.transaction import WAL_NAME, Transaction
from agent.tee.evidence import events

if TYPE_CHECKING:
    from agent.config.model import Attester as Settings
    from agent.tee.base import Measures

BUILT_IN_PCR: Final = 17
"""``eventlog_config.init_pcr`` when nobody sets it."""

_log = logging.getLogger("coco.eventlog")

_U64: Final = 0xFFFFFFFFFFFFFFFF
_NONE: Final = "this TEE has no runtime measurement registers"


def pending(settings: Settings) -> bool:
    """Whether a measurement was begun and not ended."""
    return os.path.lexists(f"{settings.eventlog_dir}/{WAL_NAME}")


class RuntimeLog:
    """Blocking, and for one caller at a time; a second process is told DEVICE_BUSY.

    Args:
        registers: the TEE's module; None when it has no registers. A module may name a ``DEFAULT_PCR``: the
            one to use instead of upstream's 17 where software cannot extend that (user_pains.md row 21).
            ``FIRMWARE_LOG`` is true where verifiers replay our log behind the firmware's.
        settings: ``enable_eventlog``, ``init_pcr``, ``eventlog_dir`` and ``require_firmware_log`` count here.
    """

    def __init__(self, registers: Measures | None, settings: Settings) -> None:
        self._registers = registers
        self._settings = settings

    @property
    def problem(self) -> str | None:
        """Why nothing can be measured in this guest; None when it can, or when no log is wanted."""
        if not self._settings.enable_eventlog:
            return None
        if self._registers is None:
            return _NONE
        reason = self._refusal(self._registers)
        if reason is not None:
            return reason
        try:
            self._register(self._registers, None)
        except AgentError as error:
            return error.detail
        return None

    def extend(
        self, domain: str, operation: str, content: str, pcr: int | None = None, *, once: bool = False
    ) -> MeasurementResult:
        """Measure one event into a register and log it; both or neither.

        Args:
            domain: see ``agent.tee.eventlog.text.check``, also for the next two.
            operation: what was done.
            content: with what.
            pcr: PCR number; which register that is, the TEE says. None: ``init_pcr``.
            once: an event that the log has for this register already is not measured again.

        Returns:
            NOT_ENABLED, NOT_SUPPORTED (both before anything else is looked at), or OK.

        Raises:
            AgentError: INVALID_REQUEST, PAYLOAD_TOO_LARGE, CONFIG_INVALID (``init_pcr`` cannot be extended),
                EVENT_LOG_CORRUPT, GUEST_EXHAUSTED, FILE_UNSAFE, DEVICE_BUSY, or what the register raised.
        """
        if not self._settings.enable_eventlog:
            return MeasurementResult.NOT_ENABLED
        registers = self._registers
        reason = _NONE if registers is None else self._refusal(registers)
        if registers is None or reason is not None:
            # A device that broke is told like one that never could: the answer names no reason, the log does.
            _log.warning("runtime measurement is not possible", extra={"reason": reason})
            return MeasurementResult.NOT_SUPPORTED
        register = self._register(registers, pcr)
        text.check(domain, operation, content)
        entry = events.encode_event(register, registers.ALGORITHM, domain, operation, content)
        with opened(self._settings.eventlog_dir, create=True) as folder:
            transaction = Transaction(folder, registers, self._settings)
            transaction.recover()
            try:
                transaction.append(entry, once=once)
            except AgentError as error:
                if pcr is not None or error.code is not ErrorCode.INVALID_REQUEST:
                    raise
                # Some registers are known not to be for us only once they are extended (a TPM's localities).
                raise self._unfit(error) from None
        return MeasurementResult.OK

    def recover(self) -> None:
        """Carry on what a crash interrupted, then compare registers and log.

        Raises:
            AgentError: EVENT_LOG_CORRUPT; NOT_SUPPORTED, there is something to carry on and no register;
                FILE_UNSAFE, GUEST_EXHAUSTED, DEVICE_BUSY, or what the register raised.
        """
        if not os.path.lexists(self._settings.eventlog_dir):
            return
        registers = self._registers
        reason = _NONE if registers is None else registers.measurement_problem(self._settings)
        if registers is None or reason is not None:
            if pending(self._settings):
                raise AgentError(ErrorCode.NOT_SUPPORTED, f"{WAL_NAME} is there, and {reason}")
            return
        with opened(self._settings.eventlog_dir, create=False) as folder:
            transaction = Transaction(folder, registers, self._settings)
            transaction.recover()
            transaction.check()

    def _refusal(self, registers: Measures) -> str | None:
        return registers.measurement_problem(self._settings) or (
            # T-TEE-61: a caller that measures must not cost the whole guest its secrets.
            unreplayable(self._settings) if getattr(registers, "FIRMWARE_LOG", False) else None
        )

    def _register(self, registers: Measures, pcr: int | None) -> int:
        if pcr is not None:
            # The whole number is looked at before any of it is cut off (attesters.md 20 row 5).
            if not 0 <= pcr <= _U64:
                raise AgentError(ErrorCode.INVALID_REQUEST, f"register {pcr} is not a 64-bit number")
            return registers.register_of(pcr)
        chosen = self._settings.init_pcr
        if chosen == BUILT_IN_PCR:
            chosen = getattr(registers, "DEFAULT_PCR", BUILT_IN_PCR)
        try:
            return registers.register_of(chosen)
        except AgentError as error:
            raise self._unfit(error) from None

    def _unfit(self, error: AgentError) -> AgentError:
        """The caller named no register, so it is not the caller's fault."""
        detail = f"eventlog_config.init_pcr = {self._settings.init_pcr}: {error.detail}"
        return AgentError(ErrorCode.CONFIG_INVALID, detail)
