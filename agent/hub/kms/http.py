"""HTTP to key management services: whom credentials may be sent to, and what comes back within bounds."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits, pem, urls
from agent.errors import AgentError, ErrorCode
from agent.http.client.client import Client
from agent.http.client.exchange import (
    REDIRECTS,
    UNWATCHED,
    HttpError,
    Repeat,
    Request,
    Response,
    Trouble,
    compressed,
)
from agent.http.messages import Bounds
from agent.http.resolver import Resolver, literal
from agent.http.tls import Trust, anchors
from agent.http.url import Url
from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.clock import Deadline
    from agent.config.model import Kms
    from agent.http.client.exchange import Steps
    from agent.http.messages import ResponseHead
    from agent.http.resolver import Address
    from agent.secret import Secret

METADATA: Final = frozenset({"http://100.100.100.200", "http://169.254.169.254"})
"""Where clouds answer their own machines about themselves (Alibaba; AWS, Azure and Google), without TLS."""

_BOUNDS: Final = Bounds(
    head=limits.KMS_MAX_HEAD,
    start=limits.KMS_MAX_HEAD,
    fields=limits.KMS_MAX_HEADERS,
    framing=limits.HTTP_FRAMING,
    interim=limits.HTTP_INTERIM,
)
_HEADERS: Final = {"User-Agent": "coco-agent", "Accept": "*/*", "Accept-Encoding": "identity"}
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


class _Routed(Resolver):
    """Names that a test's own servers play."""

    def __init__(self, routes: Mapping[str, tuple[str, int]]) -> None:
        super().__init__()
        self._routes = routes

    async def addresses(self, host: str, port: int, steps: Steps = UNWATCHED) -> Sequence[Address]:
        """The route's address, or the name's own."""
        known = literal(*self._routes[host]) if host in self._routes else None
        return (known,) if known is not None else await super().addresses(host, port, steps)


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
        # T-KMS-4: proxies, netrc and credentials of the environment are not measured: none is used.
        self._client = Client(
            _BOUNDS, limits.KMS_CONNECTIONS, _HEADERS, resolver=_Routed(routes) if routes else None
        )
        self._slots = asyncio.Semaphore(limits.KMS_CONNECTIONS)
        self._trust = Trust(settings.extra_roots)

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

    async def trust(self, roots: str = "", identity: Secret | None = None) -> Trust:
        """TLS settings for ``send``, for a service that needs its own; to be kept, as connections hang on it.

        Args:
            roots: PEM certificates trusted besides the system's and the configured ones.
            identity: PEM of a client certificate, what is to be sent along with it, and its private key.

        Raises:
            AgentError: CONFIG_INVALID, KMS_CREDENTIALS_INVALID (``roots`` or ``identity`` cannot be read).
        """
        try:
            made = Trust(
                "\n".join((self._settings.extra_roots, *(anchors(roots) if roots else ()))),
                adjust=None if identity is None else partial(_identify, identity),
            )
            await made.ready()
        except AgentError as error:
            if roots and error.code is ErrorCode.CONFIG_INVALID:
                await self._trust.ready()  # the same for the configured ones: is it them?
                raise _unreadable("the service's CA is not PEM certificates") from None
            raise
        return made

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        deadline: Deadline,
        *,
        trust: Trust | None = None,
    ) -> KmsAnswer:
        """One exchange; once more when a connection ended before an answer: all of these can be repeated.

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
        target = self._checked(url, headers)
        host = target.host
        limit = deadline.within(self._settings.timeout)
        request = Request(
            method,
            target,
            _wanted,
            headers,
            body or None,
            Repeat.LOST,
            self._settings.timeout,
            trust if trust is not None else self._trust,
        )
        try:
            async with limit.limit(f"waiting for {host}"), self._slots:
                return _answer(await self._client.send(request), host)
        except HttpError as error:
            raise _explain(error, host) from None
        except AgentError as error:
            if error.code is ErrorCode.DEADLINE_EXCEEDED:
                raise AgentError(ErrorCode.KMS_TIMEOUT, error.detail) from None
            raise

    async def close(self) -> None:
        """Drop all connections; what is under way fails. Safe to call twice."""
        await self._client.close()

    def _checked(self, url: str, headers: Mapping[str, str]) -> Url:
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
            return Url.parse(url)
        except ValueError:
            raise AgentError(ErrorCode.KMS_SETTINGS_INVALID, "the service's address is no URL") from None


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
        return Url.parse(url).origin
    except ValueError:
        return "", "", 0


def _segments(url: str) -> list[str]:
    return [part for part in Url.parse(url).target.partition("?")[0].split("/") if part]


def _identify(identity: Secret, made: ssl.SSLContext) -> None:
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


def _wanted(head: ResponseHead) -> int:
    # T-KMS-7: counted while reading; nothing is decompressed.
    return 0 if head.status in REDIRECTS or compressed(head) else limits.KMS_MAX_ANSWER


def _answer(response: Response, host: str) -> KmsAnswer:
    code, where = ErrorCode.KMS_BAD_RESPONSE, f"{host} answered {response.status}"
    if response.status in REDIRECTS:
        # T-KMS-6: a redirect would carry credentials to whom nobody vouched for.
        raise AgentError(code, f"{where}: redirects are not followed")
    if compressed(response.head):
        raise AgentError(code, f"{where}: compressed, which was not asked for")
    if response.body is None:
        raise AgentError(code, f"{where}: more than {limits.KMS_MAX_ANSWER} bytes")
    later = response.first("retry-after")
    return KmsAnswer(response.status, response.body, float(later) if _SECONDS.fullmatch(later) else None)


def _explain(error: HttpError, host: str) -> AgentError:
    """What a failure of the HTTP client means."""
    codes = {
        Trouble.FRAMING: ErrorCode.KMS_BAD_RESPONSE,
        Trouble.BROKEN: ErrorCode.KMS_BAD_RESPONSE,
        Trouble.REFUSED: ErrorCode.KMS_SETTINGS_INVALID,
    }
    code = codes.get(error.trouble, ErrorCode.KMS_UNREACHABLE)
    if error.trouble is Trouble.CLOSED:
        return AgentError(ErrorCode.CANCELLED, "the agent is stopping")
    if error.exhausted:
        code = ErrorCode.GUEST_EXHAUSTED
    detail = error.detail.removeprefix(f"{host}: ")
    if error.trouble in {Trouble.TLS, Trouble.PLAIN}:
        return AgentError(code, f"{host}: {detail}")
    return AgentError(code, f"{host}: {error.trouble.value} ({detail})")
