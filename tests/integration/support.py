"""Clients and programs for tests that use the real thing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.clock import Deadline, SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

BIN = Path(sys.executable).parent
CLEAN_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(SystemClock(), seconds)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def http(
    url: str, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """One request on a connection of its own, written by hand so that nothing is normalised."""
    authority, _, path = url.removeprefix("http://").partition("/")
    host, _, port = authority.rpartition(":")
    lines = {"Host": authority, "Connection": "close", **(headers or {})}
    if body:
        lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(f"{method} /{path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        raw = await reader.read()
    finally:
        writer.close()
    top, _, content = raw.partition(b"\r\n\r\n")
    status_line, *fields = top.decode("latin-1").split("\r\n")
    parsed = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    return Answer(int(status_line.split(" ")[1]), parsed, content)


@dataclass(slots=True)
class Program:
    """One running program and what it writes to standard error."""

    process: asyncio.subprocess.Process
    log: Path

    def logged(self) -> str:
        return self.log.read_text()

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), 10)


@asynccontextmanager
async def program(
    folder: Path, name: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Run an installed program with a bare environment, as kata-agent does."""
    log = folder / f"{name}-{os.urandom(3).hex()}.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            str(BIN / name), *arguments, stderr=stderr, env={**CLEAN_ENVIRONMENT, **(environment or {})}
        )
    running = Program(process, log)
    try:
        yield running
    finally:
        await running.stop()


async def visible(path: Path, owner: Program | None = None) -> None:
    """Wait for a socket file, as kata-agent does; then it must accept."""
    for _ in range(1500):
        if path.exists():
            return
        if owner is not None and owner.process.returncode is not None:
            raise AssertionError(f"the program ended: {owner.logged()}")
        await asyncio.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


async def said(owner: Program, words: str) -> None:
    """Wait until a program logged something. Its sockets are there before all of it is loaded."""
    for _ in range(1500):
        if words in owner.logged():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not said: {words}: {owner.logged()}")


async def run(
    *command: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    """Run a command of ours to its end: exit status, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        str(BIN / command[0]),
        *command[1:],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**CLEAN_ENVIRONMENT, **(environment or {})},
    )
    output, errors = await asyncio.wait_for(process.communicate(stdin), 60)
    return process.returncode or 0, output, errors.decode()
