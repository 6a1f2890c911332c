"""HTTP to key management services: whom credentials may be sent to, and what comes back within bounds."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from agent.config import limits, pem, urls
from agent.errors import AgentError, ErrorCode
from agent.http import URL, aiohttp
from agent.kbs import tls
from agent.kbs.transport import EXHAUSTED, REDIRECTS, system_reason, tls_reason
from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.config.model import Kms
    from agent.secret import Secret

METADATA: Final = frozenset({"http://100.100.100.200", "http://169.254.169.254"})
"""Where clouds answer their own machines about themselves (Alibaba; AWS, Azure and Google), without TLS."""

_CONNECTIONS: Final = 16
_CHUNK: Final = 64 * limits.KIB
_MAX_HEAD: Final = 16 * limits.KIB
_MAX_HEADERS: Final = 100
_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(r"https?://[!-~]{1,8192}", re.ASCII)
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?|", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


class KmsAnswer(msgspec.Struct, frozen=True):
    """What a service answered.

    Attributes:
        status: HTTP status; never a redirect.
        body: at most ``limits.KMS_MAX_ANSWER`` bytes.
        retry_after: seconds the service asks to wait, when it does.
    """

    status: int
    body: bytes
    retry_after: float | None = None

    def __repr__(self) -> str:
        return without(self, "body")


class _Request(msgspec.Struct, frozen=True):
    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes
    trust: ssl.SSLContext | None

    def __repr__(self) -> str:
        return without(self, "headers", "body")

    @property
    def host(self) -> str:
        return self.url.host or ""


class KmsHttp:
    """One pool of connections for all backends. Opens nothing before the first request.

    Redirects are not followed, cookies not kept, and no proxy is used: nothing of the environment counts.
    """

    def __init__(self, settings: Kms, *, routes: Mapping[str, tuple[str, int]] | None = None) -> None:
        """Prepare.

        Args:
            settings: addresses that credentials may go to, roots besides the system's, seconds for one
                exchange.
            routes: for tests: host name to the loopback address that plays it. TLS, ``Host`` and signatures
                stay those of the name.
        """
        self._settings = settings
        self._routes = dict(routes or {})
        self._session: aiohttp.ClientSession | None = None
        self._trust: ssl.SSLContext | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    def allowed(self, url: str) -> str:
        """``url`` without trailing slashes, if it is one of ``kms.endpoints`` or beneath one.

        For services whose address is in the secret.

        Raises:
            AgentError: KMS_ENDPOINT_REFUSED; the detail does not repeat the address.
        """
        # T-KMS-1: whoever writes a secret or an annotation names the service. Credentials go only where the
        # measured configuration says, compared in parts: "https://vault.example" is no prefix of
        # "https://vault.example.attacker".
        if not urls.problem(url):
            base = url.rstrip("/")
            wanted, path = _origin(base), _segments(base)
            for endpoint in self._settings.endpoints:
                below = _segments(endpoint)
                plain = not any(part in {".", ".."} or "%" in part for part in path)
                if wanted == _origin(endpoint) and plain and path[: len(below)] == below:
                    return base
        raise AgentError(
            ErrorCode.KMS_ENDPOINT_REFUSED,
            "the service's address is not one of kms.endpoints, nor beneath one",
        )

    async def trust(self, roots: str = "", identity: Secret | None = None) -> ssl.SSLContext:
        """TLS settings for ``send``, for a service that needs its own; to be kept, as connections hang on it.

        Args:
            roots: PEM certificates trusted besides the system's and the configured ones.
            identity: PEM of a client certificate, what is to be sent along with it, and its private key.

        Raises:
            AgentError: CONFIG_INVALID, KMS_CREDENTIALS_INVALID (``roots`` or ``identity`` cannot be read).
        """
        return await asyncio.to_thread(_context, self._settings.extra_roots, roots, identity)

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        deadline: Deadline,
        *,
        trust: ssl.SSLContext | None = None,
    ) -> KmsAnswer:
        """One exchange; once more when the service had closed a kept connection.

        Args:
            method: HTTP method.
            url: sent as it is, so percent-encoded by the caller; of :meth:`allowed`, :func:`cloud_host` or
                :data:`METADATA`.
            headers: ``Host`` is added. Sent as they are.
            body: may be empty.
            deadline: ends the exchange, if ``kms.timeout`` does not.
            trust: of :meth:`trust`; the usual one when there is none.

        Raises:
            AgentError: KMS_UNREACHABLE, KMS_TIMEOUT, KMS_BAD_RESPONSE, KMS_ENDPOINT_REFUSED (no TLS),
                KMS_CREDENTIALS_INVALID (a header that cannot be sent), CONFIG_INVALID (kms.cert),
                GUEST_EXHAUSTED, CANCELLED (closed).
        """
        request = _Request(method, self._checked(url, headers), headers, body, trust)
        host = request.host
        limit = deadline.within(self._settings.timeout)
        try:
            async with limit.limit(f"waiting for {host}"):
                return await self._exchange(request)
        except (aiohttp.ClientError, OSError) as error:
            raise _explain(error, host) from None
        except AgentError as error:
            if error.code is ErrorCode.DEADLINE_EXCEEDED:
                raise AgentError(ErrorCode.KMS_TIMEOUT, error.detail) from None
            raise

    async def close(self) -> None:
        """Drop all connections; what is under way fails. Safe to call twice."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _checked(self, url: str, headers: Mapping[str, str]) -> URL:
        if not _URL.fullmatch(url):
            raise AgentError(ErrorCode.KMS_SETTINGS_INVALID, "the service's address has characters of no URL")
        # T-KMS-2: credentials and plaintext travel by TLS. Without it only to this machine, where the
        # configuration says so, and to a cloud's own address for its machines, which gets no secret.
        origin = _origin(url)
        named = {_origin(endpoint) for endpoint in self._settings.endpoints}
        metadata = {_origin(address) for address in METADATA}
        if origin[0] != "https" and not (origin in metadata or (origin in named and urls.is_loopback(url))):
            raise AgentError(ErrorCode.KMS_ENDPOINT_REFUSED, "the service's address is without TLS")
        # T-KMS-3: values come from credentials files; a line break in one would begin a header of its own.
        for name, value in headers.items():
            if not _VALUE.fullmatch(value):
                raise AgentError(
                    ErrorCode.KMS_CREDENTIALS_INVALID,
                    f"header {name} cannot be sent: control characters, white space at an end, or not ASCII",
                )
        try:
            return URL(url, encoded=True)
        except ValueError:
            raise AgentError(ErrorCode.KMS_SETTINGS_INVALID, "the service's address is no URL") from None

    async def _exchange(self, request: _Request) -> KmsAnswer:
        session = await self._open()
        try:
            return await self._once(session, request)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # Every exchange with these services can be repeated.
            if self._closed or isinstance(error, aiohttp.ClientConnectorError):
                raise
        return await self._once(session, request)

    async def _once(self, session: aiohttp.ClientSession, request: _Request) -> KmsAnswer:
        url, host = request.url, request.host
        route = self._routes.get(host)
        named = host if route is not None and url.scheme == "https" else None
        context = request.trust if request.trust is not None else self._trust
        async with session.request(
            request.method,
            url if route is None else url.with_host(route[0]).with_port(route[1]),
            data=request.body or None,
            headers={"Host": url.host_port_subcomponent or host, **request.headers},
            allow_redirects=False,
            ssl=context if context is not None else True,
            server_hostname=named,
        ) as response:
            try:
                return await _read(response, host)
            except AgentError:
                response.close()  # the rest is not wanted: the connection goes with it
                raise

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None and not self._closed:
                self._trust = await self.trust()
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=_CONNECTIONS, use_dns_cache=False),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"User-Agent": "coco-agent", "Accept-Encoding": "identity"},
                    auto_decompress=False,
                    # T-KMS-4: proxies, netrc and credentials of the environment are not measured.
                    trust_env=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                    max_line_size=_MAX_HEAD,
                    max_field_size=_MAX_HEAD,
                    max_headers=_MAX_HEADERS,
                )
            if self._closed or self._session is None:
                raise AgentError(ErrorCode.CANCELLED, "the agent is stopping")
            return self._session


