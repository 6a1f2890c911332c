"""What :meth:`agent.clock.Deadline.limit` and :meth:`agent.clock.Deadline.backstop` give."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from types import TracebackType


class Cutoff:
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
        self._timer = asyncio.timeout(self._left if self._grace is None else None)
        await self._timer.__aenter__()
        if self._grace is not None:
            self._passed = asyncio.get_running_loop().call_later(self._left, self._wait_on)

    def _wait_on(self) -> None:
        if self._timer is not None and self._grace is not None:
            self._timer.reschedule(asyncio.get_running_loop().time() + self._grace)

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
