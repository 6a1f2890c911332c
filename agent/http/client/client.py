"""HTTP/1.1 requests: connections that are kept, second tries, proxies.

It follows no redirects, keeps no cookies, decompresses nothing, and nothing of the environment counts: no
proxy, no netrc, no trust store. What an answer means is its user's business.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from agent.http.client.dial import Dialer, credentials
from agent.http.client.exchange import UNWATCHED, HttpError, Step, Trouble, again
from agent.http.client.pool import Key, Pool
from agent.http.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.http.client.connection import Connection
    from agent.http.client.exchange import Request, Response, Steps
    from agent.http.messages import Bounds
    from agent.http.url import Url

_METHOD: Final = re.compile(r"[A-Z]{1,20}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", re.ASCII)
_VALUE: Final = re.compile(r"[!-~](?:[\t -~]*[!-~])?|", re.ASCII)
_BODIED: Final = frozenset({"POST", "PUT", "PATCH"})


class Client:
    """Requests to any number of servers. Opens nothing before the first.

    Args:
        bounds: of each answer; bodies are bounded by each request.
        idle: connections kept at most.
        headers: of every request.
        resolver: for names; the system's when there is none.
        proxy: on the way to every server.
    """

    def __init__(
        self,
        bounds: Bounds,
        idle: int,
        headers: Mapping[str, str],
        *,
        resolver: Resolver | None = None,
        proxy: Url | None = None,
    ) -> None:
        self._headers = dict(headers)
        self._proxy = proxy
        self._resolver = resolver or Resolver()
        self._dialer = Dialer(bounds, self._resolver, proxy)
        self._pool: Pool[Connection] = Pool(idle)
        self._busy: set[Connection] = set()
        self._closed = False

    async def send(self, request: Request, steps: Steps = UNWATCHED) -> Response:
        """One answer, for which the request went out once more if it may (:func:`again`).

        The caller bounds the time. Redirects are answers.

        Args:
            request: what to ask.
            steps: hears where the exchange is.

        Raises:
            HttpError: there is none.
            AgentError: what the request's ``trust`` cannot be made of.
        """
        head = self._head(request)
        key = Key(request.url.origin, request.trust if self._needs_trust(request.url) else None)
        connection = self._pool.take(key)
        try:
            response = await self._once(request, key, connection, head, steps)
        except HttpError as error:
            if not again(request.repeat, error.trouble, kept=connection is not None):
                raise
        else:
            if not again(request.repeat, response.status, kept=connection is not None):
                return response
        return await self._once(request, key, None, head, steps)

    async def close(self) -> None:
        """Drop all connections; what is under way fails. Safe to call twice."""
        self._closed = True
        self._pool.close()
        for connection in tuple(self._busy):
            connection.abort()
        self._resolver.close()

    async def _once(
        self, request: Request, key: Key, kept: Connection | None, head: bytes, steps: Steps
    ) -> Response:
        if self._closed:
            raise HttpError(Trouble.CLOSED, "the client is closed")
        connection = kept or await self._connect(request, steps)
        self._busy.add(connection)
        try:
            steps.reached(Step.ANSWER, kept=kept is not None)
            response = await connection.ask(head, request.body, request.wanted)
        finally:
            self._busy.discard(connection)
        if connection.reusable:
            self._pool.put(key, connection)
        return response

    async def _connect(self, request: Request, steps: Steps) -> Connection:
        """A new connection, within the request's time for that."""
        try:
            async with asyncio.timeout(request.connect):
                connection = await self._dialer.open(request.url, request.trust, steps)
        except TimeoutError:
            raise HttpError(Trouble.TIME, "no connection in time") from None
        if self._closed:
            connection.abort()
            raise HttpError(Trouble.CLOSED, "the client is closed")
        return connection

    def _needs_trust(self, url: Url) -> bool:
        return url.secure or (self._proxy is not None and self._proxy.secure)

    def _head(self, request: Request) -> bytes:
        url, body = request.url, request.body
        fields = {"Host": url.authority, **self._headers, **request.headers}
        target = url.target
        if self._proxy is not None and not url.secure:
            target = str(url)
            fields |= credentials(self._proxy)
        if body is not None or request.method in _BODIED:
            fields["Content-Length"] = str(len(body or b""))
        # T-HTTP-55: a line break in a value would begin a header, or a request, of its own.
        bad = next((n for n, v in fields.items() if not (_NAME.fullmatch(n) and _VALUE.fullmatch(v))), None)
        if bad is not None or not _METHOD.fullmatch(request.method):
            raise HttpError(Trouble.REFUSED, "a header or the method has characters that cannot be sent")
        lines = (f"{request.method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items()), "", "")
        return "\r\n".join(lines).encode("ascii")
