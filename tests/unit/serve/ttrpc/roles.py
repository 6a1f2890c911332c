"""Small roles for tests of the protocol: they answer, fail or wait as told, and remember what was asked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.clock import SystemClock
from agent.observe.audit import Audit
from agent.observe.metrics import Metrics
from agent.observe.redact import ResourceNames
from agent.roles import Fetched, Freshness, MeasurementResult
from agent.secret import Secret
from agent.serve.front import Front

if TYPE_CHECKING:
    from agent.clock import Clock, Deadline
    from agent.errors import AgentError


@dataclass
class Role:
    """Hub and attester at once.

    Attributes:
        error: raised by every method when set.
        gate: every method waits for it.
        asked: method name and arguments of every call.
        cancelled: how many calls were cancelled while they waited.
    """

    error: AgentError | None = None
    answer: bytes = b"plaintext"
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[object, ...]] = field(default_factory=list)
    cancelled: int = 0
    refreshed: bool = False
    freshness: Freshness = Freshness.MISS
    age: float = 0.0

    def __post_init__(self) -> None:
        self.gate.set()

    async def _serve(self, *asked: object) -> bytes:
        self.asked.append(asked)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.answer

    async def get_resource(self, uri: str, deadline: Deadline, *, refresh: bool = False) -> Fetched:
        self.refreshed = refresh
        return Fetched(Secret(await self._serve("get_resource", uri)), self.freshness, self.age)

    async def unseal(self, sealed: bytes, deadline: Deadline) -> Secret:
        return Secret(await self._serve("unseal", sealed))

    async def unwrap_key(self, protocol_input: bytes, deadline: Deadline) -> Secret:
        return Secret(await self._serve("unwrap_key", protocol_input))

    async def evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        return await self._serve("evidence", runtime_data)

    async def additional_evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        return await self._serve("additional_evidence", runtime_data)

    async def token(
        self, token_type: str, deadline: Deadline, *, refused: bytes = b"", session: bool = False
    ) -> Secret:
        return Secret(await self._serve("token", token_type))

    async def tee_type(self, deadline: Deadline) -> str:
        await self._serve("tee_type")
        return "sample"

    async def additional_tees(self, deadline: Deadline) -> tuple[str, ...]:
        await self._serve("additional_tees")
        return ("sampledevice",)

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
        await self._serve("extend", domain, operation, content, register, *(("once",) if once else ()))
        return MeasurementResult.NOT_ENABLED

    async def bind_init_data(self, digest: bytes, deadline: Deadline) -> None:
        await self._serve("bind_init_data", digest)


def front_of(role: Role, clock: Clock | None = None) -> Front:
    """The real front before a role."""
    return Front(
        hub=role,
        attester=role,
        metrics=Metrics(),
        audit=Audit(ResourceNames(shown=False)),
        clock=clock or SystemClock(),
    )
