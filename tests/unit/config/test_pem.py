"""PEM as tools write it and YAML mangles it: one reader, so one answer everywhere."""

from __future__ import annotations

import base64
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from agent.config import pem
from agent.config.model import Kbs
from agent.devkit import pki
from agent.errors import AgentError
from agent.http.tls import Trust
from agent.hub.image.jwe import read_private_key, read_public_key
from agent.kbs import admin
from agent.kbs.keys import TeeKey
from agent.kbs.transport import trust
from agent.tee.evidence import certs

if TYPE_CHECKING:
    from collections.abc import Callable

EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()
ROOT = pki.Authority()

SHAPES: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "byte order mark": lambda text: f"\ufeff{text}",
    "comment": lambda text: f"# Zürich 証明書\n{text}# end",
    "bag attributes": lambda text: (
        f"Bag Attributes\n    friendlyName: kbs\nKey Attributes: <No Attributes>\n{text}"
    ),
    "openssl -text": lambda text: (
        f"{text}Private-Key: (256 bit)\npriv:\n    00:c0:ff\nASN1 OID: prime256v1\n"
    ),
    "indented": lambda text: "".join(f"      {line}\n" for line in text.splitlines()),
    "empty lines": lambda text: text.replace("\n", "\n\n"),
    "carriage returns": lambda text: text.replace("\n", "\r"),
    "both line ends": lambda text: text.replace("\n", "\r\n"),
    "trailing blanks": lambda text: text.replace("\n", " \t\n"),
    "one line with blanks": lambda text: text.replace("\n", " "),
    "one line": lambda text: text.replace("\n", ""),
    "no final line end": lambda text: text.rstrip("\n"),
    "trailing NUL": lambda text: f"{text}\0",
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@shapes
def test_certificates_are_read_by_all_their_readers(shape: Callable[[str], str]) -> None:
    text = shape(ROOT.pem)
    der = ssl.PEM_cert_to_DER_cert(ROOT.pem)
    assert pem.certificates(text) == (der,)
    context = Trust(text).context()
    assert der in context.get_ca_certs(binary_form=True)
    assert [certs.der(one) for one in certs.load_pem_chain(text.encode())] == [der]
    made = trust(Kbs(url="https://kbs.example", extra_roots=text))
    assert made is not None
    made.context()


@shapes
def test_keys_are_read_by_all_their_readers(shape: Callable[[str], str]) -> None:
    for key in (EC, RSA):
        assert read_private_key(shape(private(key)).encode()).private_numbers() == key.private_numbers()
        assert read_public_key(shape(public(key)).encode()) == key.public_key()
        assert TeeKey.from_pem(shape(private(key)).encode()).jwk()
    assert admin.read_key(shape(private(ED)).encode()).public_key() == ED.public_key()


def test_the_key_is_found_beside_other_blocks() -> None:
    old = EC.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    for text in (parameters + old, ROOT.pem + old, old + public(EC)):
        assert read_private_key(text.encode()).private_numbers() == EC.private_numbers()
    assert read_public_key((private(EC) + public(EC)).encode()) == EC.public_key()


def test_other_forms_are_left_to_their_readers() -> None:
    der = EC.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert pem.key(der, "PRIVATE KEY") == der
    assert read_private_key(der).private_numbers() == EC.private_numbers()


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_encrypted_keys_are_refused(form: PrivateFormat) -> None:
    locked = EC.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"c4n4ry"))
    with pytest.raises(AgentError, match="passphrase"):
        read_private_key(locked)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no 'BEGIN CERTIFICATE'"),
        ("/etc/kbs.pem", "no 'BEGIN CERTIFICATE'"),
        (public(EC), "no 'BEGIN CERTIFICATE'"),
        (ROOT.pem.replace("END", "ENDE"), "cut off"),
        (ROOT.pem[:-40], "cut off"),
        (ROOT.pem[:-40] + ROOT.pem, "not base64"),
        (ROOT.pem.replace("M", "*"), "not base64"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "not hold a certificate"),
        ("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", "not hold a certificate"),
    ],
)
def test_what_is_none_is_told(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pem.certificates(text)


@given(st.integers(1, 200))
def test_a_certificate_that_was_cut_is_refused(lost: int) -> None:
    der = ssl.PEM_cert_to_DER_cert(ROOT.pem)
    with pytest.raises(ValueError, match="the whole of one"):
        pem.certificates(ssl.DER_cert_to_PEM_cert(der[:-lost]))
    with pytest.raises(ValueError, match="the whole of one"):
        pem.certificates(ssl.DER_cert_to_PEM_cert(der + bytes(lost)))


@given(st.binary(max_size=300), st.sampled_from(["CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY"]))
def test_a_block_says_what_it_holds(der: bytes, label: str) -> None:
    block = pem.Block(label, der)
    assert pem.blocks(block.text()) == (block,)
    assert repr(base64.b64encode(der)) not in repr(block)
    assert "der" not in repr(block)


PIECES = st.sampled_from(
    ["-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", "-----BEGIN ", "MAA=", "\n", " ", ":", "é"]
)


@given(st.text(max_size=80) | st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_blocks_or_the_declared_error(text: str) -> None:
    for read in (pem.blocks, pem.certificates):
        with contextlib.suppress(ValueError):
            read(text)
    with contextlib.suppress(ValueError):
        pem.key(text.encode(), "PRIVATE KEY")


def test_many_beginnings_take_linear_time() -> None:
    with pytest.raises(ValueError, match="cut off"):
        pem.blocks("-----BEGIN CERTIFICATE-----\n" * 70_000)
