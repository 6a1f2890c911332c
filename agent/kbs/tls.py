"""Whom the broker connection trusts (kbs_protocol.md 6, user_pains.md row 12 and SR-08).

System roots plus configured roots; or, with pins, exactly the pinned keys and no authority at all.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent.config import pem
from agent.errors import AgentError, ErrorCode
from agent.kbs.progress import Phase, reached

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config.model import Kbs

_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # images that carry only this
)


def context(settings: Kbs, shown: Callable[[float], None] | None = None) -> ssl.SSLContext | None:
    """The TLS settings for one broker; None when neither its URL nor its proxy's is https.

    Reads the system's trust store, so call it in a thread; the store is left alone when there are pins.
    An https proxy is checked by the same rules as the broker, so with pins its key must be pinned too.

    Args:
        settings: of one endpoint.
        shown: told after each good handshake when the broker's certificate ends, in seconds since the Unix
            epoch. A proxy's certificate is not told.

    Raises:
        AgentError: CONFIG_INVALID, for roots or pins that are none.
    """
    if not any((url or "").lower().startswith("https:") for url in (settings.url, settings.proxy)):
        return None
    if settings.pins:
        made = _new()
        _trust_pins(made, settings.pins)
    else:
        made = trusting(settings.extra_roots)
    if shown is not None:
        _tell(made, urlsplit(settings.url).hostname or "", shown)
    return made


def trusting(extra_roots: str) -> ssl.SSLContext:
    """The TLS settings for servers vouched for by the system's roots or by ``extra_roots``, PEM text.

    Reads the system's trust store, so call it in a thread.

    Raises:
        AgentError: CONFIG_INVALID, for roots that are none.
    """
    made = _new()
    _trust_roots(made, extra_roots)
    return made


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
    made.sslobject_class = _Watched
    return made


class _Watched(ssl.SSLObject):
    """The documented hook of ``SSLContext.sslobject_class``; asyncio drives it."""

    def do_handshake(self) -> None:
        """A step of the handshake; the first one is when the TCP connection stands."""
        reached(Phase.TLS)
        super().do_handshake()


def _tell(made: ssl.SSLContext, host: str, shown: Callable[[float], None]) -> None:
    checked: type[ssl.SSLObject] = made.sslobject_class

    class Telling(checked):  # type: ignore[misc,valid-type]  # a class made for this context
        """Tells what the certificate says, once the handshake with the broker itself is done."""

        def do_handshake(self) -> None:
            """Finish the handshake, checks and all; then tell."""
            super().do_handshake()
            if (self.server_hostname or "").lower().rstrip(".") == host.rstrip("."):
                with contextlib.suppress(ValueError):  # a date that is none is no reason to stop here
                    shown(ends(self))

    made.sslobject_class = Telling


def _trust_roots(made: ssl.SSLContext, extra_roots: str) -> None:
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
    if extra_roots.strip():
        _trust_extra(made, extra_roots)


def _trust_extra(made: ssl.SSLContext, extra_roots: str) -> None:
    try:
        pem.anchor(made, extra_roots)
    except ValueError as error:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"the CA text {error}") from None


def _trust_pins(made: ssl.SSLContext, pins: tuple[bytes, ...]) -> None:
    if any(len(pin) != hashlib.sha256().digest_size for pin in pins):
        raise AgentError(ErrorCode.CONFIG_INVALID, "a pin is not the SHA-256 of a key (32 bytes)")
    # The pin replaces chain, host name and dates: a self-signed certificate will do, and a wrong clock in
    # the guest cannot stop it (user_pains.md rows 12 and 16).
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE

    class PinnedObject(_Watched):
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

    made.sslobject_class = PinnedObject


def _check(certificate: bytes | None, pins: tuple[bytes, ...]) -> None:
    try:
        digest = spki_digest(certificate or b"")
    except ValueError:
        digest = None
    if digest not in pins:
        shown = f"sha256/{base64.b64encode(digest).decode()}" if digest else "unreadable"
        raise ssl.SSLCertVerificationError(1, f"the broker's key is not pinned (its pin is {shown})")
