"""One HTTP exchange with the broker: connections, bounds, and what their failures mean.

Headers and connection rules: kbs_protocol.md 1.1 and 6. Knows nothing of the endpoints' meaning. Bodies,
cookies and tokens never reach a log or an error from here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import ssl
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits, urls
from agent.errors import AgentError, ErrorCode
from agent.http import URL, aiohttp
from agent.kbs import tls
from agent.kbs.progress import Phase, Progress
from agent.kbs.resolver import Resolver
from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import SimpleNamespace

    from agent.config.model import Kbs

USER_AGENT: Final = "attestation-agent-kbs-client/0.1.0"
"""What brokers' logs and rules know guests by (kbs_protocol.md 1.1)."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the kernel says when this guest, not its peer, has nothing left."""

_CHUNK: Final = 64 * limits.KIB
_MAX_COOKIES: Final = 8
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}", re.ASCII)


class Call(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        endpoint: ``auth``, ``attest`` or ``resource``; for errors and metrics.
        method: ``GET`` or ``POST``.
        url: sent as it is.
        largest: bytes of a good answer.
        headers: besides those every request has.
        body: JSON unless ``headers`` name another type; or None.
        repeatable: may be sent again when a kept connection was closed under it.
        connect: seconds for connection set-up.
    """

    endpoint: str
    method: str
    url: URL
    largest: int
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes | None = None
    repeatable: bool = True
    connect: float = limits.KBS_CONNECT

    def __repr__(self) -> str:
        return without(self, "headers", "body")


class Answer(msgspec.Struct, frozen=True):
    """One answer within its bounds.

    Attributes:
        status: HTTP status.
        media_type: lower case, without parameters; empty when there is none.
        body: as received; empty for redirects and for error pages above ``limits.KBS_MAX_PROBLEM``.
        cookies: ``Set-Cookie`` lines.
        location: ``Location`` of a redirect.
        date: ``Date``, as sent.
        retry_after: ``Retry-After``, as sent.
    """

    status: int
    media_type: str
    body: bytes
    cookies: tuple[str, ...] = ()
    location: str = ""
    date: str = ""
    retry_after: str = ""

    def __repr__(self) -> str:
        return without(self, "body", "cookies")


class Transport:
    """Keep-alive connections to one broker. Opens nothing before the first request.

    Args:
        settings: of one endpoint.
        resolver: for names; the system's when there is none. Injected in tests.
        heard: told ``Date`` of each answer when its head has come, and the seconds it took.
        shown: told when the broker's certificate ends, as :func:`agent.kbs.tls.context` does.
    """

    def __init__(
        self,
        settings: Kbs,
        resolver: aiohttp.abc.AbstractResolver | None = None,
        heard: Callable[[str, float], None] | None = None,
        shown: Callable[[float], None] | None = None,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._heard = heard
        self._shown = shown
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def send(self, call: Call, progress: Progress) -> Answer:
        """One answer; a repeatable call goes out again when the broker had closed a kept connection.

        Redirects are answers. The caller bounds the time; only connecting has its own limit here.

        Raises:
            AgentError: CONFIG_INVALID, KBS_DNS_FAILED, KBS_TLS_FAILED, KBS_UNREACHABLE,
                KBS_RESPONSE_TOO_LARGE, KBS_BAD_RESPONSE, CANCELLED (closed).
        """
        try:
            return await self._send(call, progress)
        except (aiohttp.ClientError, OSError) as error:
            if not (call.repeatable and progress.reused and _closed_early(error)):
                raise explain(error, progress, call.endpoint) from None
        try:
            return await self._send(call, progress)
        except (aiohttp.ClientError, OSError) as error:
            raise explain(error, progress, call.endpoint) from None

    async def close(self) -> None:
        """Drop all connections; what is under way fails. Safe to call twice."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send(self, call: Call, progress: Progress) -> Answer:
        session = await self._open()
        headers = dict(call.headers)
        if call.body is not None:
            headers.setdefault("Content-Type", "application/json")
        async with session.request(
            call.method,
            call.url,
            data=call.body,
            headers=headers,
            proxy=self._settings.proxy,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=call.connect),
            trace_request_ctx=progress,
        ) as response:
            progress.phase = Phase.BODY
            if self._heard is not None:
                took = asyncio.get_running_loop().time() - progress.sent
                self._heard(response.headers.get("Date", ""), took)
            try:
                return await _read(response, call)
            except AgentError:
                response.close()  # the rest is not wanted: the connection goes with it
                raise

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None and not self._closed:
                # T-KBS-63: only the configured proxy; environment and netrc (trust_env) are not measured.
                if self._settings.proxy and (wrong := urls.proxy_problem(self._settings.proxy)):
                    raise AgentError(ErrorCode.CONFIG_INVALID, f"the proxy's URL {wrong}")
                trust = await asyncio.to_thread(tls.context, self._settings, self._shown)
                self._session = self._new_session(trust)
            if self._closed or self._session is None:
                raise AgentError(ErrorCode.CANCELLED, "the agent is stopping")
            return self._session

    def _new_session(self, trust: ssl.SSLContext | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # Callers queue before they come here: in the connector their wait would count as connecting.
            connector=aiohttp.TCPConnector(
                ssl=trust or True, limit=0, resolver=Resolver(self._resolver), use_dns_cache=False
            ),
            # T-KBS-64: no jar. The session id goes to /attest and nowhere else.
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
            # T-KBS-65: the head is bounded before it is parsed.
            max_line_size=limits.KBS_MAX_HEAD,
            max_field_size=limits.KBS_MAX_HEAD,
            max_headers=limits.KBS_MAX_HEADERS,
            trace_configs=[_tracing()],
        )


