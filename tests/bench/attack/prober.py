"""Helper: callers that behave. Arguments: REST's base URL, and the data hub's socket.

Each probe of ``/healthz`` and of a cached resource is on a connection of its own, as a container's curl is.
The same resource is asked for over ttrpc too, on one connection that was there before, as kata-agent's is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from tests.bench import material, rest
from tests.bench.calls import HEADER, answer_of, envelope
from tests.bench.children import BenchError, obey, say
from tests.bench.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PAUSE_S: Final = 0.01
PATIENCE_S: Final = 2.0
"""A probe without the right answer by then has none, and counts as having taken this long."""


class Hub:
    """One kept connection to the data hub."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._stream = 1
        step = material.Step("resource", f"kbs:///{material.HOT}".encode(), material.HOT_VALUE)
        self._ask, self._answer = envelope(step), answer_of(step)

    async def ask(self) -> None:
        if self._reader.at_eof() or self._writer.is_closing():
            raise BenchError("the agent closed the connection")
        self._writer.write(HEADER.pack(len(self._ask), self._stream, 1, 0) + self._ask)
        self._stream += 2
        length, *_ = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        if await self._reader.readexactly(length) != self._answer:
            raise BenchError("another answer")


class Prober:
    """Asks over and over, and keeps how long each answer took."""

    def __init__(self, url: str, hub: Hub) -> None:
        self._url = url
        self._hub = hub
        self._probes: list[asyncio.Task[None]] = []
        self._times: dict[str, list[float]] = {}
        self._done = False

    def start(self) -> None:
        self._done = False
        self._times = {"healthz": [], "cached": [], "hub": []}
        ways = {"healthz": self._healthz, "cached": self._cached, "hub": self._hub.ask}
        self._probes = [
            asyncio.create_task(self._again(way, self._times[name])) for name, way in ways.items()
        ]

    async def stop(self) -> dict[str, object]:
        """Milliseconds of the worst probe, those under way included, and of the 99th of a hundred."""
        self._done = True
        await asyncio.gather(*self._probes)
        return {
            name: {
                "count": len(times),
                "worst_ms": max(times) * 1000,
                "p99_ms": percentile(sorted(times), 0.99) * 1000,
            }
            for name, times in self._times.items()
        }

    async def _again(self, way: Callable[[], Awaitable[None]], times: list[float]) -> None:
        while not self._done:
            begin = time.perf_counter()
            taken = PATIENCE_S
            with contextlib.suppress(OSError, BenchError, EOFError, IndexError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await way()
                taken = time.perf_counter() - begin
            times.append(taken)
            await asyncio.sleep(PAUSE_S)

    async def _healthz(self) -> None:
        await rest.get(f"{self._url}/healthz")

    async def _cached(self) -> None:
        if await rest.get(f"{self._url}/cdh/resource/{material.HOT}") != material.HOT_VALUE:
            raise BenchError("another secret")


async def main() -> None:
    prober = Prober(sys.argv[1], Hub(*await asyncio.open_unix_connection(sys.argv[2])))

    async def handle(verb: str, arguments: dict[str, Any]) -> dict[str, object]:
        if verb == "stop":
            return await prober.stop()
        prober.start()
        return {}

    say(ready=True)
    await obey(handle)


if __name__ == "__main__":
    asyncio.run(main())
