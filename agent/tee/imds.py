"""Azure's instance metadata service (attesters.md 5.2). Blocking."""

from __future__ import annotations

import base64
import binascii
import http.client
import time
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from agent.config import limits, urls
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import certs

if TYPE_CHECKING:
    import socket

    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

T = TypeVar("T")

CERTIFICATION: Final = "/metadata/THIM/amd/certification"
TD_QUOTE: Final = "/acc/tdquote"

_TRIES: Final = 3
_PAUSE: Final = 0.2
_LATER: Final = frozenset({408, 429, 500, 502, 503, 504})


class _Certification(msgspec.Struct, rename="camel"):
    vcek_cert: str


class _TdQuote(msgspec.Struct):
    quote: str


def vcek(settings: Settings, deadline: Deadline) -> bytes:
    """The certificate of this machine's SNP signing key, DER.

    Raises:
        AgentError: QUOTE_SERVICE_UNREACHABLE, CONFIG_INVALID (the URL).
    """
    service = _Service(settings, deadline)
    status, body = service.ask("GET", CERTIFICATION)
    document = service.understood(_Certification, CERTIFICATION, status, body)
    try:
        return certs.der(certs.load_pem_chain(document.vcek_cert.encode())[0])
    except (AgentError, IndexError):
        raise service.wrong(CERTIFICATION, "vcekCert holds no certificate") from None


def td_quote(settings: Settings, tdreport: bytes, deadline: Deadline) -> bytes:
    """The TD quote made from a TDREPORT.

    The report goes out in standard base64; a service that refuses that gets it in base64url without padding,
    as Azure's own library does.

    Raises:
        AgentError: as :func:`vcek`.
    """
    service = _Service(settings, deadline)
    spellings = (
        base64.b64encode(tdreport).decode(),
        base64.urlsafe_b64encode(tdreport).decode().rstrip("="),
    )
    status, body = 0, b""
    for text in spellings:
        status, body = service.ask("POST", TD_QUOTE, msgspec.json.encode({"report": text}))
        if not 400 <= status < 500:
            break
    document = service.understood(_TdQuote, TD_QUOTE, status, body)
    try:
        plain = document.quote.rstrip("=").translate(str.maketrans("-_", "+/"))
        quote = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        quote = b""
    if not quote:
        raise service.wrong(TD_QUOTE, "quote is not base64")
    return quote


class _Service:
    """One base URL. Proxies and redirects are not followed: the address is the host's own."""

    def __init__(self, settings: Settings, deadline: Deadline) -> None:
        self._deadline = deadline
        self._url = settings.imds_url.rstrip("/")
        if wrong := urls.plain_problem(self._url):
            raise AgentError(ErrorCode.CONFIG_INVALID, f"attester.imds_url {wrong}")
        parts = urlsplit(self._url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body; a failure that passes is tried again.

        Raises:
            AgentError: QUOTE_SERVICE_UNREACHABLE.
        """
        for last in (*(False,) * (_TRIES - 1), True):
            try:
                status, answer = self._once(method, path, body)
                if status not in _LATER or last:
                    return status, answer
            except (OSError, http.client.HTTPException) as error:
                if last or self._deadline.remaining() <= _PAUSE:
                    raise self._unreachable(path, error) from None
            time.sleep(min(_PAUSE, self._deadline.remaining()))
        raise AssertionError

    def understood(self, kind: type[T], path: str, status: int, body: bytes) -> T:
        """The answer's document.

        Raises:
            AgentError: QUOTE_SERVICE_UNREACHABLE.
        """
        if status != http.client.OK:
            raise self.wrong(path, f"status {status}")
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            raise self.wrong(path, "the answer is not the JSON it should be") from None

    def wrong(self, path: str, reason: str) -> AgentError:
        """An answer that cannot be used."""
        return AgentError(ErrorCode.QUOTE_SERVICE_UNREACHABLE, f"{self._url}{path}: {reason}")

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        limited = self._deadline.within(limits.IMDS_REQUEST)
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_left(limited))
        try:
            headers = {"Metadata": "true", "Accept": "application/json", "Connection": "close"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.connect()
            # The connection forgets its socket when the answer is the last one; the time limit needs it.
            opened: socket.socket = connection.sock
            connection.request(method, self._path + path, body, headers)
            with connection.getresponse() as response:
                return response.status, self._read(response, opened, limited, path)
        finally:
            connection.close()

    def _read(
        self,
        response: http.client.HTTPResponse,
        opened: socket.socket,
        limited: Deadline,
        path: str,
    ) -> bytes:
        body = b""
        while True:
            # T-TEE-32: bounded in size and, with the time taken anew for each piece, in time.
            opened.settimeout(_left(limited))
            part = response.read1(limits.IMDS_MAX_ANSWER + 1 - len(body))
            if not part:
                return body
            body += part
            if len(body) > limits.IMDS_MAX_ANSWER:
                raise self.wrong(path, f"an answer of more than {limits.IMDS_MAX_ANSWER} bytes")

    def _unreachable(self, path: str, error: Exception) -> AgentError:
        if isinstance(error, TimeoutError):
            reason = "no answer in time"
        elif isinstance(error, OSError):
            reason = error.strerror or type(error).__name__
        else:
            reason = f"no HTTP answer ({type(error).__name__})"
        return self.wrong(path, reason)


def _left(deadline: Deadline) -> float:
    left = deadline.remaining()
    if left <= 0:
        raise TimeoutError
    return left
