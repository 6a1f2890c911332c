"""Helper: ttrpc load. A closed loop on one connection with N calls in flight, as kata-agent keeps one.

Nothing but ``struct``, so that the generator costs little beside the agent. Arguments: the socket's path and
the folder with ``steps.json``.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Iterator
from itertools import cycle, repeat
from pathlib import Path
from typing import Any, Final, TypeAlias

from tests.bench import material
from tests.bench.children import BenchError, obey, say
from tests.bench.figures import percentile

Question: TypeAlias = tuple[bytes, bytes]  # request and the answer that has to come
Questions: TypeAlias = Iterator[Question]

HEADER: Final = struct.Struct(">IIBB")
REQUEST, RESPONSE = 1, 2
METHODS: Final = {
    "resource": (b"api.GetResourceService", b"GetResource"),
    "unseal": (b"api.SealedSecretService", b"UnsealSecret"),
    "unwrap": (b"keyprovider.KeyProviderService", b"UnWrapKey"),
}


def field(number: int, value: bytes) -> bytes:
    """One length-delimited protobuf field."""
    size, prefix = len(value), bytearray([number << 3 | 2])
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + value


def envelope(step: material.Step) -> bytes:
    """``ttrpc.Request``: service, method, payload; field 1 of every payload is the question."""
    service, method = METHODS[step.verb]
    return field(1, service) + field(2, method) + field(3, field(1, step.ask))


def answer_of(step: material.Step) -> bytes:
    """``ttrpc.Response`` with no status; field 1 of every payload is the answer."""
    return field(2, field(1, step.answer))


class Loop:
    """One connection."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._asked: dict[int, tuple[float, bytes, Questions]] = {}
        self._held = b""
        self._stream = 1
        self.times: list[float] = []

    def run(self, callers: list[Questions]) -> float:
        """Let each caller ask its next question when its last is answered; seconds until the last answer.

        Callers that share the work are one iterator several times.
        """
        begin = time.perf_counter()
        self._send(callers)
        while self._asked:
            self._send(self._receive())
        self._socket.close()
        return time.perf_counter() - begin

    def _send(self, callers: list[Questions]) -> None:
        out = []
        now = time.perf_counter()
        for caller in callers:
            question = next(caller, None)
            if question is None:
                continue
            self._asked[self._stream] = (now, question[1], caller)
            out.append(HEADER.pack(len(question[0]), self._stream, REQUEST, 0) + question[0])
            self._stream += 2
        self._socket.sendall(b"".join(out))

    def _receive(self) -> list[Questions]:
        """Take what has come; whose calls it answers."""
        data = self._socket.recv(1 << 18)
        if not data:
            raise BenchError("the agent closed the connection")
        held, at, answered, now = self._held + data, 0, [], time.perf_counter()
        while len(held) - at >= HEADER.size:
            length, stream, kind, _ = HEADER.unpack_from(held, at)
            end = at + HEADER.size + length
            if len(held) < end:
                break
            sent, expected, caller = self._asked.pop(stream)
            body = held[at + HEADER.size : end]
            if kind != RESPONSE or body != expected:
                raise BenchError(f"a wrong answer: {body[:200]!r}")
            self.times.append(now - sent)
            answered.append(caller)
            at = end
        self._held = held[at:]
        return answered


def until(end: float, questions: list[Question]) -> Questions:
    """The questions in turn until a point in time."""
    for each in cycle(questions):
        if time.perf_counter() >= end:
            return
        yield each


async def main() -> None:
    path, steps = sys.argv[1], material.read_steps(Path(sys.argv[2]))

    def asking(path: str) -> Question:
        step = material.Step("resource", f"kbs:///{path}".encode(), material.HOT_VALUE)
        return envelope(step), answer_of(step)

    async def handle(verb: str, arguments: dict[str, Any]) -> dict[str, object]:
        loop, width = Loop(path), arguments["callers"]
        if verb == "boot":
            boot = [(envelope(step), answer_of(step)) for step in steps]
            shared = iter(boot)
            return {"seconds": loop.run([iter(boot) if arguments["each"] else shared for _ in range(width)])}
        if verb == "once":
            return {"seconds": loop.run([repeat(asking(material.HOT), 1) for _ in range(width)])}
        questions = [asking(path) for path in arguments["paths"]]
        seconds = loop.run([until(time.perf_counter() + arguments["seconds"], questions)] * width)
        times = sorted(loop.times)
        return {
            "rps": len(times) / seconds,
            "requests": len(times),
            "p50_ms": percentile(times, 0.5) * 1000,
            "p99_ms": percentile(times, 0.99) * 1000,
        }

    say(ready=True)
    await obey(handle)


if __name__ == "__main__":
    asyncio.run(main())
