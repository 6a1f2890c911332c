"""Time as the agent sees it: an injected clock, and deadlines that every hop spends from."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Clock(Protocol):
    """Injected time; tests use ``agent.devkit.clock.FakeClock``."""

    def boot(self) -> float:
        """Seconds since boot, suspended time included (CLOCK_BOOTTIME). Never jumps."""

    def wall(self) -> float:
        """Seconds since the Unix epoch. May be wrong or jump in a guest."""


class SystemClock:
    """The kernel's clocks."""

    def boot(self) -> float:
        """See :meth:`Clock.boot`."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """See :meth:`Clock.wall`."""
        return time.time()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the boot clock by which the caller needs its answer.

    Attributes:
        clock: the clock ``at`` is measured on.
        at: seconds on ``clock.boot()``; ``math.inf`` for none.
    """

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """The deadline ``seconds`` from now."""
        return cls(clock, clock.boot() + seconds)

    @classmethod
    def never(cls, clock: Clock) -> Deadline:
        """No deadline."""
        return cls(clock, math.inf)

    def remaining(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - self.clock.boot())

    def within(self, seconds: float) -> Deadline:
        """This deadline, or ``seconds`` from now if that is sooner."""
        return Deadline(self.clock, min(self.at, self.clock.boot() + seconds))

    @asynccontextmanager
    async def limit(self, phase: str) -> AsyncIterator[None]:
        """Cancel the body when the deadline passes.

        Args:
            phase: what the body does; named in the error.

        Raises:
            AgentError: DEADLINE_EXCEEDED.
        """
        left = self.remaining()
        timer = asyncio.timeout(None if math.isinf(left) else left)
        try:
            async with timer:
                yield
        except TimeoutError:
            if not timer.expired():  # the body's own, such as a socket's ETIMEDOUT
                raise
            raise AgentError(ErrorCode.DEADLINE_EXCEEDED, f"time ran out while {phase}") from None
