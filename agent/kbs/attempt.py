"""One handshake after another, phase by phase, and what a caller is told that cannot wait for the end.

:mod:`agent.kbs.handshake` makes the bodies; :mod:`agent.kbs.session` decides who waits and when to try again.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from msgspec.structs import replace

from agent.config import limits
from agent.config.model import KeyAlgorithm
from agent.errors import AgentError, ErrorCode, Fault
from agent.kbs import handshake
from agent.kbs.choice import asked_for
from agent.kbs.keys import TeeKey
from agent.kbs.outage import Patience, place
from agent.kbs.pauses import Pause
from agent.kbs.progress import Progress as Exchange
from agent.kbs.progress import background, watch
from agent.kbs.token import held_token, token_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.clock import Clock, Deadline
    from agent.kbs.credential import SessionRef
    from agent.kbs.token import KbsToken
    from agent.observe.metrics import Metrics
    from agent.tee.base import EvidenceSource

_log = logging.getLogger(__name__)


class Broker(Protocol):
    """What a handshake needs of a broker; :class:`agent.kbs.client.KbsClient` is one."""

    async def auth(self, body: bytes, deadline: Deadline) -> tuple[bytes, SessionRef]:
        """Challenge body, and the session it belongs to."""

    async def attest(self, body: bytes, session: SessionRef, deadline: Deadline) -> bytes:
        """Token reply body. The session is attested from then on."""


class Phase(enum.Enum):
    """What a flight is doing: the words follow "while", the code is for who cannot wait any longer."""

    KEY = ("making a key", ErrorCode.DEADLINE_EXCEEDED)
    AUTH = ("asking the broker for a challenge", ErrorCode.KBS_TIMEOUT)
    EVIDENCE = ("collecting evidence", ErrorCode.EVIDENCE_TIMEOUT)
    ATTEST = ("waiting for the broker to judge the evidence", ErrorCode.APPRAISAL_TIMEOUT)
    PAUSE = ("waiting to try again", ErrorCode.DEADLINE_EXCEEDED)

    @property
    def words(self) -> str:
        """For an operator."""
        return self.value[0]

    @property
    def code(self) -> ErrorCode:
        """When the time runs out and nothing more is known."""
        return self.value[1]


_OWN_TIME: Final = frozenset({ErrorCode.DEADLINE_EXCEEDED, ErrorCode.KBS_TIMEOUT})


class Progress(msgspec.Struct):
    """Where a flight is; its callers can join late and leave early.

    Attributes:
        latest: the latest deadline of its callers so far.
        phase: what it is doing.
        failures: handshakes that failed so far.
        unheard: those of them that failed before a caller waited that is not in the background.
        last: how the latest of them ended.
        pause: between handshakes.
        patience: how long they are begun again; None before the first.
        waited_for: a caller waits that is not in the background.
        exchange: of the request to the broker.
    """

    latest: Deadline
    phase: Phase = Phase.KEY
    failures: int = 0
    unheard: int = 0
    last: AgentError | None = None
    pause: Pause = msgspec.field(default_factory=Pause)
    patience: Patience | None = None
    waited_for: bool = False
    exchange: Exchange = msgspec.field(default_factory=Exchange)

    def joined(self, deadline: Deadline, chance: Callable[[], float]) -> None:
        """One more caller waits.

        A pause that the caller cannot outlast is cut short, to a random moment in the first half of its time:
        it must not fail for an outage that may be over. What the broker asked for holds all the same.
        """
        if deadline.at > self.latest.at:
            self.latest = deadline
        if self.phase is Phase.PAUSE and deadline.at <= self.pause.until:
            self.pause.move(deadline.clock.boot() + chance() * deadline.remaining() / 2)
        if not background():
            if self.patience is not None and not self.waited_for:
                self.patience.restart()
                self.unheard = self.failures
            self.waited_for = True

    def failed(self, error: AgentError) -> None:
        """One handshake failed."""
        self.failures += 1
        # A copy: the error's traceback would keep the handshake's key and cookie alive.
        self.last = AgentError(error.code, error.detail, retry_after=error.retry_after)

    def paused(self, now: float, seconds: float, error: AgentError) -> None:
        """A pause begins.

        Args:
            now: boot clock.
            seconds: how long.
            error: how the handshake before it failed.
        """
        self.pause.step = place(self.step, error.code)
        self.phase = Phase.PAUSE
        self.pause.begin(now, seconds, asked_for(error))

    @property
    def step(self) -> str:
        """What it asks the broker now, as :class:`agent.kbs.transport.Call` names it; empty: nothing."""
        return {Phase.AUTH: "auth", Phase.ATTEST: "attest"}.get(self.phase, "")

    def given_up(self) -> AgentError:
        """The error for a caller whose deadline passes now.

        Its code is of the phase. While the flight waits to try again, or is asking a broker that has failed
        already, the last failure says more.
        """
        code, last = self.phase.code, self.last
        detail = f"time ran out while {self.phase.words}"
        if self.phase is Phase.AUTH:  # others may have more time: the exchange itself goes on
            code, detail = self.exchange.phase.timeout("auth"), f"{detail} ({self.exchange.phase.value})"
        if last is None:
            return AgentError(code, detail)
        broken = self.phase is Phase.AUTH and last.code.meaning.fault is Fault.BROKER
        if broken or self.phase in {Phase.PAUSE, Phase.KEY}:
            code = last.code
        tries = "the last try" if self.failures == 1 else f"the last of {self.failures} tries"
        return AgentError(code, f"{detail}; {tries} ended with {last}", retry_after=last.retry_after)


class Attestation:
    """Makes handshakes for one guest at one broker. Keeps nothing of them.

    Args:
        client: the broker.
        endpoints: its base URLs; they only name it.
        evidence: of this guest.
        algorithm: of the key pair; each handshake makes a new one.
        clock: for lives and phases.
        metrics: of the daemon.
        init_data: TOML text as measured, sent with every attestation.
        measured: how many runtime measurements there were; an older token is another guest's.
    """

    def __init__(
        self,
        client: Broker,
        *,
        endpoints: tuple[str, ...],
        evidence: EvidenceSource,
        algorithm: KeyAlgorithm,
        clock: Clock,
        metrics: Metrics,
        init_data: str | None,
        measured: Callable[[], int] = lambda: 0,
    ) -> None:
        self._client = client
        self._endpoints = endpoints
        self._evidence = evidence
        self._algorithm = algorithm
        self._clock = clock
        self._metrics = metrics
        self._init_data = init_data
        self._measured = measured
        self._named: tuple[tuple[str, tuple[str, ...], int], str] | None = None

    @property
    def identity(self) -> str:
        """What a handshake that began now would attest (:func:`agent.kbs.token.token_identity`)."""
        try:
            tee = self._evidence.tee
        except AgentError:
            tee = ""
        return self._identity(tee, self._evidence.devices, self._measured())

    async def run(self, progress: Progress, deadline: Deadline) -> KbsToken:
        """One handshake.

        Args:
            progress: of the flight; its phase is kept up to date.
            deadline: the end of the flight at the latest.

        Raises:
            AgentError: KBS_TIMEOUT, EVIDENCE_TIMEOUT or APPRAISAL_TIMEOUT by phase, or what the client, the
                evidence source and the handshake raise.
        """
        self._metrics.attestation_started()
        progress.phase, progress.exchange = Phase.KEY, watch()
        began = self._clock.boot()
        try:
            token = await self._steps(progress, deadline)
        except AgentError as error:
            self._metrics.attestation_failed(error.code)
            # The code only: the detail is for whoever asked, and is logged there.
            _log.warning(
                "attestation failed", extra={"code": error.code.name, "phase": progress.phase.name.lower()}
            )
            raise
        except asyncio.CancelledError:
            self._metrics.attestation_failed(ErrorCode.CANCELLED)
            raise
        self._metrics.attestation_phase("total", self._clock.boot() - began)
        self._metrics.attestation_succeeded()
        return token

    async def _steps(self, progress: Progress, deadline: Deadline) -> KbsToken:
        tee, devices = self._evidence.tee, self._evidence.devices
        # Before the evidence: one that is extended meanwhile may or may not be in it.
        measured = self._measured()
        # T-TOKEN-42: a new key for every token (user_pains.md SR-23).
        key = await self._new_key(deadline)
        jwk = key.jwk()
        with self._phase(progress, Phase.AUTH):
            # /auth costs the broker little and can be repeated, so it gets the callers' time only: when that
            # is up, the transport knows whether it was connecting, shaking hands or waiting.
            soon = progress.latest if progress.latest.at < deadline.at else deadline
            body, session = await self._client.auth(handshake.build_request(tee), soon)
            challenge = handshake.parse_challenge(body)
        with self._phase(progress, Phase.EVIDENCE):
            limit = deadline.within(limits.EVIDENCE_DEADLINE)
            async with limit.backstop(Phase.EVIDENCE.words):
                # Devices first: the primary evidence vouches for theirs (kbs_protocol.md 2.1).
                bound = handshake.device_report_data(challenge, jwk)
                additional = await self._evidence.additional(bound, limit)
                digest = handshake.primary_report_data(challenge, jwk, additional)
                report_data = handshake.attester_input(tee, challenge, digest)
                primary = await self._evidence.primary(report_data, limit)
        with self._phase(progress, Phase.ATTEST):
            attestation = handshake.build_attestation(challenge, jwk, primary, additional, self._init_data)
            reply = await self._client.attest(attestation, session, deadline)
            jwt = handshake.parse_token_reply(reply)
        token = held_token(jwt, key, self._clock)
        return replace(token, session=session, identity=self._identity(tee, devices, measured))

    async def _new_key(self, deadline: Deadline) -> TeeKey:
        if self._algorithm is not KeyAlgorithm.RSA:
            return TeeKey.generate(self._algorithm)
        async with deadline.limit(Phase.KEY.words):
            return await asyncio.to_thread(TeeKey.generate, self._algorithm)

    @contextmanager
    def _phase(self, progress: Progress, phase: Phase) -> Iterator[None]:
        """Time of a phase, if it ends well; time that ran out in it is told by its code."""
        progress.phase = phase
        began = self._clock.boot()
        try:
            yield
        except AgentError as error:
            if error.code not in _OWN_TIME or error.code is phase.code:
                raise
            raise AgentError(phase.code, error.detail, retry_after=error.retry_after) from None
        self._metrics.attestation_phase(phase.name.lower(), self._clock.boot() - began)

    def _identity(self, tee: str, devices: tuple[str, ...], measured: int) -> str:
        """Asked for with every request, so the digest is remembered as long as nothing changes."""
        key = tee, devices, measured
        if self._named is None or self._named[0] != key:
            name = token_identity(
                self._endpoints, self._init_data, tee, devices, self._algorithm, measured=measured
            )
            self._named = key, name
        return self._named[1]
