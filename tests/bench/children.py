"""Helper processes that take one command a line and answer with one line of JSON.

Broker, guest and callers each run in a process of their own, as in a pod: none of them waits for another's
interpreter. A child ends when its standard input does, so none outlives the bench.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

LINE_MAX = 1 << 20


class BenchError(Exception):
    """A measurement could not be made; the text says what to do."""


class Child:
    """A running helper, seen from the bench."""

    def __init__(self, program: asyncio.subprocess.Process, log: Path | None = None) -> None:
        self._program = program
        self._log = log

    @property
    def pid(self) -> int:
        return self._program.pid

    async def read(self) -> dict[str, Any]:
        """The next answer."""
        if self._program.stdout is None:
            raise BenchError("the helper has no output")
        line = await self._program.stdout.readline()
        if not line:
            raise BenchError(f"a helper process ended with status {await self._program.wait()}{self._said()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _said(self) -> str:
        return f":\n{self._log.read_text()[-2000:]}" if self._log is not None else ""

    async def ask(self, verb: str, **arguments: object) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        if self._program.stdin is None:
            raise BenchError("the helper has no input")
        self._program.stdin.write(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
        await self._program.stdin.drain()
        return await self.read()


def pinned(cpu: int | None, *command: str) -> tuple[str, ...]:
    """The command, tied to one processor."""
    return command if cpu is None else ("taskset", "-c", str(cpu), *command)


@asynccontextmanager
async def child(
    module: str,
    *arguments: str,
    cpu: int | None = None,
    log: Path | None = None,
    prefix: Sequence[str] = (),
    checkout: Path | None = None,
) -> AsyncIterator[Child]:
    """Run ``python -m tests.bench.<module>``; its first answer is what it has to say when it is ready.

    ``log`` takes its standard error. ``prefix`` is a command that runs it, in namespaces for example.
    ``checkout`` is another checkout with an environment in ``.venv``, whose helper is run.
    """
    stderr = log.open("wb") if log is not None else None
    python = str(checkout / ".venv/bin/python") if checkout is not None else sys.executable
    try:
        program = await asyncio.create_subprocess_exec(
            *pinned(cpu, *prefix, python, "-m", f"tests.bench.{module}", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=checkout,
            limit=LINE_MAX,
        )
    finally:
        if stderr is not None:
            stderr.close()
    try:
        yield Child(program, log)
    finally:
        if program.stdin is not None:
            program.stdin.close()
        try:
            await asyncio.wait_for(program.wait(), 10)
        except TimeoutError:
            program.kill()
            await program.wait()


def say(**members: object) -> None:
    """Answer, in a helper."""
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()


async def obey(handle: Callable[[str, dict[str, Any]], Awaitable[dict[str, object]]]) -> None:
    """Answer commands until standard input ends, in a helper."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        say(**await handle(command.pop("verb"), command))
