"""After a rush: memory that Python and the C library keep for later goes back to the guest."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from typing import TYPE_CHECKING, Final

from agent.config import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.http.budget import Budget

_KEPT_ITERATORS: Final = 255
"""``FI_FREELIST_MAXLEN`` of CPython's _asynciomodule.c: iterators of futures that are kept for later."""


class Relief:
    """Watches connections and held bytes rise and fall.

    Args:
        budget: the account of held bytes.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._most = 0
        self._timer: asyncio.TimerHandle | None = None
        self._early = self._iterators()

    def rises(self, connections: int) -> None:
        """So many connections are open."""
        self._most = max(self._most, connections)

    def falls(self, connections: int) -> None:
        """Only so many are left, or fewer bytes are held."""
        rush = self._most >= limits.RELIEF_CONNECTIONS or self._budget.peak >= limits.RELIEF_BYTES
        calm = connections <= self._most // 4 and self._budget.used <= self._budget.peak // 4
        # T-HTTP-21: what an attack made us use is not kept until the guest is restarted.
        if rush and calm and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                limits.RELIEF_PAUSE, self._relieve, connections
            )

    def stop(self) -> None:
        """Forget it."""
        if self._timer is not None:
            self._timer.cancel()

    def _relieve(self, connections: int) -> None:
        self._timer = None
        self._most, self._budget.peak = connections, self._budget.used
        self._give_back()

    def _give_back(self) -> None:
        """About 30 ms in which nothing else runs."""
        gc.collect()
        # Those kept now were made during the rush, one here and one there, and each holds 1 MiB of Python's.
        scattered = self._iterators()
        self._early.clear()
        scattered.clear()
        self._early = self._iterators()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # glibc's; others give back by themselves
            libc.malloc_trim(0)

    @staticmethod
    def _iterators() -> list[Iterator[None]]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return [iter(future) for _ in range(_KEPT_ITERATORS)]
