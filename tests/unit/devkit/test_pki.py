from __future__ import annotations

import hashlib
import ssl

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.devkit import pki


def handshake(server: pki.ServerIdentity, roots: str, host: str) -> None:
    """Both ends of a TLS handshake in memory."""
    trust = ssl.create_default_context(cadata=roots)
    ends = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
    near = trust.wrap_bio(*ends[0], server_hostname=host)
    far = server.context().wrap_bio(*ends[1], server_side=True)
    pending = {near, far}
    while pending:
        for side in tuple(pending):
            try:
                side.do_handshake()
                pending.discard(side)
            except ssl.SSLWantReadError:
                pass
        ends[1][0].write(ends[0][1].read())
        ends[0][0].write(ends[1][1].read())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_client_that_trusts_the_authority_trusts_its_servers(host: str) -> None:
    authority = pki.Authority()
    handshake(authority.issue(), authority.pem, host)


def test_another_authority_another_name_and_an_expired_certificate_are_refused() -> None:
    authority = pki.Authority()
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|local issuer|signature"):
        handshake(authority.issue(), pki.Authority().pem, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(authority.issue("kbs.example"), authority.pem, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(authority.issue(expired=True), authority.pem, "localhost")


@pytest.mark.parametrize("ca", [True, False])
def test_a_self_signed_leaf_is_its_own_root(ca: bool) -> None:
    identity = pki.self_signed(ca=ca)
    handshake(identity, identity.cert_pem, "127.0.0.1")


def test_the_pin_is_the_digest_of_the_public_key() -> None:
    identity = pki.self_signed()
    der = identity.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert identity.pin == pki.spki_sha256(identity.cert) == hashlib.sha256(der).digest()
    assert pki.self_signed().pin != identity.pin
