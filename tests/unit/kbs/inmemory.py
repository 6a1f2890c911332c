"""The development broker and a sample guest without sockets, with switches to hold and to fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import unquote

from agent.config.model import KeyAlgorithm
from agent.devkit.clock import FakeClock
from agent.devkit.kbs import Settings
from agent.devkit.kbs.answers import Answer, Call
from agent.devkit.kbs.broker import Broker
from agent.devkit.sample import SampleAttester, SampleDevice
from agent.kbs.credential import SessionRef
from agent.kbs.problems import classify
from agent.kbs.session import Session
from agent.observe.metrics import Metrics
from agent.secret import Secret
from agent.tee.evidence_source import GuestEvidence

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.uri import ResourceUri
    from agent.errors import AgentError
    from agent.kbs.token import KbsToken

ENDPOINT = "https://kbs.test"


class InMemory:
    """Satisfies what a session and a resource client need of a broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.failures: list[AgentError] = []  # of the next calls of /auth, one each
        self.gate = asyncio.Event()  # /auth waits for it
        self.gate.set()
        self.arrived = asyncio.Event()
        self.media_type: str | None = None  # of answers, instead of the true one
        self.deadlines: list[float] = []
        self.attest_gate = asyncio.Event()  # /attest waits for it
        self.attest_gate.set()
        self.attest_failures: list[AgentError] = []

    async def auth(self, body: bytes, deadline: Deadline) -> tuple[bytes, SessionRef]:
        self.deadlines.append(deadline.remaining())
        self.arrived.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        answer = self._answer("auth", Call("POST", ("auth",), body=body))
        cookie = answer.cookie.partition(";")[0].partition("=")[2]
        return answer.body, SessionRef(Secret(cookie.encode()), ENDPOINT, deadline.clock.boot() + 300)

    async def attest(self, body: bytes, session: SessionRef, deadline: Deadline) -> bytes:
        await self.attest_gate.wait()
        if self.attest_failures:
            raise self.attest_failures.pop(0)
        cookie = session.cookie.reveal().decode()
        return self._answer("attest", Call("POST", ("attest",), cookie=cookie, body=body)).body

    async def get(self, uri: ResourceUri, token: KbsToken, deadline: Deadline) -> tuple[str, bytes]:
        await asyncio.sleep(0)
        segments = tuple(unquote(segment) for segment in (uri.plugin, *uri.segments))
        answer = self._answer("resource", Call("GET", segments, bearer=token.jwt.reveal().decode()))
        return (answer.content_type or "") if self.media_type is None else self.media_type, answer.body

    def _answer(self, endpoint: str, call: Call) -> Answer:
        answer = self.broker.answer(call)
        if answer.status != 200:
            raise classify(endpoint, answer.status, answer.body)
        return answer


class Gated(SampleAttester):
    """Evidence that waits, as a device that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        await self.gate.wait()
        return await super().collect(report_data, deadline)


class World:
    """Clock, broker, guest and session of one test."""

    def __init__(
        self,
        *,
        token_life: float = 300.0,
        algorithm: KeyAlgorithm = KeyAlgorithm.EC_P256,
        refresh_while_used: float = 300.0,
        retry_for: float = 60.0,
    ) -> None:
        self.clock = FakeClock()
        self.broker = Broker(Settings(token_life=token_life), self.clock)
        self.client = InMemory(self.broker)
        self.metrics = Metrics()
        self.pauses: list[float] = []
        self.awake = asyncio.Event()  # pauses last until it is set
        self.awake.set()
        self.chance = 0.5
        self.attester = Gated()
        self.evidence = GuestEvidence(self.attester, (SampleDevice(),), None)
        self.session = Session(
            self.client,
            self.evidence,
            algorithm,
            self.clock,
            self.metrics,
            sleep=self._sleep,
            chance=lambda: self.chance,
            endpoints=(ENDPOINT,),
            refresh_while_used=refresh_while_used,
            retry_for=retry_for,
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.awake.wait()
        self.clock.advance(seconds)

    @property
    def handshakes(self) -> int:
        return self.broker.counters["auth"]

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
