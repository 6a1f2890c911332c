"""What a guest does: the workload that asks, our agent, and a model of upstream's.

A flow is a generator. It yields a request and how long it waits for the answer, and is resumed with how that
ended; or it yields PAUSE and until when. The flows read like the code they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs.outage import Outage, Patience
from agent.kbs.retry import Backoff, Trouble
from agent.kbs.token import refresh_due
from tests.bench.herd.model import (
    ATTEST,
    AUTH,
    CALLER,
    DOWN,
    FULL,
    GET,
    LATE,
    LOST,
    OK,
    PAUSE,
    QUOTE,
    ROUND_TRIP,
    WORKLOAD_FIRST,
    WORKLOAD_SYNC,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.herd.model import Scenario

Flow: TypeAlias = Generator[tuple[int, float], int, None]
Step: TypeAlias = Generator[tuple[int, float], int, bool]

ERRORS: Final = {
    FULL: AgentError(ErrorCode.KBS_BUSY),
    DOWN: AgentError(ErrorCode.KBS_UNREACHABLE),
    LOST: AgentError(ErrorCode.KBS_UNREACHABLE),
    LATE: AgentError(ErrorCode.KBS_TIMEOUT),
}

NEVER: Final = -1.0

UPSTREAM_HANDSHAKES: Final = 5
UPSTREAM_PAUSE: Final = 1.0
UPSTREAM_REQUEST: Final = 60.0
"""Tries, seconds between them, seconds for one HTTP request (kbs_protocol.md 1.11, 5.7)."""


class World:
    """What the engine gives to flows, and what they tell it.

    Attributes:
        now: seconds since the storm began.
        chance: 0 to 1, uniformly.
        spawn: begins one more flow.
        fetched: resources each guest got.
        attested: tokens each guest got.
    """

    __slots__ = ("attested", "chance", "fetched", "now", "spawn")

    def __init__(self, guests: int, chance: Callable[[], float], spawn: Callable[[Flow], None]) -> None:
        self.now = 0.0
        self.chance = chance
        self.spawn = spawn
        self.fetched = [0] * guests
        self.attested = [0] * guests

    def boot(self) -> float:
        """It is the guests' clock, too."""
        return self.now

    wall = boot


class Tries(Protocol):
    """When an agent tries again: seconds to pause, or NEVER."""

    @property
    def lasts(self) -> float:
        """Seconds in which a request may be begun again."""

    @property
    def flight(self) -> float:
        """Seconds for all handshakes of one attestation."""

    @property
    def request(self) -> float:
        """Seconds for one request."""

    def handshake(self, failed: int, ended: int, left: float, chance: Callable[[], float]) -> float:
        """After a handshake failed, with ``left`` seconds until the deadline."""

    def resource(self, failed: int, ended: int, left: float, chance: Callable[[], float]) -> float:
        """After a GET failed."""


@dataclass(frozen=True, slots=True)
class OurTries:
    """The real :class:`agent.kbs.retry.Backoff`, for ``limits.RETRY_FOR`` or until the deadline."""

    backoff: Backoff = field(default_factory=Backoff)
    lasts: float = limits.RETRY_FOR
    flight: float = limits.ATTEST_DEADLINE
    request: float = limits.KBS_REQUEST

    def handshake(self, failed: int, ended: int, left: float, chance: Callable[[], float]) -> float:
        """As the flight of :class:`agent.kbs.session.Session`."""
        pause = self.backoff.pause(failed, ERRORS[ended], chance)
        return NEVER if pause is None or pause >= left else pause

    def resource(self, failed: int, ended: int, left: float, chance: Callable[[], float]) -> float:
        """As :func:`agent.kbs.choice.pause_within`, which has the default pauses only."""
        pause = self.backoff.pause(failed, ERRORS[ended], chance)
        if pause is None or left < limits.RETRY_LEAST:
            return NEVER
        return pause if pause < left else left * (0.5 + 0.4 * chance())


