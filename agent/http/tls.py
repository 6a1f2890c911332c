"""Whom a TLS connection trusts: system roots plus configured anchors; or, with pins, exactly the pinned keys.

OpenSSL looks an issuer up by its name. Of several with one name, as while a CA is being replaced, it takes
the first, and when that one did not sign, it gives up; key identifiers would help it, but are not always
there. So there are variants of the trust: the first has everything, each other one some configured anchors
alone. A server that fails in one variant may be good in another. What signed nothing opens nothing in any.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config import limits, pem
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # images that carry only this
)
_NAMES: Final = frozenset({62, 63, 64})
"""OpenSSL's errors for another host, e-mail or IP address: no other anchor changes the server's name."""


class Trust:
    """TLS settings for servers of one kind. Reads nothing before the first :meth:`context`.

    An object of this class also says which connections are alike: those of one are never used for another.

    Args:
        anchors: PEM text of certificates trusted besides the system's.
        pins: SHA-256 digests (32 bytes each) of accepted keys. When not empty, nothing else counts.
        shown: told, after each good handshake with the host it names, when that host's certificate ends, in
            seconds since the Unix epoch.
        adjust: changes each context that is made; for client certificates.
    """

    def __init__(
        self,
        anchors: str = "",
        pins: tuple[bytes, ...] = (),
        *,
        shown: tuple[str, Callable[[float], None]] | None = None,
        adjust: Callable[[ssl.SSLContext], None] | None = None,
    ) -> None:
        self._text = anchors
        self._pins = pins
        self._shown = shown
        self._adjust = adjust
        self._lock = threading.Lock()
        self._groups: tuple[tuple[str, ...], ...] | None = None
        self._made: dict[int, ssl.SSLContext] = {}
        self._good: dict[str, int] = {}

    def context(self, variant: int = 0) -> ssl.SSLContext:
        """The settings of a variant. Reads the system's trust store, so call it in a thread.

        Raises:
            AgentError: CONFIG_INVALID, for anchors or pins that are none, and what ``adjust`` raises.
        """
        with self._lock:
            made = self._made.get(variant)
            if made is None:
                made = self._made[variant] = self._new(variant)
            return made

    async def ready(self, variant: int = 0) -> ssl.SSLContext:
        """:meth:`context`, without holding up the loop."""
        made = self._made.get(variant)
        return made if made is not None else await asyncio.to_thread(self.context, variant)

    def first(self, host: str) -> int:
        """The variant to begin with for a host: the one it was good in before."""
        return self._good.get(host, 0)

    async def others(self, variant: int) -> tuple[int, ...]:
        """What to try after a variant in which a host was refused, though another may do."""
        groups = await asyncio.to_thread(self._grouped)
        return tuple(each for each in range(len(groups) + 1) if each != variant)

    def worked(self, host: str, variant: int) -> None:
        """A host was good in this variant."""
        if variant or host in self._good:
            self._good[host] = variant

    def _new(self, variant: int) -> ssl.SSLContext:
        made = _new()
        if self._pins:
            _trust_pins(made, self._pins)
        elif not variant:
            blocks = self._blocks()
            _trust_system(made)
            _trust_anchors(made, blocks)
        else:
            _trust_anchors(made, self._grouped()[variant - 1])
        if self._adjust is not None:
            self._adjust(made)
        if self._shown is not None:
            _tell(made, *self._shown)
        return made

    def _blocks(self) -> tuple[str, ...]:
        return anchors(self._text) if self._text.strip() and not self._pins else ()

    def _grouped(self) -> tuple[tuple[str, ...], ...]:
        if self._groups is None:
            self._groups = _groups(self._blocks())
        return self._groups


def mendable(error: ssl.SSLCertVerificationError) -> bool:
    """Whether another choice of anchors could make a server good that was refused."""
    code = getattr(error, "verify_code", 0)  # a pin's refusal has none
    return bool(code) and code not in _NAMES


def anchors(text: str) -> tuple[str, ...]:
    """The certificates of a PEM text, which may hold comments in any language; ssl takes ASCII only.

    Raises:
        AgentError: CONFIG_INVALID.
    """
    try:
        return tuple(pem.Block("CERTIFICATE", der).text() for der in dict.fromkeys(pem.certificates(text)))
    except ValueError as error:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"the CA text {error}") from None


def spki_digest(certificate: bytes) -> bytes:
    """SHA-256 (32 bytes) of a DER certificate's SubjectPublicKeyInfo (RFC 7469 2.4).

    Raises:
        ValueError: not a certificate, or with a kind of key that nobody can pin here.
    """
    # Certificates are parsed for pins only; most guests have none and need not load this.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError("unsupported kind of key") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def ends(connection: ssl.SSLObject) -> float:
    """When the peer's certificate ends, in seconds since the Unix epoch.

    Raises:
        ValueError: it does not say.
    """
    told = (connection.getpeercert() or {}).get("notAfter")
    if isinstance(told, str):
        return float(ssl.cert_time_to_seconds(told))
    # With pins OpenSSL verified nothing and tells nothing, and the parser is loaded anyway.
    from cryptography import x509  # noqa: PLC0415

    certificate = connection.getpeercert(binary_form=True) or b""
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()


def _new() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks chain and host name
    # T-KBS-60: nothing older is spoken, whatever the system's OpenSSL policy allows.
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    made.options |= ssl.OP_NO_RENEGOTIATION  # a handshake in the middle of a request would need one of ours
    return made


def _tell(made: ssl.SSLContext, host: str, shown: Callable[[float], None]) -> None:
    checked: type[ssl.SSLObject] = made.sslobject_class

    class Telling(checked):  # type: ignore[misc,valid-type]  # a class made for this context
        """Tells what the certificate says, once the handshake with the host itself is done."""

        def do_handshake(self) -> None:
            """Finish the handshake, checks and all; then tell."""
            super().do_handshake()
            if (self.server_hostname or "").lower().rstrip(".") == host.lower().rstrip("."):
                with contextlib.suppress(ValueError):  # a date that is none is no reason to stop here
                    shown(ends(self))

    made.sslobject_class = Telling


def _trust_system(made: ssl.SSLContext) -> None:
    # T-KBS-61: OpenSSL's own defaults would obey SSL_CERT_FILE and SSL_CERT_DIR. The environment is not
    # measured, so it must not add an authority: only the paths compiled in, and the usual bundles.
    paths = ssl.get_default_verify_paths()
    bundle = next((path for path in (paths.openssl_cafile, *_BUNDLES) if Path(path).is_file()), None)
    folder = paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None
    try:
        if bundle or folder:
            made.load_verify_locations(cafile=bundle, capath=folder)
    except (ssl.SSLError, OSError) as error:
        raise AgentError(ErrorCode.CONFIG_INVALID, "the system's trust store cannot be read") from error


def _trust_anchors(made: ssl.SSLContext, blocks: Sequence[str]) -> None:
    if not blocks:
        return
    # What the operator names is an anchor, be it a root, an intermediate or the server's own certificate.
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        made.load_verify_locations(cadata="\n".join(blocks))
    except ssl.SSLError as error:
        raise AgentError(ErrorCode.CONFIG_INVALID, "the CA certificate cannot be read") from error


def _groups(blocks: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Choices of anchors besides all of them: each alone or, of many, so that no two have the same name."""
    # T-HTTP-54: each costs a connection to a server that is refused in the end.
    if len(blocks) <= limits.TLS_VARIANTS:
        return tuple((block,) for block in blocks)
    from cryptography import x509  # noqa: PLC0415

    groups: list[list[str]] = []
    seen: dict[bytes, int] = {}
    for block in blocks:
        try:
            name = x509.load_pem_x509_certificate(block.encode("ascii")).subject.public_bytes()
        except ValueError:  # it is one for OpenSSL, which trusts it in the first variant
            continue
        place = seen.get(name, 0)
        seen[name] = place + 1
        if place == len(groups):
            groups.append([])
        groups[place].append(block)
    return tuple(tuple(group) for group in groups[: limits.TLS_VARIANTS])


