"""The broker's endpoints: which are well, and which to ask first.

All of it is decided from an injected clock and chance; nothing here opens a socket before it is told to.
"""

from __future__ import annotations

import enum
import hashlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from agent.config import limits, urls
from agent.errors import AgentError, ErrorCode
from agent.http.url import Url
from agent.kbs.slots import Slots
from agent.kbs.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Clock
    from agent.config.model import Kbs
    from agent.http.resolver import Lookup
    from agent.kbs.credential import SessionRef
    from agent.kbs.skew import ClockSkew

_FORGOTTEN: Final = 8

ELSEWHERE: Final = frozenset(
    {
        ErrorCode.KBS_UNREACHABLE,
        ErrorCode.KBS_DNS_FAILED,
        ErrorCode.KBS_TLS_FAILED,
        ErrorCode.KBS_NOT_TLS,
        ErrorCode.KBS_TLS_TIMEOUT,
        ErrorCode.KBS_TIMEOUT,
        ErrorCode.APPRAISAL_TIMEOUT,
        ErrorCode.KBS_BUSY,
    }
)
"""Failures that say something about the endpoint and nothing about the request: another one may do better."""


class Health(enum.IntEnum):
    """State of a circuit breaker; a lower one is asked first."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Circuit breaker of one endpoint.

    Closed until ``limits.BREAKER_FAILURES`` failures in a row; then open for a pause that doubles with each
    failed probe, half to all of it at random, so that guests do not probe together. After the pause it is
    half open for one request, which decides.

    Args:
        clock: its boot time counts.
        chance: 0 to 1, uniformly.
    """

    def __init__(self, clock: Clock, chance: Callable[[], float]) -> None:
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._openings = 0
        self._until = 0.0
        self._probing = False

    def health(self) -> Health:
        """The state now. Half open only while nobody probes."""
        if not self._openings:
            return Health.CLOSED
        due = not self._probing and self._clock.boot() >= self._until
        return Health.HALF_OPEN if due else Health.OPEN

    def begin(self) -> bool:
        """A request sets out; whether it is the probe, which must :meth:`end` however it goes."""
        probe = self.health() is Health.HALF_OPEN
        self._probing = self._probing or probe
        return probe

    def end(self) -> None:
        """The probe ended, with :meth:`succeeded` or :meth:`failed` before, or nothing learned."""
        self._probing = False

    def succeeded(self) -> None:
        """The endpoint answered."""
        self._failures = self._openings = 0

    def failed(self, *, weight: int = 1, least: float = 0.0) -> None:
        """The endpoint failed.

        Args:
            weight: failures it counts for.
            least: seconds the endpoint asked to be left alone.
        """
        self._failures += weight
        if self._failures < limits.BREAKER_FAILURES and not self._openings:
            return
        if self._openings and self._clock.boot() < self._until:
            return  # one of those that were under way when it opened
        bound = min(limits.BREAKER_LONGEST_PAUSE, limits.BREAKER_FIRST_PAUSE * 2.0 ** min(self._openings, 32))
        self._openings += 1
        pause = max(min(least, limits.RETRY_AFTER_MAX), bound * (0.5 + self._chance() / 2))
        self._until = self._clock.boot() + pause


