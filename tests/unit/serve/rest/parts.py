"""The REST role on the real front, with roles whose answers a test chooses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.config.model import Features, Gateway
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.observe.audit import Audit
from agent.observe.health import Health
from agent.observe.metrics import Metrics
from agent.observe.redact import ResourceNames
from agent.roles import Fetched, Freshness, MeasurementResult
from agent.secret import Secret
from agent.serve.front import Front
from agent.serve.rest.app import App, Incoming, build_app
from agent.serve.rest.guard import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.clock import Deadline
    from agent.http.server.exchange import Answer

LOCAL = Peer(local=True, label="127.0.0.1:40000")
REMOTE = Peer(local=False, label="10.0.0.1:40000")
KEY = b"\x00plain\xfftext"


@dataclass
class Roles:
    """Hub and attester at once: remembers what it was asked, fails or waits on demand."""

    asked: list[tuple[object, ...]] = field(default_factory=list)
    error: ErrorCode | None = None
    no_tee: bool = False
    devices: tuple[str, ...] = ()
    measured: MeasurementResult = MeasurementResult.OK
    hold: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    seconds: float = 0.0
    freshness: Freshness = Freshness.MISS
    age: float = 0.0
    refreshed: bool = False
    opens: dict[bytes, bytes] = field(default_factory=dict)

    async def _ask(self, deadline: Deadline, *what: object) -> None:
        self.asked.append(what)
        self.seconds = deadline.remaining()
        self.entered.set()
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.error is not None:
            raise AgentError(self.error, "operator detail")

    async def get_resource(self, uri: str, deadline: Deadline, *, refresh: bool = False) -> Fetched:
        self.refreshed = refresh
        await self._ask(deadline, "resource", uri)
        return Fetched(Secret(KEY), self.freshness, self.age)

    async def unseal(self, sealed: bytes, deadline: Deadline) -> Secret:
        await self._ask(deadline, "unseal", sealed)
        if sealed not in self.opens:
            raise AgentError(ErrorCode.SEALED_SIGNATURE_INVALID, "operator detail")
        return Secret(self.opens[sealed])

    async def unwrap_key(self, protocol_input: bytes, deadline: Deadline) -> Secret:
        raise NotImplementedError

    async def evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        await self._ask(deadline, "evidence", runtime_data)
        return b'{"svn":"1"}'

    async def additional_evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        await self._ask(deadline, "additional_evidence", runtime_data)
        return b""

    async def token(
        self, token_type: str, deadline: Deadline, *, refused: bytes = b"", session: bool = False
    ) -> Secret:
        await self._ask(deadline, "token", token_type)
        return Secret(b'{"token":"a.b.c","tee_keypair":"PEM"}')

    async def tee_type(self, deadline: Deadline) -> str:
        await self._ask(deadline, "tee_type")
        if self.no_tee:
            raise AgentError(ErrorCode.NO_TEE)
        return "snp"

    async def additional_tees(self, deadline: Deadline) -> tuple[str, ...]:
        await self._ask(deadline, "additional_tees")
        return self.devices

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
        await self._ask(
            deadline, "extend", domain, operation, content, register, *(("once",) if once else ())
        )
        return self.measured

    async def bind_init_data(self, digest: bytes, deadline: Deadline) -> None:
        raise NotImplementedError


class Gate:
    """One REST role and everything around it."""

    def __init__(self, settings: Gateway | None = None, *, metrics: bool = True) -> None:
        self.roles = Roles()
        self.limit = 0
        self.clock = FakeClock()
        self.health = Health()
        self.metrics = Metrics()
        self.front = Front(
            hub=self.roles,
            attester=self.roles,
            metrics=self.metrics,
            audit=Audit(ResourceNames(shown=False)),
            clock=self.clock,
        )
        self.app: App = build_app(
            self.front,
            settings or Gateway(features=Features.ALL),
            metrics=self.metrics if metrics else None,
            health=self.health,
            version="0.1.0",
        )

    async def ask(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        body: bytes = b"",
        peer: Peer = LOCAL,
        host: str | None = "127.0.0.1:8006",
        version: tuple[int, int] = (1, 1),
    ) -> Answer:
        """Put one request to the app, with a good Host header unless told otherwise."""
        fields: dict[str, list[str]] = {} if host is None else {"host": [host]}
        for name, value in headers:
            fields.setdefault(name.lower(), []).append(value)

        async def read(limit: int) -> bytes:
            self.limit = limit
            return body

        return await self.app.answer(Incoming(method, target, version, fields, peer, read))


def header(answer: Answer, name: str) -> str | None:
    """The value of a header of an answer."""
    return dict(answer.headers).get(name)
