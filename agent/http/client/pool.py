"""Connections that are kept for the next request to the same server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

from agent.config import limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.http.tls import Trust


class Kept(Protocol):
    """A connection, as the pool sees it.

    Attributes:
        since: boot clock, when it fell idle; the pool's own.
    """

    since: float

    @property
    def open(self) -> bool:
        """No end, and nothing that nobody asked for, was seen on it."""

    def untouched(self) -> bool:
        """Nothing of the kind waits to be seen either."""

    def abort(self) -> None:
        """Close it at once."""


C = TypeVar("C", bound=Kept)


class Key(msgspec.Struct, frozen=True):
    """Which connections are alike: one server, and the trust that it was checked by.

    Attributes:
        origin: scheme, host and port.
        trust: compared as an object.
    """

    origin: tuple[str, str, int]
    trust: Trust | None


def boot_time() -> float:
    """Seconds since boot, suspended time included: a server's patience goes on while a guest sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Pool(Generic[C]):
    """Idle connections; the one used last is used next, so that those beyond need grow old.

    Args:
        most: of all servers together; above, the oldest is closed.
        now: boot clock, seconds; injected in tests.
    """

    def __init__(self, most: int, now: Callable[[], float] = boot_time) -> None:
        self._most = most
        self._now = now
        self._idle: dict[Key, deque[C]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self, key: Key) -> C | None:
        """A connection that is as good as a new one, or None."""
        idle = self._idle.get(key)
        while idle:
            each = idle.pop()
            self._count -= 1
            if each.open and not self._old(each) and each.untouched():
                return each
            each.abort()
        self._idle.pop(key, None)
        return None

    def put(self, key: Key, connection: C) -> None:
        """Keep one that has answered, if it is still good."""
        if not connection.open:
            return
        connection.since = self._now()
        self._idle.setdefault(key, deque()).append(connection)
        self._count += 1
        # T-HTTP-51: each keeps a descriptor and, with TLS, tens of KiB.
        if self._count > self._most:
            self._drop_oldest()
        if self._timer is None:
            self._wait()

    def sweep(self) -> None:
        """Close what ended or grew old."""
        for key, idle in tuple(self._idle.items()):
            good = deque[C]()
            for each in idle:
                if each.open and not self._old(each):
                    good.append(each)
                else:
                    each.abort()
            self._count += len(good) - len(idle)
            if good:
                self._idle[key] = good
            else:
                del self._idle[key]

    def close(self) -> None:
        """Close them all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for idle in self._idle.values():
            for each in idle:
                each.abort()
        self._idle.clear()
        self._count = 0

    def _old(self, connection: C) -> bool:
        return self._now() - connection.since >= limits.HTTP_IDLE

    def _drop_oldest(self) -> None:
        key = min(self._idle, key=lambda each: self._idle[each][0].since)
        self._idle[key].popleft().abort()
        self._count -= 1
        if not self._idle[key]:
            del self._idle[key]

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(limits.HTTP_IDLE, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.sweep()
        if self._idle:
            self._wait()