class Endpoint:
    """One endpoint: connections, circuit breaker, and what was learned about it.

    Attributes:
        index: place in the configured order, from 0; the only name it has in metrics.
        settings: its own URL, roots and pins.
        breaker: its health.
        slots: bounds the exchanges under way, and shares them out.
        transport: its connections.
        head_limit: bytes of a token that it may take in a head: one byte less than the smallest refused.
        last: code of the last failure, for callers that never got a connection.
        handshakes_from: boot clock; handshakes begin elsewhere before that.
    """

    def __init__(
        self,
        index: int,
        settings: Kbs,
        breaker: Breaker,
        resolver: Lookup | None = None,
        skew: ClockSkew | None = None,
        *,
        shown: Callable[[int, float], None] | None = None,
    ) -> None:
        self.index = index
        self.settings = settings
        self.breaker = breaker
        self.slots = Slots()
        # T-KBS-80: only an answer that is the broker's for certain says what time it is.
        self.transport = Transport(
            settings,
            resolver,
            skew.observe if skew and self.authenticated else None,
            None if shown is None else partial(shown, index),
        )
        self.head_limit = limits.KBS_MAX_TOKEN
        self.last: ErrorCode | None = None
        self.handshakes_from = 0.0
        self._forgotten: deque[bytes] = deque(maxlen=_FORGOTTEN)

    @property
    def base(self) -> str:
        """Base URL, as sessions name it."""
        return self.settings.url.rstrip("/")

    @property
    def authenticated(self) -> bool:
        """What it says comes from the configured broker: by TLS, which is never unverified."""
        return self.base.lower().startswith("https:")

    def url(self, target: str) -> Url:
        """Where a request goes.

        Args:
            target: below ``/kbs/v0/``, encoded.

        Raises:
            AgentError: KBS_NOT_CONFIGURED, CONFIG_INVALID, KBS_TLS_REQUIRED.
        """
        base = self.base
        if not base:
            raise AgentError(ErrorCode.KBS_NOT_CONFIGURED)
        # T-KBS-68: no credentials, query, fragment or odd host, so what is appended is the path.
        if wrong := urls.problem(base):
            raise AgentError(ErrorCode.CONFIG_INVALID, f"the broker's URL {wrong}")
        # T-KBS-69: a measured configuration can insist on an authenticated broker.
        if self.settings.require_tls and not self.authenticated:
            raise AgentError(ErrorCode.KBS_TLS_REQUIRED)
        try:
            return Url.parse(f"{base}/kbs/v0/{target}")  # the broker gets what was checked
        except ValueError:
            raise AgentError(
                ErrorCode.CONFIG_INVALID, "the broker's URL has a host or port that cannot be"
            ) from None

    def forget(self, session: SessionRef | None) -> None:
        """It no longer knows this session."""
        if session is not None:
            self._forgotten.append(hashlib.sha256(session.cookie.reveal()).digest())

    def forgot(self, session: SessionRef | None) -> bool:
        """Whether it said that it does not know this session."""
        if session is None or not self._forgotten:
            return False
        return hashlib.sha256(session.cookie.reveal()).digest() in self._forgotten

    def failed(self, error: AgentError, took: float, *, cut: bool = False) -> None:
        """Count how an exchange ended.

        Args:
            error: its end.
            took: seconds.
            cut: its time was up; otherwise it failed by itself.
        """
        if error.code not in ELSEWHERE:
            if error.problem is not None:
                self.breaker.succeeded()  # a refusal is an answer
            return
        self.last = error.code
        slow = took >= limits.BREAKER_PATIENCE
        # T-KBS-83: a caller that waits for a moment only must not be able to shut an endpoint to the others.
        if cut and not slow:
            return
        # A slow failure costs its caller seconds, so one is enough to ask another endpoint first.
        self.breaker.failed(weight=limits.BREAKER_FAILURES if slow else 1, least=error.retry_after or 0.0)


class Endpoints:
    """The endpoints of one broker, in the configured order.

    When none is well they are asked all the same: pauses between tries are the callers' business, and a
    broker that is back must be found by the first who asks.
    """

    def __init__(
        self,
        settings: Kbs,
        clock: Clock,
        chance: Callable[[], float],
        resolver: Lookup | None = None,
        skew: ClockSkew | None = None,
        *,
        shown: Callable[[int, float], None] | None = None,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self.all = tuple(
            Endpoint(
                index,
                replace(settings, url=one.url, extra_roots=one.extra_roots, pins=one.pins, endpoints=()),
                Breaker(clock, chance),
                resolver,
                skew,
                shown=shown,
            )
            for index, one in enumerate(settings.servers())
        )

    def for_handshake(self) -> tuple[Endpoint, ...]:
        """Whom to ask for a challenge: by health, then those whose last handshake did not fail."""
        now = self._clock.boot()
        return self._sorted(lambda one: one.handshakes_from > now)

    def for_resource(self, home: str) -> tuple[Endpoint, ...]:
        """Whom to ask for a resource: by health, then the one that issued the token.

        Args:
            home: its base URL, or empty when that is not known.
        """
        return self._sorted(lambda one: one.base != home)

    def at(self, base: str) -> Endpoint | None:
        """The endpoint with this base URL."""
        return next((one for one in self.all if one.base == base), None)

    def handshake_failed(self, endpoint: Endpoint) -> None:
        """It gave a challenge and then broke off: begin the next handshake elsewhere for a while."""
        pause = limits.BREAKER_LONGEST_PAUSE * (0.5 + self._chance() / 2)
        endpoint.handshakes_from = self._clock.boot() + pause

    @staticmethod
    def handshake_done(endpoint: Endpoint) -> None:
        """It gave a token."""
        endpoint.handshakes_from = 0.0

    def _sorted(self, later: Callable[[Endpoint], bool]) -> tuple[Endpoint, ...]:
        if len(self.all) == 1:
            return self.all
        return tuple(sorted(self.all, key=lambda one: (one.breaker.health(), later(one), one.index)))