async def _read(response: aiohttp.ClientResponse, call: Call) -> Answer:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type and not _MEDIA_TYPE.fullmatch(media_type):
        media_type = "unreadable"
    where = f"/{call.endpoint} answered {response.status}, content type {media_type or 'none'}"
    if response.status in REDIRECTS:
        response.close()
        return Answer(response.status, media_type, b"", location=response.headers.get("Location", ""))
    good = response.status == 200
    # T-KBS-66: nothing is decompressed, so an answer is never larger than what came over the wire.
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        if good:
            raise AgentError(ErrorCode.KBS_BAD_RESPONSE, f"{where}: compressed, which was not asked for")
        body = None
    else:
        body = await _bounded(response, call.largest if good else limits.KBS_MAX_PROBLEM)
    if body is None:
        if good:
            raise AgentError(ErrorCode.KBS_RESPONSE_TOO_LARGE, f"{where}: more than {call.largest} bytes")
        response.close()  # some proxy's error page: its status says enough
    cookies = tuple(response.headers.getall("Set-Cookie", [])[:_MAX_COOKIES])
    date, later = (response.headers.get(name, "") for name in ("Date", "Retry-After"))
    return Answer(response.status, media_type, body or b"", cookies, date=date, retry_after=later)


async def _bounded(response: aiohttp.ClientResponse, largest: int) -> bytes | None:
    # T-KBS-67: counted while reading; Content-Length only spares us the beginning.
    if (response.content_length or 0) > largest:
        return None
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        size += len(chunk)
        if size > largest:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def explain(error: aiohttp.ClientError | OSError, progress: Progress, endpoint: str) -> AgentError:
    """What a failure of the HTTP library means; its own text is dropped, since it can quote the peer."""
    code, kind = ErrorCode.KBS_UNREACHABLE, type(error).__name__
    if reason := tls_reason(error):
        code, detail = ErrorCode.KBS_TLS_FAILED, reason
    elif isinstance(error, aiohttp.ClientConnectorError):
        code, detail = _not_connected(error)
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        detail = f"the proxy answered CONNECT with {error.status}"
    elif isinstance(error, TimeoutError):
        code, detail = (
            progress.phase.timeout(endpoint),
            f"no connection in time, while {progress.phase.value}",
        )
    elif isinstance(error, aiohttp.ClientPayloadError):
        detail = "the broker's answer broke off"
    elif isinstance(error, aiohttp.ClientConnectionError | OSError):
        detail = f"connection lost while {progress.phase.value} ({kind})"
    elif isinstance(error, aiohttp.InvalidURL):
        code, detail = ErrorCode.CONFIG_INVALID, "the broker's URL is not one"
    else:
        code, detail = ErrorCode.KBS_BAD_RESPONSE, f"the answer is not HTTP as it should be ({kind})"
    return AgentError(code, detail)


def _not_connected(error: aiohttp.ClientConnectorError) -> tuple[ErrorCode, str]:
    reason = system_reason(error.os_error)
    if error.os_error.errno in EXHAUSTED:
        return ErrorCode.GUEST_EXHAUSTED, f"no connection: {reason}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ErrorCode.KBS_DNS_FAILED, f"{error.host}: {reason}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return ErrorCode.KBS_UNREACHABLE, f"the proxy cannot be reached: {reason}"
    return ErrorCode.KBS_UNREACHABLE, f"no connection: {reason}"


def _closed_early(error: Exception) -> bool:
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)


def tls_reason(error: BaseException) -> str:
    """What TLS had against the peer, without any of its data; empty when it was not TLS."""
    found = next(
        (
            cause
            for cause in (
                getattr(error, "certificate_error", None),
                getattr(error, "os_error", None),
                error,
                error.__cause__,
            )
            if isinstance(cause, ssl.SSLError)
        ),
        None,
    )
    if found is None or isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ""
    told = getattr(found, "verify_message", None) or getattr(found, "reason", None) or found.strerror
    return f"TLS: {told or type(found).__name__}"


def system_reason(error: OSError) -> str:
    """The kernel's or the resolver's words."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__


def _tracing() -> aiohttp.TraceConfig:
    """Notes in the request's :class:`Progress` what it waits for."""

    def note(phase: Phase, *, reused: bool) -> Callable[..., Awaitable[None]]:
        async def noted(_session: object, context: SimpleNamespace, _params: object) -> None:
            progress = context.trace_request_ctx
            if isinstance(progress, Progress):
                progress.phase, progress.reused = phase, reused
                progress.sent = asyncio.get_running_loop().time()

        return noted

    config = aiohttp.TraceConfig()
    config.on_connection_create_start.append(note(Phase.CONNECT, reused=False))
    config.on_connection_create_end.append(note(Phase.ANSWER, reused=False))
    config.on_connection_reuseconn.append(note(Phase.ANSWER, reused=True))
    return config
