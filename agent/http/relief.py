"""After a rush: memory that Python and the C library keep for later goes back to the guest."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Final

from agent import hardening
from agent.config import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT_ITERATORS: Final = 255
"""``FI_FREELIST_MAXLEN`` of CPython's _asynciomodule.c: iterators of futures that are kept for later."""


class Relief:
    """Watches connections rise and fall; the account of held bytes calls :meth:`soon` itself."""

    def __init__(self) -> None:
        self._most = 0
        self._timer: asyncio.TimerHandle | None = None
        self._early: list[Iterator[None]] = []

    def rises(self, connections: int) -> None:
        """So many connections are open."""
        if not self._early:
            self._early = self._iterators()
        self._most = max(self._most, connections)

    def falls(self, connections: int) -> None:
        """Only so many are left."""
        if self._most >= limits.RELIEF_CONNECTIONS and connections <= self._most // 4:
            self._most = connections
            self.soon()

    def soon(self) -> None:
        """A rush is over."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(limits.RELIEF_PAUSE, self._relieve)

    def _relieve(self) -> None:
        """About 30 ms in which nothing else runs."""
        # T-HTTP-21: what an attack made us use is not kept until the guest is restarted.
        self._timer = None
        gc.collect()
        # Those kept now were made during the rush, one here and one there, and each holds 1 MiB of Python's.
        scattered = self._iterators()
        self._early.clear()
        scattered.clear()
        self._early = self._iterators()
        hardening.give_back()

    @staticmethod
    def _iterators() -> list[Iterator[None]]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return [iter(future) for _ in range(_KEPT_ITERATORS)]
