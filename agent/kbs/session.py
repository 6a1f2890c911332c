"""One token and its key pair for the whole guest: attest once, remember, renew in time.

kbs_protocol.md 5.6 says what may be kept. Life is counted on the boot clock, and nothing about a failure is
kept: the next caller tries again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from agent.clock import Deadline
from agent.config import limits
from agent.config.model import KeyAlgorithm
from agent.errors import AgentError, ErrorCode
from agent.flight import SingleFlight
from agent.kbs import handshake
from agent.kbs.keys import TeeKey
from agent.kbs.token import KbsToken, held_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from agent.clock import Clock
    from agent.observe.metrics import Metrics
    from agent.tee.base import EvidenceSource

_log = logging.getLogger(__name__)

_KEY: Final = "token"
_CHANCE: Final = secrets.SystemRandom().random


class Broker(Protocol):
    """What a handshake needs of a broker; :class:`agent.kbs.client.KbsClient` is one."""

    async def auth(self, body: bytes, deadline: Deadline) -> tuple[bytes, str]:
        """Challenge body and session cookie."""

    async def attest(self, body: bytes, cookie: str, deadline: Deadline) -> bytes:
        """Token reply body."""


@dataclass(frozen=True, slots=True)
class Held:
    """The token in use, and its times on the boot clock, in seconds.

    Attributes:
        token: what callers get.
        usable_until: callers no longer get it from here on.
        refresh_from: it may be renewed in the background from here on.
    """

    token: KbsToken
    usable_until: float
    refresh_from: float

    @classmethod
    def since(cls, token: KbsToken, received: float) -> Held:
        """Times for a token that was received just now.

        The margin before its end is ``limits.TOKEN_MARGIN``, but at most a third of its life, so that a
        short-lived token is of use at all.
        """
        life = max(0.0, token.expires - received)
        usable = life - min(limits.TOKEN_MARGIN, life / 3)
        return cls(token, received + usable, received + limits.TOKEN_REFRESH_AT * usable)


def refresh_due(now: float, refresh_from: float, *, used: bool) -> bool:
    """Whether to renew in the background.

    Args:
        now: seconds on the boot clock.
        refresh_from: earliest time for it, same clock.
        used: whether anybody got the token since it was renewed. An idle guest stops attesting.
    """
    return used and now >= refresh_from


def retry_pause(failed: int, chance: float) -> float:
    """Seconds before the next handshake.

    Args:
        failed: handshakes of this flight that failed, from 1.
        chance: 0 to 1, so that guests that lost their broker together do not come back together.
    """
    return limits.ATTEST_FIRST_PAUSE * 2.0 ** (failed - 1) * (0.5 + chance / 2)


class Session:
    """A :class:`agent.kbs.token.TokenSource` that attests to one broker.

    However many callers wait, one handshake is under way. Each waits for its own deadline; one that leaves
    does not disturb the others. Those who waited share a failure; who comes later starts afresh.
    """

    def __init__(
        self,
        client: Broker,
        evidence: EvidenceSource,
        algorithm: KeyAlgorithm,
        clock: Clock,
        metrics: Metrics,
        *,
        init_data: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = _CHANCE,
    ) -> None:
        """Open nothing yet.

        Args:
            client: the broker.
            evidence: of this guest.
            algorithm: of the key pair; each handshake makes a new one.
            clock: for lives and phases.
            metrics: of the daemon.
            init_data: TOML text as measured, sent with every attestation.
            sleep: pauses between handshakes; injected in tests.
            chance: 0 to 1, spreads the pauses; injected in tests.
        """
        self._client = client
        self._evidence = evidence
        self._algorithm = algorithm
        self._clock = clock
        self._metrics = metrics
        self._init_data = init_data
        self._sleep = sleep
        self._chance = chance
        self._flight: SingleFlight[str, KbsToken] = SingleFlight()
        self._held: Held | None = None
        self._used = False
        self._refresh_from = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._background: asyncio.Task[None] | None = None
        self._work: asyncio.Task[object] | None = None
        self._phase = "auth"
        self._closed = False
        self.last_failure: ErrorCode | None = None
        """Code of the latest handshake, if that failed."""

    @property
    def attested(self) -> bool:
        """Whether a token is held that has not expired."""
        return self.seconds_left() > 0

    def seconds_left(self) -> float:
        """Until the held token expires; 0 when none is held."""
        return 0.0 if self._held is None else max(0.0, self._held.token.expires - self._clock.boot())

    async def token(self, deadline: Deadline, *, refused: KbsToken | None = None) -> KbsToken:
        """The held token, or that of the handshake under way, or of a new one.

        Args:
            deadline: when this caller stops waiting.
            refused: the broker refused this one. It is dropped if it is still held; a hundred callers that
                were refused with it cause one handshake together.

        Raises:
            AgentError: DEADLINE_EXCEEDED naming the phase; CANCELLED after :meth:`close`; or what the client,
                the evidence source and the handshake raise.
        """
        if self._closed:
            raise AgentError(ErrorCode.CANCELLED, "the agent is stopping")
        # T-TOKEN-41: by identity, so that a late refusal of an old token costs the new one nothing.
        if refused is not None and self._held is not None and self._held.token is refused:
            self._drop()
        held = self._held
        if held is not None and self._clock.boot() < held.usable_until:
            self._used = True
            self._refresh_if_due()
            return held.token
        token = await self._join(deadline)
        self._used = True
        return token

    async def close(self) -> None:
        """Stop what is under way and wipe the token. Safe to call twice."""
        self._closed = True
        tasks = [task for task in (self._background, self._work) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._held is not None:
            self._held.token.jwt.wipe()
        self._drop()

    # --- one flight -------------------------------------------------------------------------------
    async def _join(self, deadline: Deadline) -> KbsToken:
        left = deadline.remaining()
        try:
            async with asyncio.timeout(None if left == float("inf") else left):
                return await self._flight.join(_KEY, self._fly, Deadline.never(self._clock), "attesting")
        except TimeoutError:
            last = f", last failure {self.last_failure.name}" if self.last_failure else ""
            detail = f"time ran out while attesting (phase {self._phase}{last})"
            raise AgentError(ErrorCode.DEADLINE_EXCEEDED, detail) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise AgentError(ErrorCode.CANCELLED, "the agent is stopping") from None
            raise

    async def _fly(self) -> KbsToken:
        """Handshakes until one succeeds, fails for good, or the tries or the time are used up."""
        self._work = asyncio.current_task()
        deadline = Deadline.after(self._clock, limits.ATTEST_DEADLINE)
        failed = 0
        try:
            while True:
                try:
                    return self._keep(await self._handshake(deadline))
                except AgentError as error:
                    failed += 1
                    pause = retry_pause(failed, self._chance())
                    final = not error.code.meaning.retry or failed >= limits.ATTEST_TRIES
                    if final or deadline.remaining() <= pause:
                        raise
                self._phase = "pause"
                await self._sleep(pause)
        finally:
            if self._work is asyncio.current_task():  # else: cancelled, and a newer flight has begun
                self._work = None

    async def _handshake(self, deadline: Deadline) -> KbsToken:
        self._metrics.attestation_started()
        try:
            with self._measured("total"):
                token = await self._steps(deadline)
        except AgentError as error:
            self.last_failure = error.code
            self._metrics.attestation_failed(error.code)
            # The code only: the detail is for whoever asked, and is logged there.
            _log.warning("attestation failed", extra={"code": error.code.name, "phase": self._phase})
            raise
        except asyncio.CancelledError:
            self._metrics.attestation_failed(ErrorCode.CANCELLED)
            raise
        self.last_failure = None
        self._metrics.attestation_succeeded()
        return token

    async def _steps(self, deadline: Deadline) -> KbsToken:
        tee = self._evidence.tee
        # T-TOKEN-42: a new key for every token (user_pains.md SR-23).
        key = await self._new_key(deadline)
        jwk = key.jwk()
        with self._measured("auth"):
            body, cookie = await self._client.auth(handshake.build_request(tee), deadline)
            challenge = handshake.parse_challenge(body)
        with self._measured("evidence"):
            limit = deadline.within(limits.EVIDENCE_DEADLINE)
            async with limit.limit("collecting evidence"):
                # Devices first: the primary evidence vouches for theirs (kbs_protocol.md 2.1).
                devices = handshake.device_report_data(challenge, jwk)
                additional = await self._evidence.additional(devices, limit)
                digest = handshake.primary_report_data(challenge, jwk, additional)
                report_data = handshake.attester_input(tee, challenge, digest)
                primary = await self._evidence.primary(report_data, limit)
        with self._measured("attest"):
            attestation = handshake.build_attestation(challenge, jwk, primary, additional, self._init_data)
            reply = await self._client.attest(attestation, cookie, deadline)
            jwt = handshake.parse_token_reply(reply)
        return held_token(jwt, key, self._clock)

    async def _new_key(self, deadline: Deadline) -> TeeKey:
        if self._algorithm is not KeyAlgorithm.RSA:
            return TeeKey.generate(self._algorithm)
        async with deadline.limit("making a key"):
            return await asyncio.to_thread(TeeKey.generate, self._algorithm)

    @contextmanager
    def _measured(self, phase: str) -> Iterator[None]:
        """Time of a phase; only of those that end well."""
        began = self._clock.boot()
        if phase != "total":
            self._phase = phase
        yield
        self._metrics.attestation_phase(phase, self._clock.boot() - began)

    # --- the held token ---------------------------------------------------------------------------
    def _keep(self, token: KbsToken) -> KbsToken:
        if self._closed:
            token.jwt.wipe()
            raise AgentError(ErrorCode.CANCELLED, "the agent is stopping")
        self._drop()
        self._held = held = Held.since(token, self._clock.boot())
        self._used = False
        self._plan_refresh(held.refresh_from)
        _log.info("attested", extra={"expires_in": round(self.seconds_left())})
        return token

    def _drop(self) -> None:
        # Not wiped: other callers may be sending it just now.
        self._held = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan_refresh(self, at: float) -> None:
        """Look again at ``at``. The timer may be late (suspend): then the next caller looks."""
        self._refresh_from = at
        if self._timer is not None:
            self._timer.cancel()
        wait = max(0.0, at - self._clock.boot())
        self._timer = asyncio.get_running_loop().call_later(wait, self._refresh_if_due)

    def _refresh_if_due(self) -> None:
        busy = self._background is not None or self._closed or self._held is None
        if not busy and refresh_due(self._clock.boot(), self._refresh_from, used=self._used):
            self._background = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        """Renew while callers go on with the old token, which stays until its time is up."""
        try:
            await self._join(Deadline.never(self._clock))
        except AgentError as error:
            # Said by _handshake already; this line tells that nobody was hurt yet.
            _log.info(
                "token not renewed yet",
                extra={"code": error.code.name, "retry_in": limits.TOKEN_REFRESH_PAUSE},
            )
            if not self._closed and self._held is not None:
                self._plan_refresh(self._clock.boot() + limits.TOKEN_REFRESH_PAUSE)
        finally:
            self._background = None
