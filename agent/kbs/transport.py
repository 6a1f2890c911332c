"""One HTTP exchange with the broker: what is wanted of an answer, and what a failure means.

Headers and connection rules: kbs_protocol.md 1.1 and 6. Knows nothing of the endpoints' meaning. Bodies,
cookies and tokens never reach a log or an error from here.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits, urls
from agent.errors import AgentError, ErrorCode
from agent.http.client.client import Client
from agent.http.client.exchange import REDIRECTS, HttpError, Repeat, Request, Response, Trouble, compressed
from agent.http.messages import Bounds
from agent.http.resolver import Resolver
from agent.http.tls import Trust
from agent.http.url import Url
from agent.kbs.progress import Phase
from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.config.model import Kbs
    from agent.http.messages import ResponseHead
    from agent.http.resolver import Lookup
    from agent.kbs.progress import Progress

USER_AGENT: Final = "attestation-agent-kbs-client/0.1.0"
"""What brokers' logs and rules know guests by (kbs_protocol.md 1.1)."""

BOUNDS: Final = Bounds(
    # T-KBS-65: the head is bounded before it is parsed.
    head=limits.KBS_MAX_HEAD,
    start=limits.KBS_MAX_HEAD,
    fields=limits.KBS_MAX_HEADERS,
    framing=limits.HTTP_FRAMING,
    interim=limits.HTTP_INTERIM,
)
"""Of the broker's answers, besides their bodies."""

