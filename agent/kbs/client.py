"""The broker's three endpoints over HTTP, within deadlines.

Endpoints, headers and the cookie: kbs_protocol.md 1.1, 1.5, 1.10 and 3.1.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.http import URL
from agent.kbs.problems import classify
from agent.kbs.transport import REDIRECTS, Answer, Call, Progress, Transport

if TYPE_CHECKING:
    from agent.clock import Clock, Deadline
    from agent.config.model import Kbs
    from agent.kbs.uri import ResourceUri
    from agent.observe.metrics import Metrics
    from agent.secret import Secret

COOKIE: Final = "kbs-session-id"

_BASE: Final = re.compile(
    r"https?://(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?",
    re.IGNORECASE | re.ASCII,
)
_LOCATION: Final = re.compile(r"[!-\[\]-~]{1,4096}", re.ASCII)  # printable, no backslash
_COOKIE_VALUE: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}", re.ASCII)  # Trustee: 32 hex digits


class KbsClient:
    """HTTP client of one configured broker. Opens nothing before the first request."""

    def __init__(self, settings: Kbs, clock: Clock, metrics: Metrics) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._transport = Transport(settings)
        self._slots = asyncio.Semaphore(limits.KBS_CONNECTIONS)

    async def auth(self, body: bytes, deadline: Deadline) -> tuple[bytes, str]:
        """``POST /auth``.

        Args:
            body: the Request, JSON.
            deadline: when the caller stops waiting.

        Returns:
            The challenge as received (at most ``limits.KBS_MAX_CHALLENGE`` bytes) and the value of the
            session cookie.

        Raises:
            AgentError: KBS_NOT_CONFIGURED, CONFIG_INVALID, KBS_TLS_REQUIRED; KBS_DNS_FAILED, KBS_TLS_FAILED,
                KBS_UNREACHABLE, KBS_REDIRECT_REFUSED, KBS_RESPONSE_TOO_LARGE, KBS_BAD_RESPONSE;
                DEADLINE_EXCEEDED; or what :func:`agent.kbs.problems.classify` says. The same for the others.
        """
        call = Call("auth", "POST", self._url("auth"), limits.KBS_MAX_CHALLENGE, body=body)
        answer = await self._exchange(call, deadline)
        return answer.body, session_cookie(answer.cookies)

    async def attest(self, body: bytes, cookie: str, deadline: Deadline) -> bytes:
        """``POST /attest`` in the session of ``cookie``; never sent twice (kbs_protocol.md 11.1).

        Returns:
            The token reply as received, at most ``limits.KBS_MAX_TOKEN`` bytes.
        """
        headers = {"Cookie": f"{COOKIE}={cookie}"}
        url = self._url("attest")
        call = Call("attest", "POST", url, limits.KBS_MAX_TOKEN, headers, body, repeatable=False)
        return (await self._exchange(call, deadline)).body

    async def get(self, uri: ResourceUri, jwt: Secret, deadline: Deadline) -> tuple[str, bytes]:
        """``GET`` a resource with a bearer token; path and query leave exactly as in ``uri``.

        Returns:
            The media type in lower case without parameters, empty when the broker names none, and the body
            as received (at most ``limits.KBS_MAX_RESOURCE`` bytes).
        """
        headers = {"Authorization": f"Bearer {jwt.reveal().decode('ascii')}"}
        call = Call("resource", "GET", self._url(uri.request_target), limits.KBS_MAX_RESOURCE, headers)
        answer = await self._exchange(call, deadline)
        return answer.media_type, answer.body

    async def close(self) -> None:
        """Drop all connections; what is under way fails. Safe to call twice."""
        await self._transport.close()

    def _url(self, target: str) -> URL:
        base = self._settings.url.rstrip("/")
        if not base:
            raise AgentError(ErrorCode.KBS_NOT_CONFIGURED)
        # T-KBS-68: no credentials, query, fragment or odd host, so what is appended is the path.
        if not _BASE.fullmatch(base):
            raise AgentError(ErrorCode.CONFIG_INVALID, "the broker's URL is not http(s)://host[:port][/path]")
        # T-KBS-69: a measured configuration can insist on an authenticated broker.
        if self._settings.require_tls and not base.lower().startswith("https:"):
            raise AgentError(ErrorCode.KBS_TLS_REQUIRED)
        try:
            # encoded: nothing is quoted again, so the broker gets what was checked.
            url = URL(f"{base}/kbs/v0/{target}", encoded=True)
            if "[" in base:
                ipaddress.IPv6Address(url.raw_host or "")
            if url.port:
                return url
        except ValueError:
            pass
        raise AgentError(ErrorCode.CONFIG_INVALID, "the broker's URL has a host or port that cannot be")

    async def _exchange(self, call: Call, deadline: Deadline) -> Answer:
        result = ErrorCode.CANCELLED.name
        try:
            answer = await self._timed(call, deadline)
            result = "ok"
            return answer
        except AgentError as error:
            result = error.code.name
            raise
        finally:
            self._metrics.kbs_request(call.endpoint, result)

    async def _timed(self, call: Call, deadline: Deadline) -> Answer:
        """The caller's deadline covers the wait for a slot; our own limit is for the exchange alone."""
        progress = Progress()
        left, own = deadline.remaining(), self._settings.request_timeout
        try:
            async with asyncio.timeout(None if math.isinf(left) else left), self._slots:
                try:
                    async with asyncio.timeout(own):
                        return await self._follow(call, progress)
                except TimeoutError:
                    detail = f"/{call.endpoint} took more than {own:g} s; it ended while {progress.phase}"
                    raise AgentError(ErrorCode.KBS_UNREACHABLE, detail) from None
        except TimeoutError:
            detail = f"time ran out while {progress.phase} (/{call.endpoint})"
            raise AgentError(ErrorCode.DEADLINE_EXCEEDED, detail) from None

    async def _follow(self, call: Call, progress: Progress) -> Answer:
        answer = await self._transport.send(call, progress)
        if answer.status in REDIRECTS:
            # T-KBS-70: a token never goes to a scheme, host or port that the configuration does not name.
            target = same_origin(call.url, answer.location)
            if call.method != "GET" or target is None:
                raise AgentError(ErrorCode.KBS_REDIRECT_REFUSED, f"/{call.endpoint} answered {answer.status}")
            answer = await self._transport.send(replace(call, url=target), progress)
        if answer.status != 200:  # a second redirect is refused there
            raise classify(call.endpoint, answer.status, answer.body)
        return answer


def session_cookie(lines: tuple[str, ...]) -> str:
    """The session id in ``Set-Cookie`` lines; its attributes do not matter (kbs_protocol.md 1.5).

    Raises:
        AgentError: KBS_BAD_RESPONSE, none that is usable.
    """
    for line in reversed(lines):
        name, _, value = line.partition(";")[0].partition("=")
        # T-KBS-71: it is sent back in a head line, so only short and harmless values are believed.
        if name.strip() == COOKIE and _COOKIE_VALUE.fullmatch(value.strip()):
            return value.strip()
    raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "/auth gave no usable session cookie")


def same_origin(url: URL, location: str) -> URL | None:
    """Where a redirect leads, when that has the scheme, host and port of ``url``."""
    if not _LOCATION.fullmatch(location):
        return None
    try:
        target = url.join(URL(location, encoded=True))
        if _origin(target) != _origin(url) or target.raw_user or target.raw_password:
            return None
    except ValueError:
        return None
    return target


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, (url.raw_host or "").lower(), url.port
