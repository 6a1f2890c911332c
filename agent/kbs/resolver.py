"""Name look-ups for the broker's connections."""

from __future__ import annotations

import asyncio
import socket

from agent.http import aiohttp
from agent.kbs.progress import Phase, reached


class Resolver(aiohttp.abc.AbstractResolver):
    """One look-up per name, however many connections wait for it, and nothing kept afterwards.

    A look-up sits in a thread that nothing can end. So one that nobody waits for any more goes on, and the
    next to ask joins it: a dead name server holds one thread and not the whole pool.

    Args:
        inner: does the work; the system's resolver when there is none.
    """

    def __init__(self, inner: aiohttp.abc.AbstractResolver | None = None) -> None:
        self._inner = inner or aiohttp.ThreadedResolver()
        self._under_way: dict[tuple[str, int, int], asyncio.Task[list[aiohttp.abc.ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Addresses of ``host``."""
        reached(Phase.DNS)
        key = (host, port, int(family))
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(self._inner.resolve(host, port, family))
            task.add_done_callback(lambda done: self._done(key, done))
        addresses = await asyncio.shield(task)
        reached(Phase.CONNECT)
        return addresses

    async def close(self) -> None:
        """Stop waiting for look-ups."""
        for task in tuple(self._under_way.values()):
            task.cancel()
        await self._inner.close()

    def _done(self, key: tuple[str, int, int], task: asyncio.Task[list[aiohttp.abc.ResolveResult]]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # marks it retrieved: all may have left