@dataclass(frozen=True, slots=True)
class UpstreamTries:
    """Five handshakes a second apart. A GET is repeated only after a 401, which this broker never says."""

    lasts: float = math.inf
    flight: float = UPSTREAM_HANDSHAKES * (2 * UPSTREAM_REQUEST + UPSTREAM_PAUSE)
    request: float = UPSTREAM_REQUEST

    def handshake(self, failed: int, ended: int, left: float, chance: Callable[[], float]) -> float:
        """As upstream's ``get_token`` (kbs_protocol.md 1.11)."""
        return UPSTREAM_PAUSE if failed < UPSTREAM_HANDSHAKES and left > UPSTREAM_PAUSE else NEVER

    def resource(self, failed: int, ended: int, left: float, chance: Callable[[], float]) -> float:
        """As upstream's token client: other failures end it at once (kbs_protocol.md 3.3)."""
        return NEVER


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to behave.

    Attributes:
        tries: when to try again.
        keeps: one attestation serves all resources; else each resource has its own.
        remembers: failures count on from request to request (:class:`agent.kbs.retry.Trouble`).
        knows: a request learns from those before how long to wait (:class:`agent.kbs.outage.Outage`).
    """

    tries: Tries
    keeps: bool
    remembers: bool = False
    knows: bool = False

    @property
    def trips(self) -> tuple[float, float, float]:
        """Seconds on the way for AUTH, ATTEST and GET: a new connection costs two more round trips."""
        return (3 * ROUND_TRIP, ROUND_TRIP, ROUND_TRIP if self.keeps else 3 * ROUND_TRIP)


OURS: Final = Policy(OurTries(), keeps=True, remembers=True, knows=True)
UPSTREAM: Final = Policy(UpstreamTries(), keeps=False)


class Guest:
    """One guest with its agent and workload."""

    __slots__ = (
        "_index",
        "_last_used",
        "_outage",
        "_policy",
        "_scenario",
        "_tries",
        "_trouble",
        "_usable_until",
        "_world",
    )

    def __init__(self, world: World, index: int, scenario: Scenario, policy: Policy) -> None:
        self._world = world
        self._index = index
        self._scenario = scenario
        self._policy = policy
        self._tries = policy.tries
        self._usable_until = 0.0
        self._last_used = 0.0
        self._trouble = Trouble()
        self._outage = Outage(world, self._tries.lasts)

    def workload(self) -> Flow:
        """All resources, one after another; what was fetched is kept."""
        world = self._world
        longest = self._scenario.workload_longest
        failed = 0
        for _ in range(self._scenario.resources):
            while not (yield from self._fetch(world.now + CALLER)):
                backoff = min(longest, WORKLOAD_FIRST * 2.0 ** min(failed, 16))
                failed += 1
                yield PAUSE, world.now + backoff + WORKLOAD_SYNC * world.chance()
            world.fetched[self._index] += 1

    def _fetch(self, deadline: float) -> Step:
        """One resource for one caller (agent/kbs/resources.py, client.py)."""
        world, tries = self._world, self._tries
        if world.now >= self._usable_until and not (yield from self._attest(deadline)):
            return False
        self._last_used = world.now
        failed, patience = 0, self._outage.begin("resource")
        while True:
            ended = yield GET, self._until(deadline, "resource")
            if ended == OK:
                self._succeeded("resource")
                return True
            failed += 1
            left = min(deadline - world.now, self._left(patience, ended))
            pause = tries.resource(self._failed(failed), ended, left, world.chance)
            if pause < 0:
                self._gave_up(patience, "resource", ended, deadline)
                return False
            yield PAUSE, world.now + pause

    def _attest(self, deadline: float) -> Step:
        """Handshakes until one succeeds or the tries or the time are used up (agent/kbs/session.py)."""
        world, tries = self._world, self._tries
        end = min(deadline, world.now + tries.flight)
        failed, patience = 0, self._outage.begin("auth", "attest")
        while True:
            step = "auth"
            ended = yield AUTH, self._until(end, step)
            if ended == OK:
                self._succeeded(step)
                yield PAUSE, world.now + QUOTE
                step = "attest"
                ended = yield ATTEST, self._until(end, step)
            if ended == OK:
                self._succeeded(step)
                self._hold()
                return True
            failed += 1
            left = min(end - world.now, self._left(patience, ended))
            pause = tries.handshake(self._failed(failed), ended, left, world.chance)
            if pause < 0:
                if deadline < math.inf:  # nobody waits in the background
                    self._gave_up(patience, step, ended, deadline)
                return False
            yield PAUSE, world.now + pause

    def _until(self, end: float, step: str) -> float:
        """When a request that begins now is given up."""
        limit = self._outage.limit(step) if self._policy.knows else math.inf
        return min(end, self._world.now + min(self._tries.request, limit))

    def _left(self, patience: Patience, ended: int) -> float:
        """Seconds left for another try."""
        if self._policy.knows:
            return patience.left(ERRORS[ended])
        return patience.began + self._tries.lasts - self._world.now

    def _gave_up(self, patience: Patience, step: str, ended: int, deadline: float) -> None:
        if self._policy.knows:
            patience.gave_up(step, ERRORS[ended], own=deadline > self._world.now)

    def _succeeded(self, step: str) -> None:
        self._trouble.eased()
        self._outage.answered(step)

    def _failed(self, failed: int) -> int:
        """How many failures count, after ``failed`` of this request."""
        return self._trouble.failed(failed) if self._policy.remembers else failed

    def _hold(self) -> None:
        """Keep the token, and plan its renewal (agent/kbs/session.py, token.py)."""
        world = self._world
        world.attested[self._index] += 1
        if self._policy.keeps:
            life = limits.TOKEN_DEFAULT_LIFE
            self._usable_until = world.now + life - min(limits.TOKEN_MARGIN, life / 10)
            share = limits.TOKEN_REFRESH_AT + limits.TOKEN_REFRESH_SPREAD * (2 * world.chance() - 1)
            world.spawn(self._renew(world.now + share * life))

    def _renew(self, at: float) -> Flow:
        """In the background, while callers go on with the old token; an idle guest does not."""
        world = self._world
        yield PAUSE, at
        while refresh_due(world.now, at, self._last_used, limits.TOKEN_REFRESH_WHILE_USED):
            if (yield from self._attest(float("inf"))):
                return
            yield PAUSE, world.now + limits.TOKEN_REFRESH_PAUSE
