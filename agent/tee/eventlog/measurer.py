"""Runtime measurement beside everything else that is asked of a TEE."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.roles import MeasurementResult
from agent.tee.eventlog.runtime import RuntimeLog, pending
from agent.tee.eventlog.ship import problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Deadline
    from agent.config.model import Attester as Settings
    from agent.tee.base import EvidenceSource, Measures

T = TypeVar("T")

_log = logging.getLogger("coco.eventlog")


class Device(Protocol):
    """What is needed of an ``agent.tee.attesters.DeviceAttester``."""

    @property
    def registers(self) -> Measures | None:
        """The TEE's registers."""

    async def ask(self, work: Callable[[], T], deadline: Deadline) -> T:
        """Run something blocking, never beside a quote."""


class Measurer:
    """The runtime event log for the event loop.

    Args:
        device: the primary TEE; None when it can measure nothing.
        settings: of the attester role.
    """

    def __init__(self, device: Device | None, settings: Settings) -> None:
        self._device = device
        self._settings = settings
        self._made: RuntimeLog | None = None
        self._count = 0

    def count(self) -> int:
        """How often a register was extended since the start, or may have been."""
        return self._count

    async def prepare(self, deadline: Deadline) -> None:
        """Probe the registers and carry on what a crash interrupted; what is wrong is logged."""
        if self._device is None:
            return
        try:
            # Evidence is made in another process, whose warnings nobody hears.
            for reason in await self._device.ask(partial(problems, self._settings), deadline):
                _log.warning("event log", extra={"reason": reason})
            if not (self._settings.enable_eventlog or pending(self._settings)):
                return
            log = self._runtime(self._device)
            problem = await self._device.ask(lambda: log.problem, deadline)
            if problem is not None:
                _log.warning("runtime measurement is not possible", extra={"reason": problem})
            await self._device.ask(log.recover, deadline)
        except AgentError as error:
            _report(error)

    async def settle(self, deadline: Deadline) -> None:
        """Carry on what a crash interrupted, so that the log and a quote made after this agree.

        A failure is logged and does not stop evidence: the verifier sees what the registers say.
        """
        if self._device is None or not pending(self._settings):
            return
        try:
            await self._device.ask(
                self._runtime(self._device).recover, deadline.within(limits.EXTEND_DEADLINE)
            )
        except AgentError as error:
            _report(error)

    async def extend(
        self,
        domain: str,
        operation: str,
        content: str,
        register: int | None,
        deadline: Deadline,
        *,
        once: bool = False,
    ) -> MeasurementResult:
        """See ``RuntimeLog.extend``.

        Raises:
            AgentError: EVIDENCE_TIMEOUT, too, when the time ran out. An extension that was begun
                then is still carried out.
        """
        if not self._settings.enable_eventlog:
            return MeasurementResult.NOT_ENABLED
        if self._device is None or self._device.registers is None:
            return MeasurementResult.NOT_SUPPORTED
        log = self._runtime(self._device)
        work = partial(log.extend, domain, operation, content, register, once=once)
        refused = False
        try:
            return await self._device.ask(work, deadline)
        except AgentError as error:
            refused = error.code is ErrorCode.INVALID_REQUEST
            raise
        finally:
            # Also when it failed: what the register holds is not known then.
            self._count += not refused

    def _runtime(self, device: Device) -> RuntimeLog:
        # On first use: asking for the registers loads the TEE's module.
        if self._made is None:
            self._made = RuntimeLog(device.registers, self._settings)
        return self._made


class MeasuredEvidence:
    """An ``agent.tee.base.EvidenceSource`` whose primary evidence waits for an interrupted measurement.

    Args:
        evidence: the guest's.
        measurer: of its primary TEE.
    """

    def __init__(self, evidence: EvidenceSource, measurer: Measurer) -> None:
        self._evidence = evidence
        self._measurer = measurer

    @property
    def tee(self) -> str:
        """See ``EvidenceSource``."""
        return self._evidence.tee

    @property
    def devices(self) -> tuple[str, ...]:
        """See ``EvidenceSource``."""
        return self._evidence.devices

    async def primary(self, report_data: bytes, deadline: Deadline) -> bytes:
        """See ``EvidenceSource``."""
        await self._measurer.settle(deadline)
        return await self._evidence.primary(report_data, deadline)

    async def additional(self, report_data: bytes, deadline: Deadline) -> bytes:
        """See ``EvidenceSource``."""
        return await self._evidence.additional(report_data, deadline)


def _report(error: AgentError) -> None:
    _log.error(  # the refusal itself, not where it was raised
        "the runtime event log could not be checked",
        extra={"code": error.code.name, "detail": error.detail, "hint": error.hint},
    )
