"""A server in the test's hands, on threads of its own: it can act while the client's loop stands still."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from agent.config import limits
from agent.http.client.client import Client
from agent.http.client.exchange import Repeat, Request
from agent.http.messages import Bounds
from agent.http.url import Url

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from agent.http.client.exchange import Step
    from agent.http.messages import ResponseHead
    from agent.http.tls import Trust

BOUNDS = Bounds(head=16_384, start=8_192, fields=32, framing=4_096, interim=4)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STALE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale"
LATE = b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def reset(peer: socket.socket) -> None:
    """Close with a TCP reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


class Talk:
    """One connection, as the server's script sees it."""

    def __init__(self, server: Server, peer: socket.socket) -> None:
        self.server = server
        self.peer = peer
        self._left = b""

    def read(self) -> bytes:
        """The next request, with its body; empty at the end."""
        while b"\r\n\r\n" not in self._left:
            if not self._more():
                return b""
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        lengths = [x for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:")]
        size = int(lengths[0].partition(b":")[2]) if lengths else 0
        while len(self._left) < size:
            if not self._more():
                return b""
        body, self._left = self._left[:size], self._left[size:]
        self.server.requests.append(head + b"\r\n\r\n" + body)
        return self.server.requests[-1]

    def write(self, data: bytes) -> None:
        self.peer.sendall(data)

    def until_closed(self) -> None:
        """Wait for the client's end."""
        while self._more():
            pass

    def _more(self) -> bool:
        try:
            data = self.peer.recv(65_536)
        except OSError:
            return False
        self._left += data
        return bool(data)


class Server:
    """Plays a script with each connection; the last one also with all that follow."""

    def __init__(self, *scripts: Callable[[Talk], None], tls: ssl.SSLContext | None = None) -> None:
        self.scripts = list(scripts)
        self.requests: list[bytes] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._peers: list[socket.socket] = []
        self._threads[0].start()

    def url(self, target: str = "/") -> Url:
        scheme = "https" if self._tls else "http"
        return Url.parse(f"{scheme}://localhost:{self.port}{target}")

    def stop(self) -> None:
        for each in (self._listener, *self._peers):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)
        assert self.errors == []

    def _listen(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            self._peers.append(peer)
            self._threads.append(threading.Thread(target=self._talk, args=(peer, script), daemon=True))
            self._threads[-1].start()

    def _talk(self, peer: socket.socket, script: Callable[[Talk], None]) -> None:
        try:
            if self._tls is not None:
                peer = self._tls.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
                self._peers.append(peer)
                peer.do_handshake()
            with peer:
                script(Talk(self, peer))
        except OSError:
            pass  # the client went away, or the server is being stopped
        except BaseException as error:  # noqa: BLE001  # for the test to see
            self.errors.append(error)


@contextmanager
def server(*scripts: Callable[[Talk], None], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    made = Server(*scripts, tls=tls)
    try:
        yield made
    finally:
        made.stop()


def answering(*answers: bytes) -> Callable[[Talk], None]:
    """A script: each request gets the next answer, then the end."""

    def script(talk: Talk) -> None:
        for answer in answers:
            if not talk.read():
                return
            talk.write(answer)

    return script


def always(answer: bytes = OK) -> Callable[[Talk], None]:
    """A script: every request gets the same."""

    def script(talk: Talk) -> None:
        while talk.read():
            talk.write(answer)

    return script


class Seen:
    """Notes the steps of an exchange."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def reached(self, step: Step, *, kept: bool = False) -> None:
        self.steps.append(f"{step.value}{' kept' if kept else ''}")


def client(proxy: str = "", idle: int = 4) -> Client:
    return Client(
        BOUNDS,
        idle,
        {"User-Agent": "test"},
        proxy=Url.parse(proxy, credentials=True) if proxy else None,
    )


def get(
    url: Url,
    *,
    repeat: Repeat = Repeat.KEPT,
    trust: Trust | None = None,
    body: bytes | None = None,
    most: int = 1000,
    connect: float = limits.KBS_CONNECT,
    wanted: Callable[[ResponseHead], int] | None = None,
) -> Request:
    method = "GET" if body is None else "POST"
    return Request(method, url, wanted or (lambda _: most), {}, body, repeat, connect, trust)


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  # the other thread has no loop
            await asyncio.sleep(0.005)
