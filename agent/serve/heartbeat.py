"""The watchdog's food: asking our own sockets as any caller would.

A timer that tells the manager "alive" shows that a timer runs. Here each served socket is connected to and
asked anew; only when all have answered is the manager told. A daemon that takes no connections any more is
therefore killed and started again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.serve.sockets import parse_address
from agent.serve.ttrpc.codec import HEADER, FrameType, Request, encode_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agent.observe.sd_notify import Notifier

_log = logging.getLogger("coco.daemon")

SHARES: Final = 3
"""Rounds within one watchdog period: one may fail, and the next still comes in time."""

_REQUEST: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_SERVICE: Final = "coco.Heartbeat"
_SO_NETNS_COOKIE: Final = 71
"""Linux 5.14, asm-generic/socket.h."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Addresses(msgspec.Struct, frozen=True):
    """Where this process can be asked at the moment.

    Attributes:
        rest: base URLs of the REST API, ``http://IP:port``; empty while it is not served, and when its
            sockets are in another network namespace (:func:`reachable`).
        ttrpc: addresses of the ttrpc sockets, ``unix://…``.
    """

    rest: tuple[str, ...] = ()
    ttrpc: tuple[str, ...] = ()


class Heartbeat:
    """Asks every socket, then tells the manager."""

    def __init__(self, notifier: Notifier, addresses: Callable[[], Addresses]) -> None:
        """Ask nothing yet.

        Args:
            notifier: its ``watchdog`` sets the pace; without one :meth:`run` returns at once.
            addresses: asked at every round, as roles can come and go.
        """
        self._notifier = notifier
        self._addresses = addresses

    async def run(self) -> None:
        """Beat until cancelled."""
        if self._notifier.watchdog is None:
            return
        pace = self._notifier.watchdog / SHARES
        loop = asyncio.get_running_loop()
        at = loop.time()
        while True:
            await self.beat(pace)
            at = max(at + pace, loop.time())
            await asyncio.sleep(at - loop.time())

    async def beat(self, seconds: float) -> bool:
        """One round: whether all sockets answered within so many seconds, and the manager was told."""
        asked = self._addresses()
        rounds = [_limited(_ask_rest, url, seconds) for url in asked.rest]
        rounds += [_limited(_ask_ttrpc, address, seconds) for address in asked.ttrpc]
        answers = await asyncio.gather(*rounds)
        return all(answers) and self._notifier.alive()


async def _limited(ask: Callable[[str], Awaitable[None]], address: str, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await ask(address)
    except TimeoutError:
        error = AgentError(ErrorCode.DEADLINE_EXCEEDED, f"no answer within {seconds:g} s")
    except OSError as failure:
        error = AgentError(ErrorCode.ROLE_UNREACHABLE, type(failure).__name__)
    except AgentError as failure:
        error = failure
    else:
        return True
    _log.error(
        "our own socket does not answer, the watchdog is not fed",
        extra={"address": address, "code": error.code.name, "detail": error.detail},
    )
    return False


async def _ask_rest(url: str) -> None:
    where = urlsplit(url)
    six = ":" in (where.hostname or "")
    loopback = "::1" if six else "127.0.0.1"
    # The guard of the REST API admits loopback only, whatever address it is bound to.
    opening = asyncio.open_connection(where.hostname, where.port, local_addr=(loopback, 0))
    async with _connected(opening) as (reader, writer):
        writer.write(_REQUEST)
        line = await _answer(reader.readline())
        if line and not line.startswith(b"HTTP/1.1 200 "):
            raise AgentError(ErrorCode.ROLE_FAILED, "/healthz does not answer 200")


async def _ask_ttrpc(address: str) -> None:
    async with _connected(asyncio.open_unix_connection(parse_address(address).target)) as (reader, writer):
        # No method of ours: the server itself says so, and nothing is measured, audited or logged for it.
        writer.write(encode_request(1, Request(_SERVICE, "Alive", b"", None)))
        head = await _answer(reader.readexactly(HEADER.size))
        if head and HEADER.unpack(head)[1:3] != (1, FrameType.RESPONSE):
            raise AgentError(ErrorCode.ROLE_FAILED, "the answer is not a ttrpc response")


async def _answer(reading: Awaitable[bytes]) -> bytes:
    # T-PROC-6: connections are counted, and who fills them must not get the daemon killed for it. A
    # connection that is closed at once was accepted by a loop that turns; a daemon that hangs closes nothing.
    try:
        return await reading
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""
    except ValueError:
        raise AgentError(ErrorCode.ROLE_FAILED, "the answer's first line has no end") from None


@asynccontextmanager
async def _connected(opening: Awaitable[Streams]) -> AsyncIterator[Streams]:
    reader, writer = await opening
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def reachable(listener: socket.socket) -> bool:
    """Whether a listening TCP socket is in the network namespace of this process.

    A launcher can pass one that is not (peer pods), and 127.0.0.1 is then another one. Kernels before 5.14 do
    not tell; there every socket counts as reachable.
    """
    with socket.socket(listener.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as ours:
        try:
            cookies = [s.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8) for s in (ours, listener)]
        except OSError:
            return True
    return cookies[0] == cookies[1]