def cloud_host(template: str, value: str, pattern: re.Pattern[str], what: str) -> str:
    """``https://`` and a cloud's host name.

    Args:
        template: ``kms.{}.amazonaws.com``.
        value: stands for ``{}``; comes from outside.
        pattern: what ``value`` must match as a whole; without dots, slashes and the like.
        what: names ``value`` in the error, as ``region``.

    Raises:
        AgentError: KMS_SETTINGS_INVALID.
    """
    # T-KMS-5: "x.attacker.example/?" as a region must not make another host.
    if not pattern.fullmatch(value):
        raise AgentError(ErrorCode.KMS_SETTINGS_INVALID, f"{what} is not written as one is")
    return "https://" + template.format(value)


def refusal(answer: KmsAnswer, service: str, detail: str = "") -> AgentError:
    """What an answer's status means, for services whose statuses say enough.

    Args:
        answer: any but a good one.
        service: names it.
        detail: more of what the service said, from a closed list: never its own text.
    """
    codes = {
        401: ErrorCode.KMS_DENIED,
        403: ErrorCode.KMS_DENIED,
        404: ErrorCode.KMS_NOT_FOUND,
        408: ErrorCode.KMS_BUSY,
        429: ErrorCode.KMS_BUSY,
    }
    code = codes.get(answer.status, ErrorCode.KMS_BAD_RESPONSE)
    if answer.status >= 500:
        code = ErrorCode.KMS_BUSY
    said = f": {detail}" if detail else ""
    return AgentError(code, f"{service} answered {answer.status}{said}", retry_after=answer.retry_after)


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", "", 0
    return parts.scheme, (parts.hostname or "").removesuffix("."), port


