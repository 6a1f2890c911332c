"""The development KBS on a socket: HTTP in and out, faults on the way."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Self

import msgspec

from agent.clock import Clock, SystemClock
from agent.devkit.kbs.answers import Call
from agent.devkit.kbs.broker import Broker, Settings
from agent.devkit.kbs.delivery import BareResponse, deliver
from agent.devkit.kbs.faults import Fault, Faults, Kind
from agent.devkit.kbs.sessions import COOKIE
from agent.devkit.web import web
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.verdict import VENDOR

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from agent.devkit.kbs.counters import Counters
    from agent.devkit.kbs.policy import Policy
    from agent.devkit.kbs.tokens import SignerJwk

log = logging.getLogger(__name__)

PAYLOAD_LIMIT: Final = 2 * 1024 * 1024
"""Trustee's default ``payload_request_size``."""

HEAD_LIMIT: Final = 128 * 1024
"""Request head that Trustee's HTTP server takes: bounds a bearer token."""

STOP_GRACE: Final = 0.2
WARNING: Final = (
    "DEVELOPMENT KEY BROKER, for development and tests only. It accepts sample evidence, which proves "
    "nothing, judges the rest by %s and %s, and protects no secret put into it."
)


class Seen(msgspec.Struct, frozen=True):
    """One request that arrived, without its credentials.

    Attributes:
        method: HTTP method.
        target: path and query as sent.
        bearer: it carried a bearer token.
        cookie: it carried a session cookie.
        user_agent: as sent.
    """

    method: str
    target: str
    bearer: bool
    cookie: bool
    user_agent: str


