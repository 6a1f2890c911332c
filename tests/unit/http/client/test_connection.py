"""A connection between a transport and a server that are both in the test's hands."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast

import pytest

from agent.devkit import pki
from agent.http import tls
from agent.http.client.connection import Connection
from agent.http.client.exchange import HttpError, Response, Trouble
from agent.http.messages import Bounds

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDS = Bounds(head=4096, start=1024, fields=16, framing=1024, interim=2)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ROOT = pki.Authority()
IDENTITY = ROOT.issue("broker.example")


class Wire:
    """The end of a transport; what is written goes to ``sink``."""

    def __init__(self, sink: Callable[[bytes], object] | None = None) -> None:
        self.sent = b""
        self.left = 0
        self.closed = False
        self._sink = sink

    def write(self, data: bytes) -> None:
        if self._sink is None:
            self.sent += data
        else:
            self._sink(data)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return self.left


def connected(wire: Wire) -> Connection:
    made = Connection(BOUNDS)
    made.connection_made(cast("asyncio.BaseTransport", wire))
    return made


async def ask(connection: Connection) -> asyncio.Task[Response]:
    task = asyncio.ensure_future(connection.ask(b"GET / HTTP/1.1\r\n\r\n", None, lambda _: 10))
    await asyncio.sleep(0)
    return task


async def trouble(task: asyncio.Task[Response]) -> Trouble:
    with pytest.raises(HttpError) as caught:
        await task
    return caught.value.trouble


class TlsServer:
    """TLS 1.2 or 1.3 on the other side, in memory."""

    def __init__(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, greeting: bytes = b"") -> None:
        context = IDENTITY.context()
        context.maximum_version = version
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self._in, self._out, server_side=True)
        self._greeting = greeting
        self._done = False
        self.heard = b""
        self.wire = Wire(self._in.write)
        self.connection = connected(self.wire)

    def step(self) -> bytes:
        """What it sends for what came so far."""
        try:
            if not self._done:
                self.session.do_handshake()
                self._done = True
                if self._greeting:
                    self.session.write(self._greeting)
            self.heard += self.session.read()
        except ssl.SSLWantReadError:
            pass
        return self._out.read()

    def says(self, data: bytes) -> bytes:
        self.session.write(data)
        return self._out.read()

    async def shakes(self) -> None:
        task = asyncio.ensure_future(self.connection.secure(tls.Trust(ROOT.pem).context(), "broker.example"))
        await asyncio.sleep(0)
        while not task.done():
            self.connection.data_received(self.step())
            await asyncio.sleep(0)
        await task
        if tickets := self.step():
            self.connection.data_received(tickets)


async def test_bytes_before_the_first_request_are_no_answer() -> None:
    connection = connected(Wire())
    connection.data_received(OK)
    assert await trouble(await ask(connection)) is Trouble.FRAMING


@pytest.mark.parametrize("data", [OK, b"\r\n", b"H"])
async def test_bytes_on_an_idle_connection_close_it(data: bytes) -> None:
    wire = Wire()
    connection = connected(wire)
    task = await ask(connection)
    connection.data_received(OK)
    assert (await task).body == b"ok"
    assert (connection.open, connection.reusable) == (True, True)
    connection.data_received(data)
    assert (connection.open, connection.reusable, wire.closed) == (False, False, True)
    assert await trouble(await ask(connection)) is Trouble.UNSENT
    assert wire.sent.count(b"GET") == 1


async def test_bytes_between_an_answer_and_its_reader_close_the_connection() -> None:
    """The answer is there, and the task that waits for it has not run yet."""
    connection = connected(Wire())
    task = await ask(connection)
    connection.data_received(OK)
    connection.data_received(OK)
    assert (await task).body == b"ok"
    assert not connection.reusable


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_exchange_over_tls(version: ssl.TLSVersion) -> None:
    server = TlsServer(version)
    await server.shakes()
    connection = server.connection
    for _ in range(2):
        task = await ask(connection)
        assert server.step() == b""
        connection.data_received(server.says(OK))
        assert (await task).body == b"ok"
        assert connection.reusable
    assert server.heard == b"GET / HTTP/1.1\r\n\r\n" * 2


async def test_part_of_a_record_on_an_idle_connection_closes_it() -> None:
    """The rest of it would come as the next one's answer."""
    server = TlsServer()
    await server.shakes()
    task = await ask(server.connection)
    server.step()
    server.connection.data_received(server.says(OK))
    await task
    server.connection.data_received(server.says(OK)[:10])
    assert not server.connection.open


async def test_an_answer_in_the_last_flight_of_the_handshake_is_none() -> None:
    server = TlsServer(ssl.TLSVersion.TLSv1_2, greeting=OK)
    await server.shakes()
    assert await trouble(await ask(server.connection)) is Trouble.FRAMING
    assert server.heard == b""


async def test_tls_that_breaks_in_the_middle_of_an_answer() -> None:
    server = TlsServer()
    await server.shakes()
    task = await ask(server.connection)
    server.step()
    record = bytearray(server.says(OK))
    record[-1] ^= 1
    server.connection.data_received(bytes(record))
    assert await trouble(task) is Trouble.TLS


async def test_a_handshake_that_is_cut_off() -> None:
    server = TlsServer()
    task = asyncio.ensure_future(server.connection.secure(tls.Trust(ROOT.pem).context(), "broker.example"))
    await asyncio.sleep(0)
    server.connection.eof_received()
    with pytest.raises(HttpError) as caught:
        await task
    assert caught.value.trouble is Trouble.SILENT
    assert server.wire.closed


async def test_a_server_that_is_refused_gets_the_alert() -> None:
    server = TlsServer()
    task = asyncio.ensure_future(server.connection.secure(tls.Trust().context(), "broker.example"))
    await asyncio.sleep(0)
    server.connection.data_received(server.step())
    with pytest.raises(ssl.SSLCertVerificationError):
        await task
    with pytest.raises(ssl.SSLError, match="ALERT"):
        server.step()
    assert server.wire.closed