def _segments(url: str) -> list[str]:
    return [part for part in urlsplit(url).path.split("/") if part]


def _context(configured: str, roots: str, identity: Secret | None) -> ssl.SSLContext:
    made = tls.trusting(configured)
    if roots:
        try:
            pem.anchor(made, roots)
        except ValueError:
            raise _unreadable("the service's CA is not PEM certificates") from None
    if identity is not None:
        _identify(made, identity)
    return made


def _identify(made: ssl.SSLContext, identity: Secret) -> None:
    # The ssl module reads keys from files only; this one is in no folder and ends with its descriptor.
    descriptor = os.memfd_create("kms-identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem.identity(identity.reveal()))
        made.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    except (ssl.SSLError, OSError, ValueError):
        raise _unreadable(
            "the client certificate and its key are not PEM, or do not belong together"
        ) from None
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _no_password() -> str:
    """Without this OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted")


def _unreadable(reason: str) -> AgentError:
    return AgentError(ErrorCode.KMS_CREDENTIALS_INVALID, reason)


async def _read(response: aiohttp.ClientResponse, host: str) -> KmsAnswer:
    code, where = ErrorCode.KMS_BAD_RESPONSE, f"{host} answered {response.status}"
    if response.status in REDIRECTS:
        # T-KMS-6: a redirect would carry credentials to whom nobody vouched for.
        raise AgentError(code, f"{where}: redirects are not followed")
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise AgentError(code, f"{where}: compressed, which was not asked for")
    # T-KMS-7: counted while reading; Content-Length only spares us the beginning.
    body = bytearray()
    largest = limits.KMS_MAX_ANSWER
    if (response.content_length or 0) <= largest:
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > largest:
                break
        else:
            later = response.headers.get("Retry-After", "").strip()
            return KmsAnswer(
                response.status, bytes(body), float(later) if _SECONDS.fullmatch(later) else None
            )
    raise AgentError(code, f"{where}: more than {largest} bytes")


def _explain(error: aiohttp.ClientError | OSError, host: str) -> AgentError:
    """What a failure of the HTTP library means; its own text is dropped, since it can quote the peer."""
    code, kind = ErrorCode.KMS_UNREACHABLE, type(error).__name__
    if reason := tls_reason(error):
        return AgentError(code, f"{host}: {reason}")
    if isinstance(error, aiohttp.ClientConnectorError):
        if error.os_error.errno in EXHAUSTED:
            code = ErrorCode.GUEST_EXHAUSTED
        return AgentError(code, f"{host}: no connection: {system_reason(error.os_error)}")
    if isinstance(error, aiohttp.ClientPayloadError):
        return AgentError(ErrorCode.KMS_BAD_RESPONSE, f"{host}: the answer broke off")
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return AgentError(code, f"{host}: connection lost ({kind})")
    return AgentError(ErrorCode.KMS_BAD_RESPONSE, f"{host}: the answer is not HTTP as it should be ({kind})")