async def _strip(_: web.Request, response: web.StreamResponse) -> None:
    if isinstance(response, BareResponse):
        response.headers.popall("Content-Type", None)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class DevKbs:
    """An embedded KBS for development and tests. It proves nothing and protects nothing.

    Use ``async with DevKbs() as kbs:`` or :meth:`start` and :meth:`stop`; state outlives a stop, so a
    second start is a broker that came back.

    Args:
        settings: how the broker behaves.
        clock: of sessions, cookies and tokens.
        port: TCP port of ``async with``, 0 for any free one.
        tls: what ``async with`` serves TLS with; None for plain HTTP.
        payload_limit: bytes of a request body.

    Attributes:
        broker: decisions and state, without HTTP.
        faults: switches.
        seen: the last 256 requests.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Clock | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        payload_limit: int = PAYLOAD_LIMIT,
    ) -> None:
        self._settings = settings or Settings()
        self.broker = Broker(self._settings, clock or SystemClock())
        self.faults = Faults()
        self.seen: deque[Seen] = deque(maxlen=256)
        self._port = port
        self._tls = tls
        self._payload_limit = payload_limit
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._url = ""

    # --- what tests and `dev` touch ------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base URL, no trailing slash; the last one after a stop."""
        return self._url

    @property
    def listening(self) -> bool:
        """Between start and stop."""
        return self._runner is not None

    @property
    def port(self) -> int:
        """TCP port, 0 before the first start."""
        return int(self._url.rpartition(":")[2] or 0)

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        return self.broker.counters

    @property
    def policy(self) -> Policy:
        """The resource policy."""
        return self.broker.policy

    @property
    def signer(self) -> SignerJwk:
        """Public key of this broker's tokens, for another broker's :meth:`trust`."""
        return self.broker.signer

    def put(self, path: str, data: bytes, *, plugin: str = "resource") -> None:
        """Store a resource ``<repository>/<type>/<tag>``.

        Raises:
            AgentError: INVALID_URI.
        """
        self.broker.repository.put(path, data, plugin)

    def add_plugin(self, name: str, *, encrypted: bool = False) -> None:
        """Offer another plugin; raw answers (``text/xml``) unless encrypted."""
        self.broker.repository.add_plugin(name, encrypted=encrypted)

    def allow(self, path: str = "*", *, tee: str = "*", plugin: str = "*") -> None:
        """Add a rule; see :class:`Policy`."""
        self.policy.allow(path, tee=tee, plugin=plugin)

    def deny(self, path: str = "*", *, tee: str = "*", plugin: str = "*") -> None:
        """Add a rule; see :class:`Policy`."""
        self.policy.deny(path, tee=tee, plugin=plugin)

    def trust(self, signer: SignerJwk) -> None:
        """Accept another broker's tokens too (passport mode)."""
        self.broker.trust(signer)

    def forget_sessions(self) -> None:
        """Drop every session."""
        self.broker.sessions.forget()

    def rotate_signer(self) -> None:
        """Replace the token signer; tokens issued before are refused."""
        self.broker.rotate_signer()

    # --- life ----------------------------------------------------------------------------------

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        *,
        allow_remote: bool = False,
    ) -> None:
        """Listen.

        Args:
            host: a loopback address, or ``localhost`` for 127.0.0.1.
            port: TCP port, 0 for any free one.
            tls: serve TLS with this context.
            allow_remote: permit other addresses than loopback.

        Raises:
            AgentError: CONFIG_INVALID, not a loopback address, or already started.
            OSError: the address cannot be bound.
        """
        # T-DEV-6: a broker that believes sample evidence must not be reachable from outside by accident.
        local = _loopback(host)
        if not allow_remote and not local:
            raise AgentError(
                ErrorCode.CONFIG_INVALID, "the development KBS listens on loopback addresses only"
            )
        if self._runner is not None:
            raise AgentError(ErrorCode.CONFIG_INVALID, "the development KBS is already started")
        self.broker.admin_open = self._settings.admin and local
        runner = web.AppRunner(
            self._app(),
            access_log=None,
            shutdown_timeout=STOP_GRACE,
            max_line_size=HEAD_LIMIT,
            max_field_size=HEAD_LIMIT,
            handler_cancellation=True,
        )
        await runner.setup()
        try:
            self._listener = await self._listen(
                runner, "127.0.0.1" if host == "localhost" else host, port, tls
            )
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._announce(self._listener, secure=tls is not None)

    def _announce(self, listener: asyncio.Server, *, secure: bool) -> None:
        address, bound = listener.sockets[0].getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        self._url = f"{'https' if secure else 'http'}://{shown}:{bound}"
        policy = "Trustee's default policy" if self._settings.trustee_default_policy else "no policy"
        roots = "the vendors' roots" if self._settings.roots is VENDOR else "ROOTS OF ITS OWN CHOICE"
        log.warning(WARNING, policy, roots, extra={"address": self._url})

    async def _listen(
        self, runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None
    ) -> asyncio.Server:
        make = runner.server

        def accepted() -> asyncio.Protocol:
            if make is None:
                raise RuntimeError("set up before listening")
            self.counters.add("connections")
            return make()

        return await asyncio.get_running_loop().create_server(accepted, host, port, ssl=tls)

    async def stop(self) -> None:
        """Close the socket and every connection. Harmless when not started."""
        if self._listener is None or self._runner is None:
            return
        listener, runner = self._listener, self._runner
        self._listener = self._runner = None
        listener.close()
        await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start(port=self._port, tls=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- HTTP ----------------------------------------------------------------------------------

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=self._payload_limit)
        for method in ("GET", "POST", "PUT", "DELETE"):
            app.router.add_route(method, "/kbs/v0/{path:.*}", self._kbs)
        app.router.add_route("GET", "/healthz", self._healthz)
        app.router.add_route("GET", "/metrics", self._metrics)
        app.on_response_prepare.append(_strip)
        return app

    async def _healthz(self, _: web.Request) -> web.StreamResponse:
        return BareResponse()

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=self.counters.render())

    async def _kbs(self, request: web.Request) -> web.StreamResponse:
        call = _call(request, await request.read())
        agent = request.headers.get("User-Agent", "")
        self.seen.append(Seen(request.method, request.raw_path, bool(call.bearer), bool(call.cookie), agent))
        fault = self.faults.take(call.endpoint)
        if fault is not None:
            self.counters.add("faults")
            await self._before(fault)
        return await deliver(request, self.broker.answer(call, fault), fault)

    async def _before(self, fault: Fault) -> None:
        if fault.arrived is not None:
            fault.arrived.set()
        match fault.kind:
            case Kind.DELAY:
                await asyncio.sleep(fault.seconds)
            case Kind.HOLD if fault.gate is not None:
                await fault.gate.wait()
            case Kind.BLACK_HOLE:
                await asyncio.Event().wait()  # until the client or this server gives up
            case Kind.FORGET_SESSIONS:
                self.forget_sessions()
            case Kind.ROTATE_SIGNER:
                self.rotate_signer()
            case _:
                pass


def _call(request: web.Request, body: bytes) -> Call:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return Call(
        method=request.method,
        segments=tuple(request.match_info["path"].split("/")),
        query=dict(request.query),
        cookie=request.cookies.get(COOKIE, ""),
        bearer=token.strip() if scheme.lower() == "bearer" else "",
        body=body,
        origin="Origin" in request.headers,
    )
