"""New connections: name, address, proxy, TLS."""

from __future__ import annotations

import asyncio
import base64
import ssl
from typing import TYPE_CHECKING

from agent.http.client.connection import Connection
from agent.http.client.exchange import UNWATCHED, HttpError, Step, Trouble
from agent.http.client.race import race
from agent.http.client.reasons import number, speaks_no_tls, system_reason, tls_reason
from agent.http.tls import mendable

if TYPE_CHECKING:
    from agent.http.client.exchange import Steps
    from agent.http.messages import Bounds, ResponseHead
    from agent.http.resolver import Resolver
    from agent.http.tls import Trust
    from agent.http.url import Url


class _UntrustedError(Exception):
    """A server's certificate was refused in one variant of the trust."""

    def __init__(self, host: str, variant: int, error: ssl.SSLCertVerificationError) -> None:
        super().__init__(host)
        self.host = host
        self.variant = variant
        self.error = error


class Dialer:
    """Opens connections.

    Args:
        bounds: of each answer.
        resolver: for names.
        proxy: on the way to every server; its TLS is checked by the same trust as the server's.
    """

    def __init__(self, bounds: Bounds, resolver: Resolver, proxy: Url | None = None) -> None:
        self._bounds = bounds
        self._resolver = resolver
        self._proxy = proxy

    async def open(self, url: Url, trust: Trust | None, steps: Steps = UNWATCHED) -> Connection:
        """A connection on which a request to ``url`` may go out. The caller bounds the time.

        Raises:
            HttpError: REFUSED (no TLS settings), NAME, CONNECT, PROXY, TUNNEL, TLS, and those of the exchange
                with a proxy.
            AgentError: what :meth:`agent.http.tls.Trust.context` raises.
        """
        variants: dict[str, int] = {}
        others: dict[str, list[int]] = {}
        refused: dict[str, ssl.SSLCertVerificationError] = {}
        while True:
            try:
                return await self._open(url, trust, variants, steps)
            except _UntrustedError as error:
                host, first = error.host, refused.setdefault(error.host, error.error)
                if not mendable(error.error):
                    raise HttpError(Trouble.TLS, tls_reason(error.error)) from None
                if host not in others:
                    others[host] = list(await _given(trust).others(error.variant))
                if not others[host]:
                    raise HttpError(Trouble.TLS, tls_reason(first)) from None
                variants[host] = others[host].pop(0)

    async def _open(
        self, url: Url, trust: Trust | None, variants: dict[str, int], steps: Steps
    ) -> Connection:
        steps.reached(Step.CONNECT)
        proxy = self._proxy
        if url.secure or (proxy is not None and proxy.secure):
            await _given(trust).ready()  # before a server has to wait for it
        connection = await self._connect(proxy or url, steps, proxied=proxy is not None)
        try:
            if proxy is not None and proxy.secure:
                await self._secure(connection, proxy, trust, variants, steps)
                steps.reached(Step.CONNECT)
            if proxy is not None and url.secure:
                await self._tunnel(connection, proxy, url)
            if url.secure:
                await self._secure(connection, url, trust, variants, steps)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _connect(self, url: Url, steps: Steps, *, proxied: bool) -> Connection:
        try:
            addresses = await self._resolver.addresses(url.host, url.port, steps)
        except OSError as error:
            trouble = Trouble.PROXY if proxied else Trouble.NAME
            reason = system_reason(error)
            raise HttpError(trouble, f"{url.host}: {reason}", errno=number(error)) from None
        steps.reached(Step.CONNECT)
        try:
            raw = await race(addresses)
        except OSError as error:
            trouble = Trouble.PROXY if proxied else Trouble.CONNECT
            raise HttpError(trouble, system_reason(error), errno=number(error)) from None
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: Connection(self._bounds), sock=raw)
        except BaseException:
            raw.close()
            raise
        connection.own(raw)
        return connection

    async def _secure(
        self,
        connection: Connection,
        url: Url,
        trust: Trust | None,
        variants: dict[str, int],
        steps: Steps,
    ) -> None:
        trust = _given(trust)
        host = url.host.rstrip(".")
        variant = variants.get(host, trust.first(host))
        context = await trust.ready(variant)
        steps.reached(Step.TLS)
        try:
            await connection.secure(context, host)
        except ssl.SSLCertVerificationError as error:
            raise _UntrustedError(host, variant, error) from None
        except ssl.SSLError as error:
            if speaks_no_tls(error):
                raise HttpError(Trouble.PLAIN, f"{url.address} does not speak TLS") from None
            raise HttpError(Trouble.TLS, tls_reason(error) or "TLS: ended in the handshake") from None
        trust.worked(host, variant)

    async def _tunnel(self, connection: Connection, proxy: Url, url: Url) -> None:
        lines = [f"CONNECT {url.address} HTTP/1.1", f"Host: {url.address}"]
        # T-HTTP-50: inside the tunnel, and to servers, the proxy's credentials are not sent.
        lines += [f"{name}: {value}" for name, value in credentials(proxy).items()]
        head = "\r\n".join((*lines, "", "")).encode("ascii")
        answer = await connection.ask(head, None, _nothing, tunnel=True)
        if answer.status >= 300:
            detail = f"the proxy answered CONNECT with {answer.status}"
            raise HttpError(Trouble.TUNNEL, detail, status=answer.status)


def _given(trust: Trust | None) -> Trust:
    if trust is None:
        raise HttpError(Trouble.REFUSED, "there are no TLS settings")
    return trust


def credentials(proxy: Url) -> dict[str, str]:
    """The header that a proxy wants, when there are credentials for it (RFC 7617)."""
    if proxy.user is None:
        return {}
    pair = base64.b64encode(proxy.user + b":" + proxy.password).decode("ascii")
    return {"Proxy-Authorization": f"Basic {pair}"}


def _nothing(head: ResponseHead) -> int:  # noqa: ARG001
    return 0