_HEADERS: Final = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
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
    url: Url
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
        cookies: ``Set-Cookie`` lines, all of them.
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
        lookup: for names; the system's when there is none. Injected in tests.
        heard: told ``Date`` of each answer when its head has come, and the seconds it took.
        shown: told when the broker's certificate ends, as :func:`trust` says.
    """

    def __init__(
        self,
        settings: Kbs,
        lookup: Lookup | None = None,
        heard: Callable[[str, float], None] | None = None,
        shown: Callable[[float], None] | None = None,
    ) -> None:
        self._settings = settings
        self._lookup = lookup
        self._heard = heard
        self._shown = shown
        self._client: Client | None = None
        self._trust: Trust | None = None
        self._closed = False

    async def send(self, call: Call, progress: Progress) -> Answer:
        """One answer; a repeatable call goes out again as :func:`agent.http.client.exchange.again` says.

        Redirects are answers. The caller bounds the time; only connecting has its own limit here.

        Raises:
            AgentError: CONFIG_INVALID, KBS_DNS_FAILED, KBS_TLS_FAILED, KBS_NOT_TLS, KBS_UNREACHABLE,
                KBS_RESPONSE_TOO_LARGE, KBS_BAD_RESPONSE, GUEST_EXHAUSTED, CANCELLED (closed).
        """
        client = self._open()
        try:
            response = await client.send(self._request(call, progress), progress)
        except HttpError as error:
            raise explain(error, progress, call.endpoint) from None
        if response.status == 407 and self._settings.proxy:  # no broker asks for that
            raise AgentError(ErrorCode.KBS_UNREACHABLE, _proxy_refused(response.status))
        return _answer(response, call)

    async def close(self) -> None:
        """Drop all connections; what is under way fails. Safe to call twice."""
        self._closed = True
        if self._client is not None:
            await self._client.close()

    def _request(self, call: Call, progress: Progress) -> Request:
        def wanted(head: ResponseHead) -> int:
            progress.phase = Phase.BODY
            if self._heard is not None:
                took = asyncio.get_running_loop().time() - progress.sent
                self._heard(next(iter(head.headers.get("date", ())), ""), took)
            # T-KBS-66: nothing is decompressed, so an answer is never larger than what came over the wire.
            if head.status in REDIRECTS or compressed(head):
                return 0
            # T-KBS-67: counted while reading.
            return call.largest if head.status == 200 else limits.KBS_MAX_PROBLEM

        headers = dict(call.headers)
        if call.body is not None:
            headers.setdefault("Content-Type", "application/json")
        return Request(
            call.method,
            call.url,
            wanted,
            headers,
            call.body,
            Repeat.KEPT if call.repeatable else Repeat.NEVER,
            call.connect,
            self._trust,
        )

    def _open(self) -> Client:
        if self._closed:
            raise AgentError(ErrorCode.CANCELLED, "the agent is stopping")
        if self._client is None:
            # T-KBS-63: only the configured proxy; those of the environment are not measured.
            # T-KBS-64: no jar. The session id goes to /attest and nowhere else.
            self._client = Client(
                BOUNDS,
                limits.KBS_CONNECTIONS,
                _HEADERS,
                resolver=Resolver(self._lookup),
                proxy=proxy(self._settings),
            )
            self._trust = trust(self._settings, self._shown)
        return self._client


def proxy(settings: Kbs) -> Url | None:
    """The configured proxy.

    Raises:
        AgentError: CONFIG_INVALID.
    """
    if not settings.proxy:
        return None
    if wrong := urls.proxy_problem(settings.proxy):
        raise AgentError(ErrorCode.CONFIG_INVALID, f"the proxy's URL {wrong}")
    return Url.parse(settings.proxy, credentials=True)


def trust(settings: Kbs, shown: Callable[[float], None] | None = None) -> Trust | None:
    """The TLS settings for one broker; None when neither its URL nor its proxy's is https.

    An https proxy is checked by the same rules as the broker, so with pins its key must be pinned too.

    Args:
        settings: of one endpoint.
        shown: told after each good handshake when the broker's certificate ends, in seconds since the Unix
            epoch. A proxy's certificate is not told.
    """
    if not any((url or "").lower().startswith("https:") for url in (settings.url, settings.proxy)):
        return None
    told = None if shown is None else (urls.host(settings.url), shown)
    return Trust(settings.extra_roots, settings.pins, shown=told)


def _answer(response: Response, call: Call) -> Answer:
    media_type = response.first("content-type").partition(";")[0].strip().lower()
    if media_type and not _MEDIA_TYPE.fullmatch(media_type):
        media_type = "unreadable"
    cookies = tuple(response.head.headers.get("set-cookie", ()))
    date, later = response.first("date"), response.first("retry-after")
    if response.status in REDIRECTS:
        there = response.first("location")
        return Answer(response.status, media_type, b"", cookies, location=there, date=date)
    body = None if compressed(response.head) else response.body
    if response.status == 200 and body is None:
        where = f"/{call.endpoint} answered {response.status}, content type {media_type or 'none'}"
        if compressed(response.head):
            raise AgentError(ErrorCode.KBS_BAD_RESPONSE, f"{where}: compressed, which was not asked for")
        raise AgentError(ErrorCode.KBS_RESPONSE_TOO_LARGE, f"{where}: more than {call.largest} bytes")
    # Without a body it is some proxy's error page: its status says enough.
    return Answer(response.status, media_type, body or b"", cookies, date=date, retry_after=later)


_CODES: Final = {
    Trouble.REFUSED: ErrorCode.INTERNAL,
    Trouble.CLOSED: ErrorCode.CANCELLED,
    Trouble.NAME: ErrorCode.KBS_DNS_FAILED,
    Trouble.TLS: ErrorCode.KBS_TLS_FAILED,
    Trouble.PLAIN: ErrorCode.KBS_NOT_TLS,
    Trouble.FRAMING: ErrorCode.KBS_BAD_RESPONSE,
}
_LOST: Final = frozenset({Trouble.UNSENT, Trouble.SILENT})
_SAID: Final = {
    Trouble.CONNECT: "no connection",
    Trouble.PROXY: "the proxy cannot be reached",
    Trouble.FRAMING: "the answer is not HTTP as it should be",
}


def explain(error: HttpError, progress: Progress, endpoint: str) -> AgentError:
    """What a failure of the HTTP client means."""
    code, detail = _CODES.get(error.trouble, ErrorCode.KBS_UNREACHABLE), error.detail
    if error.exhausted:
        code = ErrorCode.GUEST_EXHAUSTED
    if error.trouble is Trouble.TIME:
        code = progress.phase.timeout(endpoint)
        detail = f"no connection in time, while {progress.phase.value}"
    elif error.trouble is Trouble.TUNNEL:
        detail = _proxy_refused(error.status)
    elif error.trouble is Trouble.BROKEN:
        detail = f"the broker's answer broke off ({detail})"
    elif error.trouble in _LOST:
        detail = f"connection lost while {progress.phase.value} ({detail})"
    elif error.trouble in _SAID:
        detail = f"{_SAID[error.trouble]}: {detail}"
    return AgentError(code, detail)


def _proxy_refused(status: int) -> str:
    if status == 407:
        return (
            "the proxy wants a user and a password, or refuses these (407): set kbs.proxy in agent.toml to "
            "http://user:password@host:port, with special characters percent-encoded"
        )
    return f"the proxy answered CONNECT with {status}"
