"""Pauses between tries, which end early when the broker answers somebody or a new caller comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from agent.config import limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.clock import Clock


class Pause(msgspec.Struct, eq=False):
    """The pauses of one request, one after another.

    Attributes:
        step: that failed; empty: the way to the broker.
        joined: others can join the request, and hurry it then.
        until: boot clock, in seconds; its end.
        earliest: boot clock; the broker asked not to come back before.
        cuts: pauses of this request that were cut short.
        moved: set when ``until`` was.
    """

    step: str = ""
    joined: bool = True
    until: float = 0.0
    earliest: float = 0.0
    cuts: int = 0
    moved: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    _cut: bool = False

    def begin(self, now: float, seconds: float, asked: float) -> None:
        """A pause begins.

        Args:
            now: boot clock.
            seconds: how long.
            asked: the part of it that the broker asked for.
        """
        self.until, self.earliest = now + seconds, now + asked
        self._cut = False
        self.moved.clear()

    def move(self, at: float) -> None:
        """End it at ``at`` on the boot clock, if that is sooner and the broker does not mind."""
        # T-KBS-113: neither callers nor other answers overrule ``Retry-After``.
        at = max(at, self.earliest)
        if at < self.until:
            self.until = at
            self.moved.set()

    def cut(self, at: float) -> None:
        """As :meth:`move`, for ``limits.RETRY_CUTS`` pauses of one request at most."""
        # T-KBS-112: callers that come and go must not make this guest a load on its broker.
        if not self._cut and self.cuts >= limits.RETRY_CUTS:
            return
        before = self.until
        self.move(at)
        if self.until < before and not self._cut:
            self._cut = True
            self.cuts += 1


class Pauses:
    """The pauses under way before one broker.

    Args:
        clock: its boot time counts.
        sleep: injected in tests.
        chance: 0 to 1, uniformly; injected in tests.
    """

    def __init__(
        self, clock: Clock, sleep: Callable[[float], Awaitable[None]], chance: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._under_way: set[Pause] = set()

    async def rest(self, pause: Pause) -> None:
        """Until it is over; it has begun."""
        self._under_way.add(pause)
        try:
            while not await self._slept(pause) and pause.until > self._clock.boot():
                pause.moved.clear()
        finally:
            self._under_way.discard(pause)

    async def until_answered(self, seconds: float) -> None:
        """For work in the background: that long, or until the broker answers anybody."""
        pause = Pause(joined=False)
        pause.begin(self._clock.boot(), seconds, 0.0)
        await self.rest(pause)

    def answered(self, step: str) -> None:
        """The broker answered: those that wait for it need not wait any longer.

        A challenge says only that it can be reached: one that judges nobody gives challenges, too.
        """
        now = self._clock.boot() if self._under_way else 0.0
        for pause in self._under_way:
            if step != "auth" or pause.step in {"", "auth"}:
                pause.cut(now)

    def hurry(self) -> None:
        """A caller joined a request: it must not sleep through the end of an outage."""
        now = self._clock.boot()
        for pause in self._under_way:
            if pause.joined:
                pause.cut(now + limits.RETRY_JOINED * self._chance())

    async def _slept(self, pause: Pause) -> bool:
        """Whether it slept to the end; otherwise that was moved."""
        sleeping = asyncio.ensure_future(self._sleep(max(0.0, pause.until - self._clock.boot())))
        moved = asyncio.ensure_future(pause.moved.wait())
        try:
            await asyncio.wait((sleeping, moved), return_when=asyncio.FIRST_COMPLETED)
            if sleeping.done():
                sleeping.result()
            return sleeping.done()
        finally:
            sleeping.cancel()
            moved.cancel()
