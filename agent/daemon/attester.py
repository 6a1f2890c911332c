"""The attester role of this process, from its settings to its socket."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from agent import variant
from agent.attester import LocalAttester
from agent.clock import Deadline
from agent.config import limits
from agent.daemon.shared import Place, Stops, log
from agent.errors import AgentError, ErrorCode
from agent.kbs.session import Session
from agent.serve.ttrpc.services import aa_services
from agent.tee.attesters import DeviceAttester
from agent.tee.eventlog import MeasuredEvidence, Measurer
from agent.tee.evidence_source import GuestEvidence, select
from agent.tee.platform import detect

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from agent.config.model import Attester
    from agent.daemon.shared import Shared
    from agent.tee.base import EvidenceSource


class AttesterPart:
    """Built, not yet open.

    Args:
        shared: of the process.
        settings: the attester's.
        init_data: TOML text to send with every attestation, verified by the caller.
        evidence: injected in tests; detected from the platform otherwise.
    """

    def __init__(
        self,
        shared: Shared,
        settings: Attester,
        *,
        init_data: str | None = None,
        evidence: EvidenceSource | None = None,
    ) -> None:
        self.place = Place(settings.socket)
        self._shared = shared
        self._stops = Stops()
        if evidence is None:
            trail = detect(settings.sysroot, os.environ, os.uname().machine, settings)
            evidence = select(trail, settings, shared.metrics)
        self.evidence = evidence
        self._measurer = Measurer(_measuring(evidence), settings)
        measured = MeasuredEvidence(evidence, self._measurer)
        self.session: Session | None = None
        if settings.kbs.url:
            self.session = self._session(settings, measured, init_data)
        self.role = LocalAttester(measured, self.session, self._measurer)
        self.front = shared.front(attester=self.role)

    def _session(self, settings: Attester, measured: MeasuredEvidence, init_data: str | None) -> Session:
        client = self._shared.client(settings.kbs)
        session = Session(
            client,
            measured,
            settings.key_algorithm,
            self._shared.clock,
            self._shared.metrics,
            endpoints=tuple(server.url for server in settings.kbs.servers()),
            init_data=init_data,
            measured=self._measurer.count,
            refresh_while_used=settings.refresh_while_used,
            retry_for=settings.kbs.retry_for,
            trouble=client.trouble,
            outage=client.outage,
            pauses=client.pauses,
        )
        self._stops.add(session.close)
        self._shared.metrics.watch_token(session.seconds_left)
        return session

    @property
    def identity(self) -> str:
        """What the broker judges this guest by; empty while nothing is known."""
        return "" if self.session is None else self.session.identity

    async def open(self, listeners: Sequence[socket.socket] = ()) -> None:
        """Serve.

        Raises:
            AgentError: CONFIG_INVALID for an address that cannot be bound.
        """
        services, budget = aa_services(self.front), self._shared.budget
        self.place.listener = await self._stops.serve_ttrpc(self.place.address, services, budget, *listeners)
        self._watch()
        self._report()
        self._probe_registers()

    async def close(self) -> None:
        """Stop serving, and forget the token."""
        await self._stops.run()

    def _watch(self) -> None:
        health, evidence, session = self._shared.health, self.evidence, self.session
        health.add("platform", lambda: _reason(evidence))
        health.add("kbs", lambda: None if session else ErrorCode.KBS_NOT_CONFIGURED.name)
        if session is not None:
            health.add("attestation", lambda: session.last_failure and session.last_failure.name)

    def _report(self) -> None:
        """Say once, at start, what an operator would otherwise find out at 3 a.m."""
        if variant.DEVELOPMENT:
            log.warning(variant.WARNING)
        try:
            tee = self.evidence.tee
        except AgentError as error:
            log.error(  # the refusal itself, not where it was raised
                "no evidence", extra={"code": error.code.name, "detail": error.detail, "hint": error.hint}
            )
            return
        if tee == "sample":
            log.warning("SAMPLE EVIDENCE is allowed: this guest proves nothing", extra={"tee": tee})
        else:
            log.info("platform", extra={"tee": tee})

    def _probe_registers(self) -> None:
        """Beside everything else: a slow device holds up no socket."""
        deadline = Deadline.after(self._shared.clock, limits.EVIDENCE_DEADLINE)
        task = asyncio.create_task(self._measurer.prepare(deadline))

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stops.add(stop)


def _measuring(evidence: EvidenceSource) -> DeviceAttester | None:
    """The TEE whose registers can be extended, if any."""
    attester = evidence.attester if isinstance(evidence, GuestEvidence) else None
    return attester if isinstance(attester, DeviceAttester) else None


def _reason(evidence: EvidenceSource) -> str | None:
    try:
        return None if evidence.tee else ErrorCode.NO_TEE.name
    except AgentError as error:
        return error.code.name
