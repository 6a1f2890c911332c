from __future__ import annotations

import base64
import hashlib
import re
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Kbs
from agent.devkit import pki
from agent.errors import AgentError, ErrorCode
from agent.http import tls
from agent.kbs.transport import trust
from tests.unit.kbs import PROPERTY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URL = "https://broker.example"


def shake(
    settings: Kbs,
    server: pki.ServerIdentity,
    *,
    name: str = "broker.example",
    shown: Callable[[float], None] | None = None,
) -> str | None:
    """TLS version of a handshake in memory, or None when there is no TLS at all."""
    made = trust(settings, shown)
    if made is None:
        return None
    context = made.context()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    peer = server.context().wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, peer]
    for _ in range(10):
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
        if client not in waiting:
            return client.version()
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize("url", ["http://broker.example", ""])
def test_plain_http_needs_no_context(url: str) -> None:
    assert trust(Kbs(url=url)) is None


def test_an_https_proxy_needs_one() -> None:
    assert trust(Kbs(url="http://broker.example", proxy="https://proxy.example")) is not None


def test_a_configured_root_is_trusted() -> None:
    root = pki.Authority()
    assert shake(Kbs(url=URL, extra_roots=root.pem), root.issue("broker.example")) == "TLSv1.3"


def test_old_versions_are_not_spoken() -> None:
    context = tls.Trust().context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_an_unknown_root_is_not_trusted() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(Kbs(url=URL), pki.Authority().issue("broker.example"))


def test_another_host_name_is_refused() -> None:
    root = pki.Authority()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(Kbs(url=URL, extra_roots=root.pem), root.issue("other.example"))


def test_an_expired_certificate_is_refused() -> None:
    root = pki.Authority()
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(Kbs(url=URL, extra_roots=root.pem), root.issue("broker.example", expired=True))


@pytest.mark.parametrize("ca", [True, False])
def test_a_self_signed_certificate_can_be_its_own_root(ca: bool) -> None:
    server = pki.self_signed("broker.example", ca=ca)
    assert shake(Kbs(url=URL, extra_roots=server.cert_pem), server)


def test_the_servers_certificate_can_be_the_anchor_without_its_root() -> None:
    server = pki.Authority().issue("broker.example")
    assert shake(Kbs(url=URL, extra_roots=server.cert_pem), server)


def test_bundles_with_comments_in_any_language_are_read() -> None:
    first, second = pki.Authority(), pki.Authority()
    bundle = f"# Zürich 証明書\n{first.pem}\n# zwei\r\n{second.pem}"
    assert shake(Kbs(url=URL, extra_roots=bundle), second.issue("broker.example"))


@pytest.mark.parametrize(
    "text",
    [
        "no pem at all",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ],
)
def test_roots_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(AgentError) as caught:
        tls.Trust(text).context()
    assert caught.value.code is ErrorCode.CONFIG_INVALID


def test_a_root_beside_a_broken_one_is_not_enough() -> None:
    broken = "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n"
    with pytest.raises(AgentError):
        tls.Trust(broken + pki.Authority().pem).context()


def test_the_environment_adds_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pki.Authority()
    planted = tmp_path / "planted.pem"
    planted.write_text(root.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(planted))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(Kbs(url=URL), root.issue("broker.example"))


@pytest.mark.parametrize("ca", [True, False])
def test_a_pinned_key_is_enough(ca: bool) -> None:
    server = pki.self_signed("anything.example", ca=ca)
    assert shake(Kbs(url=URL, pins=(bytes(32), server.pin)), server)


def test_a_pinned_key_is_enough_after_its_certificate_expired() -> None:
    server = pki.Authority().issue("broker.example", expired=True)
    assert shake(Kbs(url=URL, pins=(server.pin,)), server)


def test_another_key_than_the_pinned_one_is_refused_inside_the_handshake() -> None:
    root = pki.Authority()
    server = root.issue("broker.example")
    with pytest.raises(ssl.SSLCertVerificationError, match=re.escape(base64.b64encode(server.pin).decode())):
        shake(Kbs(url=URL, pins=(bytes(32),)), server)


def test_with_pins_no_authority_counts() -> None:
    root = pki.Authority()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(Kbs(url=URL, pins=(bytes(32),), extra_roots=root.pem), root.issue("broker.example"))


def test_a_pin_of_the_authority_does_not_admit_its_servers() -> None:
    root = pki.Authority()
    pin = pki.spki_sha256(root.cert)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(Kbs(url=URL, pins=(pin,)), root.issue("broker.example"))


def test_a_pin_is_the_digest_that_openssl_users_compute() -> None:
    server = pki.self_signed()
    der = server.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert tls.spki_digest(server.cert.public_bytes(Encoding.DER)) == hashlib.sha256(der).digest()


def test_a_pin_of_another_length_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(AgentError) as caught:
        tls.Trust(pins=(bytes(20),)).context()
    assert caught.value.code is ErrorCode.CONFIG_INVALID


@pytest.mark.parametrize("pinned", [True, False])
def test_a_handshake_tells_when_the_certificate_ends(pinned: bool) -> None:
    root, told = pki.Authority(), list[float]()
    server = root.issue("broker.example")
    trust = Kbs(url=URL, pins=(server.pin,)) if pinned else Kbs(url=URL, extra_roots=root.pem)
    shake(trust, server, shown=told.append)
    assert told == [server.cert.not_valid_after_utc.timestamp()]


def test_a_certificate_that_is_refused_tells_nothing() -> None:
    told: list[float] = []
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(Kbs(url=URL), pki.Authority().issue("broker.example"), shown=told.append)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(Kbs(url=URL, pins=(bytes(32),)), pki.self_signed(), shown=told.append)
    assert told == []


def test_a_proxys_certificate_is_not_taken_for_the_brokers() -> None:
    root, told = pki.Authority(), list[float]()
    settings = Kbs(url=URL, proxy="https://proxy.example", extra_roots=root.pem)
    shake(settings, root.issue("proxy.example"), name="proxy.example", shown=told.append)
    assert told == []
    shake(settings, root.issue("broker.example"), shown=told.append)
    assert told


@PROPERTY
@given(st.binary(max_size=300))
def test_only_the_declared_error_escapes_from_certificates(data: bytes) -> None:
    with pytest.raises(ValueError):
        tls.spki_digest(data)


@PROPERTY
@given(
    st.text(max_size=200).filter(str.strip)
    | st.text(max_size=80).map("-----BEGIN CERTIFICATE-----\n{}".format)
)
def test_only_the_declared_error_escapes_from_roots(text: str) -> None:
    with pytest.raises(AgentError) as caught:
        tls.Trust(text).context()
    assert caught.value.code is ErrorCode.CONFIG_INVALID