def _trust_pins(made: ssl.SSLContext, pins: tuple[bytes, ...]) -> None:
    if any(len(pin) != hashlib.sha256().digest_size for pin in pins):
        raise AgentError(ErrorCode.CONFIG_INVALID, "a pin is not the SHA-256 of a key (32 bytes)")
    # The pin replaces chain, host name and dates: a self-signed certificate will do, and a wrong clock in
    # the guest cannot stop it (user_pains.md rows 12 and 16).
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE

    class PinnedSession(ssl.SSLObject):
        """Checks the pin at the end of the handshake."""

        def do_handshake(self) -> None:
            """Finish the handshake and check the pin.

            Raises:
                ssl.SSLCertVerificationError: another key. The connection never reaches its user.
            """
            super().do_handshake()
            # T-KBS-62: inside the handshake, so that no request byte leaves on an unpinned connection,
            # straight or through a proxy.
            _check(self.getpeercert(binary_form=True), pins)

    made.sslobject_class = PinnedSession


def _check(certificate: bytes | None, pins: tuple[bytes, ...]) -> None:
    try:
        digest = spki_digest(certificate or b"")
    except ValueError:
        digest = None
    if digest not in pins:
        shown = f"sha256/{base64.b64encode(digest).decode()}" if digest else "unreadable"
        raise ssl.SSLCertVerificationError(1, f"the server's key is not pinned (its pin is {shown})")
