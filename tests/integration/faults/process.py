"""What is measured and collected in the process that plays the faults."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.observe.logs import TRACE, Formatter
from agent.observe.redact import ResourceNames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def open_files() -> int:
    """Descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Lag:
    """How much time the event loop lost: other work of this process, or other processes."""

    TICK = 0.01

    def __init__(self) -> None:
        self.longest = 0.0
        self._lost = 0.0
        self._before = time.perf_counter()

    @property
    def lost(self) -> float:
        """Seconds so far, also those of a gap whose end this meter was not told of yet."""
        return self._lost + self._gap()

    def _gap(self) -> float:
        gap = time.perf_counter() - self._before - self.TICK
        return gap if gap > self.TICK else 0.0

    async def run(self) -> None:
        self._before = time.perf_counter()
        while True:
            await asyncio.sleep(self.TICK)
            gap = self._gap()
            self._before = time.perf_counter()
            self.longest = max(self.longest, gap)
            self._lost += gap


@asynccontextmanager
async def lag_meter() -> AsyncIterator[Lag]:
    lag = Lag()
    task = asyncio.ensure_future(lag.run())
    try:
        yield lag
    finally:
        task.cancel()


class Log(logging.Handler):
    """Every line as the agent would write it, names shown."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(Formatter(ResourceNames(shown=True)))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def logged(level: int = TRACE) -> Iterator[Log]:
    """Collect the log of this process. Nobody else does meanwhile: who keeps records keeps memory."""
    log, loggers = Log(), [logging.getLogger(name) for name in ("", "agent", "coco")]
    levels = [logger.level for logger in loggers]
    others, loggers[0].handlers = loggers[0].handlers, [log]
    for logger, wanted in zip(loggers, (logging.WARNING, level, level), strict=True):
        logger.setLevel(wanted)
    try:
        yield log
    finally:
        loggers[0].handlers = others
        for logger, former in zip(loggers, levels, strict=True):
            logger.setLevel(former)


@contextmanager
def names() -> Iterator[set[str]]:
    """While this runs, names in the yielded set resolve to 127.0.0.1; all others as always."""
    known: set[str] = set()
    real = socket.getaddrinfo

    def resolve(host: object, *arguments: object, **options: object) -> object:
        return real("127.0.0.1" if host in known else host, *arguments, **options)  # type: ignore[arg-type]

    socket.getaddrinfo = resolve  # type: ignore[assignment]
    try:
        yield known
    finally:
        socket.getaddrinfo = real
