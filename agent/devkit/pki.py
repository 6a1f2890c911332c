"""A throw-away certificate authority for TLS tests. Its keys protect nothing and are never stored."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
DAY: Final = datetime.timedelta(days=1)


def spki_sha256(cert: x509.Certificate) -> bytes:
    """SHA-256 (32 bytes) of the DER SubjectPublicKeyInfo: what a key pin is (RFC 7469 2.4)."""
    spki = cert.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


class ServerIdentity(msgspec.Struct, frozen=True):
    """A server's key and certificates.

    Attributes:
        key: the private key.
        chain: leaf first; then what a server sends along. The root is not in it.
    """

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def cert(self) -> x509.Certificate:
        """The leaf."""
        return self.chain[0]

    @property
    def cert_pem(self) -> str:
        """The leaf as PEM text: the root to configure when it is self-signed."""
        return _pem(self.cert)

    @property
    def pin(self) -> bytes:
        """:func:`spki_sha256` of the leaf."""
        return spki_sha256(self.cert)

    def context(self) -> ssl.SSLContext:
        """A server side TLS context (1.2 and later) with this identity."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = b"".join(cert.public_bytes(Encoding.PEM) for cert in self.chain)
        # The ssl module loads identities from files only.
        with tempfile.TemporaryDirectory(prefix="devkit-pki-") as folder:
            path = Path(folder, "identity.pem")
            path.write_bytes(key + chain)
            context.load_cert_chain(path)
        return context


_SIGNS = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _sign(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    names: Sequence[str] = (),
    starts: datetime.timedelta = -DAY,
    ends: datetime.timedelta = 30 * DAY,
    key_ids: bool = True,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer or name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if key_ids:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        ).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    if ca:
        # A CA certificate says what its key is for, or strict verifiers (Python 3.13) refuse it.
        builder = builder.add_extension(_SIGNS, critical=True)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(text) for text in names]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def self_signed(*names: str, ca: bool = True) -> ServerIdentity:
    """A server certificate that is its own root.

    Args:
        names: host names and IP addresses; :data:`LOOPBACK` when none are given.
        ca: its basicConstraints. Some TLS stacks refuse a leaf that says CA:TRUE (kbs_protocol.md 6).
    """
    key = ec.generate_private_key(ec.SECP256R1())
    cert = _sign("self-signed test server", key, None, key, ca=ca, names=names or LOOPBACK)
    return ServerIdentity(key, (cert,))


class Authority:
    """A certificate authority that signs server certificates for as long as the object lives.

    Args:
        name: its subject.
        key_ids: whether its certificates say which key signed them, besides whose it was.
        parent: who signed it; a root when there is none.
    """

    def __init__(
        self, name: str = "throw-away test CA", *, key_ids: bool = True, parent: Authority | None = None
    ) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._ids = key_ids
        self._name = name
        self._parent = parent
        self.cert = self._certificate()

    @property
    def pem(self) -> str:
        """The authority's certificate as PEM text, for ``kbs_cert``."""
        return _pem(self.cert)

    def expired(self) -> str:
        """An older certificate of the same name and key, which ended yesterday, as PEM text."""
        return _pem(self._certificate(starts=-2 * DAY, ends=-DAY))

    def issue(self, *names: str, expired: bool = False) -> ServerIdentity:
        """A server certificate, which is sent along with those of authorities below the root.

        Args:
            names: host names and IP addresses; :data:`LOOPBACK` when none are given.
            expired: it ended yesterday.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _sign(
            "test server",
            key,
            self.cert.subject,
            self._key,
            ca=False,
            names=names or LOOPBACK,
            starts=-2 * DAY,
            ends=-DAY if expired else 30 * DAY,
            key_ids=self._ids,
        )
        return ServerIdentity(key, (cert,) if self._parent is None else (cert, self.cert))

    def _certificate(
        self, starts: datetime.timedelta = -DAY, ends: datetime.timedelta = 30 * DAY
    ) -> x509.Certificate:
        parent = self._parent or self
        return _sign(
            self._name,
            self._key,
            None if parent is self else parent.cert.subject,
            parent._key,  # noqa: SLF001  # another one of its own kind
            ca=True,
            starts=starts,
            ends=ends,
            key_ids=self._ids,
        )


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(Encoding.PEM).decode("ascii")
