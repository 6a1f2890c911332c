"""Raw servers and proxies in the broker's place, and clients that talk to them."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agent.clock import Deadline, SystemClock
from agent.config.model import Kbs, KeyAlgorithm
from agent.config.uri import parse_uri
from agent.errors import AgentError
from agent.kbs.client import KbsClient
from agent.kbs.credential import SessionRef
from agent.kbs.keys import TeeKey
from agent.kbs.token import KbsToken
from agent.observe.metrics import Metrics
from agent.secret import Secret

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agent.http.resolver import Lookup
    from agent.kbs.skew import ClockSkew


CLOCK = SystemClock()
URI = parse_uri("kbs:///default/key/1")
TOKEN = KbsToken(Secret(b"canary.token.value"), TeeKey.generate(KeyAlgorithm.EC_P256), math.inf)
COOKIE = (
    "Set-Cookie: kbs-session-id=6b0f4d6c9a5d4b6e8d7a2f1c3e5b7a90; Expires=Sun, 22 Nov 2026 12:05:00 GMT\r\n"
)


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(CLOCK, seconds)


def session_at(url: str, cookie: bytes = b"abc") -> SessionRef:
    return SessionRef(Secret(cookie), url.rstrip("/"), CLOCK.boot() + 60)


def reply(body: bytes = b"ok", status: str = "200 OK", head: str = "Content-Type: text/xml\r\n") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


class RawServer:
    """Answers each request with the next bytes of a script (the last one for ever) and notes what came.

    An entry may end a connection: ``b"..." + CLOSE`` after writing, ``RESET`` with a TCP reset; ``HOLD``
    keeps it open without another byte.
    """

    CLOSE, RESET, HOLD = b"\0close", b"\0reset", b"\0hold"

    def __init__(self, *script: bytes) -> None:
        self.script = list(script)
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _next(self) -> bytes:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        length = next(
            (v for k, _, v in (x.partition(":") for x in head.split("\r\n")) if k == "Content-Length"), "0"
        )
        self.bodies.append(await reader.readexactly(int(length)))
        answer = self._next()
        data, _, ending = answer.partition(b"\0")
        writer.write(data)
        await writer.drain()
        if ending == b"reset":
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ending == b"hold":
            await reader.read()
        return not ending


@asynccontextmanager
async def raw_server(*script: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    server = RawServer(*script)
    await server.start(tls)
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def clients() -> AsyncIterator[Callable[..., KbsClient]]:
    """A maker of clients that are closed at the end."""
    made: list[KbsClient] = []

    def make(
        url: str,
        *,
        resolver: Lookup | None = None,
        skew: ClockSkew | None = None,
        **settings: object,
    ) -> KbsClient:
        kbs = Kbs(url=url, **settings)  # type: ignore[arg-type]
        made.append(KbsClient(kbs, CLOCK, Metrics(), resolver=resolver, skew=skew))
        return made[-1]

    yield make
    for client in made:
        await client.close()


def plain(server: RawServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def counted(client: KbsClient, endpoint: str, result: str) -> float:
    labels = {"endpoint": endpoint, "result": result}
    return client._metrics.registry.get_sample_value("coco_kbs_requests_total", labels) or 0.0


async def failure(client: KbsClient, deadline: Deadline | None = None, *, call: str = "get") -> AgentError:
    limit = deadline or soon()
    session = session_at(client._settings.url)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: client.get(URI, TOKEN, limit),
        "auth": lambda: client.auth(b"{}", limit),
        "attest": lambda: client.attest(b"{}", session, limit),
    }
    with pytest.raises(AgentError) as caught:
        await calls[call]()
    assert "canary" not in f"{caught.value!s} {caught.value.__cause__!r}"
    return caught.value


def secure(server: RawServer, host: str = "127.0.0.1") -> str:
    return f"https://{host}:{server.port}"


class Proxy(RawServer):
    """Answers absolute URLs by itself and tunnels CONNECT."""

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        if method != "CONNECT" or self.script[0]:
            writer.write(self.script[0] or reply(b"by proxy"))
            return True
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", int(target.partition(":")[2]))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
        finally:
            there_writer.close()
        return False


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()


@asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """A port whose backlog is full: connecting neither succeeds nor fails."""
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filler.connect(listener.getsockname())
        yield listener.getsockname()[1]


@asynccontextmanager
async def proxy(answer: bytes = b"") -> AsyncIterator[Proxy]:
    server = Proxy(answer)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
