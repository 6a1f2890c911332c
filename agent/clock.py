"""Time as the agent sees it: an injected clock, and deadlines that every hop spends from."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    import asyncio
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

GRACE_SHARE: Final = 0.01
"""Share of a deadline that each outer limit leaves to the one inside it, which knows the reason."""

GRACE_MAX: Final = 0.125
"""The most of it, in seconds: callers' own time limits are near."""


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


class Deadline(msgspec.Struct, frozen=True):
    """A point on the boot clock by which the caller needs its answer.

    Attributes:
        clock: the clock ``at`` is measured on.
        at: seconds on ``clock.boot()``; ``math.inf`` for none.
        budget: seconds there were at the beginning; 0 when nobody said.
    """

    clock: Clock
    at: float
    budget: float = 0.0

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """The deadline ``seconds`` from now."""
        return cls(clock, clock.boot() + seconds, seconds)

    @classmethod
    def never(cls, clock: Clock) -> Deadline:
        """No deadline."""
        return cls(clock, math.inf)

    def remaining(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - self.clock.boot())

    def within(self, seconds: float) -> Deadline:
        """This deadline, or ``seconds`` from now if that is sooner."""
        at = self.clock.boot() + seconds
        return self if self.at <= at else Deadline(self.clock, at, seconds)

    def grace(self, layers: int = 1) -> float:
        """Seconds a limit further out waits for the reason that one further in can give.

        Args:
            layers: how far out; each adds 1 % of the budget, at most 125 ms.
        """
        return layers * min(GRACE_SHARE * self.budget, GRACE_MAX)

    def limit(self, phase: str) -> AbstractAsyncContextManager[None]:
        """Cancel the body when the deadline passes.

        Args:
            phase: what the body does; named in the error.

        Raises:
            AgentError: DEADLINE_EXCEEDED.
        """
        return _Limit(self.remaining(), None, phase)

    def backstop(self, phase: str, layers: int = 1) -> AbstractAsyncContextManager[None]:
        """Cancel the body a little after the deadline: one that keeps it by itself says more.

        The grace is counted from when the loop gets to see that the deadline passed. So a loop that was held
        up lets the body speak first all the same.

        Args:
            phase: what the body does; named in the error.
            layers: see :meth:`grace`; more than any backstop inside the body has.

        Raises:
            AgentError: DEADLINE_EXCEEDED.
        """
        return _Limit(self.remaining(), self.grace(layers), phase)


class _Limit:
    """A class and not a generator: every request passes two or three of them."""

    __slots__ = ("_grace", "_left", "_passed", "_phase", "_timer")

    def __init__(self, left: float, grace: float | None, phase: str) -> None:
        self._left = left
        self._grace = grace
        self._phase = phase
        self._passed: asyncio.TimerHandle | None = None
        self._timer: asyncio.Timeout | None = None

    async def __aenter__(self) -> None:
        if math.isinf(self._left):
            return
        import asyncio  # noqa: PLC0415  # the process that collects evidence has deadlines, and no loop

        self._timer = asyncio.timeout(self._left if self._grace is None else None)
        await self._timer.__aenter__()
        if self._grace is not None:
            loop = asyncio.get_running_loop()
            self._passed = loop.call_later(self._left, self._wait_on, loop)

    def _wait_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None and self._grace is not None:
            self._timer.reschedule(loop.time() + self._grace)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is None:
            return
        if self._passed is not None:
            self._passed.cancel()
        try:
            await self._timer.__aexit__(kind, error, trace)
        except TimeoutError:
            # Only the timer's own end comes from there; the body's TimeoutError is ``error`` and passes by.
            raise AgentError(ErrorCode.DEADLINE_EXCEEDED, f"time ran out while {self._phase}") from None
