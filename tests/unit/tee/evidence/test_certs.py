"""Certificates inside evidence."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devkit.evidence_pki import authority
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import certs
from tests.unit.tee.evidence.amd import declared
from tests.vectors import recorded

KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(4)]
ROOT = authority.certify("root", KEYS[0], ("root", KEYS[0]), ca=True)
MIDDLE = authority.certify("middle", KEYS[1], ("root", KEYS[0]), ca=True)
LEAF = authority.certify("leaf", KEYS[2], ("middle", KEYS[1]), ca=False)
PINS = frozenset({certs.key_pin(ROOT)})


def refused(data: bytes) -> str:
    with pytest.raises(AgentError) as caught:
        certs.load_der(data)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED
    return caught.value.detail


def test_a_certificate_comes_back() -> None:
    assert certs.load_der(certs.der(LEAF)) == LEAF
    assert certs.load_pem_chain(authority.pem(LEAF, MIDDLE, ROOT)) == (LEAF, MIDDLE, ROOT)
    assert certs.load_pem_chain(authority.pem(LEAF) + b"\0\0\0") == (LEAF,)


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x30\x80\0\0", certs.der(LEAF)[:-1], certs.der(LEAF) + b"\0"]
)
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    assert "not an X.509 certificate" in refused(data)


def test_a_huge_certificate_is_not_looked_at() -> None:
    assert (
        refused(certs.der(LEAF).ljust(certs.MAX_SIZE + 1, b"\0"))
        == f"certificate: {certs.MAX_SIZE + 1} bytes"
    )


@pytest.mark.parametrize("data", [b"", b"\0", b"-----BEGIN CERTIFICATE-----", b"\xff" * 99])
def test_what_is_no_chain_is_refused(data: bytes) -> None:
    with pytest.raises(AgentError, match=r"not X\.509 certificates in PEM"):
        certs.load_pem_chain(data)


def test_a_chain_is_bounded() -> None:
    with pytest.raises(AgentError, match="17 certificates"):
        certs.load_pem_chain(authority.pem(LEAF) * (certs.MAX_CHAIN + 1))
    with pytest.raises(AgentError, match="bytes"):
        certs.load_pem_chain(b"-" * (certs.MAX_CHAIN * certs.MAX_SIZE + 1))


def test_a_path_is_found_in_any_order() -> None:
    assert certs.path(LEAF, [ROOT, LEAF, MIDDLE], PINS) == (LEAF, MIDDLE, ROOT)
    assert certs.path(MIDDLE, [ROOT], PINS) == (MIDDLE, ROOT)


def test_there_is_no_path_without_issuer_or_pin() -> None:
    assert certs.path(LEAF, [ROOT], PINS) is None
    assert certs.path(LEAF, [MIDDLE], PINS) is None
    assert certs.path(LEAF, [MIDDLE, ROOT], frozenset()) is None
    assert certs.path(LEAF, [], PINS) is None


def test_a_pinned_key_that_signed_nothing_proves_nothing() -> None:
    assert certs.path(ROOT, [], PINS) is None
    assert certs.path(ROOT, [ROOT], PINS) is None
    stranger = authority.certify(
        "leaf", KEYS[3], ("root", KEYS[3]), ca=False
    )  # names the root, by another key
    assert certs.path(stranger, [ROOT], PINS) is None


def test_a_certificate_that_is_no_authority_issues_nothing() -> None:
    mock = authority.certify("middle", KEYS[1], ("root", KEYS[0]), ca=False)
    assert certs.issued(mock, LEAF)
    assert certs.path(LEAF, [mock, ROOT], PINS) is None
    assert certs.path(LEAF, [mock, MIDDLE, ROOT], PINS) == (LEAF, MIDDLE, ROOT)


def test_a_dead_end_with_the_same_key_and_name_is_left_again() -> None:
    elsewhere = authority.certify("middle", KEYS[1], ("nobody", KEYS[3]), ca=True)
    assert certs.path(LEAF, [elsewhere, MIDDLE, ROOT], PINS) == (LEAF, MIDDLE, ROOT)


def test_two_that_issue_each_other_end_nowhere() -> None:
    one = authority.certify("one", KEYS[0], ("two", KEYS[1]), ca=True)
    two = authority.certify("two", KEYS[1], ("one", KEYS[0]), ca=True)
    assert certs.path(one, [one, two], frozenset({bytes(32)})) is None


def test_an_authority_without_basic_constraints_needs_the_key_usage() -> None:
    def build(*, sign: bool | None) -> x509.Certificate:
        now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
        builder = x509.CertificateBuilder(name, name, KEYS[0].public_key(), 1, now, now)
        if sign is not None:
            usage = x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False,
                key_agreement=False, key_cert_sign=sign, crl_sign=False, encipher_only=False,
                decipher_only=False,
            )  # fmt: skip
            builder = builder.add_extension(usage, critical=True)
        return builder.sign(KEYS[0], hashes.SHA384())

    assert certs.is_authority(build(sign=True))
    assert not certs.is_authority(build(sign=False))
    assert not certs.is_authority(build(sign=None))


def test_a_name_is_harmless_on_a_terminal() -> None:
    hostile = authority.certify("\x1b[2Jé" + "n" * 50, KEYS[2], ("mid\ndle", KEYS[1]), ca=False)
    assert certs.name(hostile) == "\\x1b[2J\\xe9" + "n" * 50
    assert certs.issuer_name(hostile) == "mid\\ndle"
    assert certs.name(LEAF) == "leaf"


def test_a_name_longer_than_the_standard_allows_is_cut_without_a_warning() -> None:
    with pytest.warns(UserWarning, match="64"):
        attribute = x509.NameAttribute(x509.NameOID.COMMON_NAME, "n" * 100, _validate=False)
    found = certs.load_der(certs.der(_self_signed(x509.Name([attribute]))))
    assert certs.name(found) == certs.issuer_name(found) == "n" * 64


def _self_signed(name: x509.Name) -> x509.Certificate:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, KEYS[0].public_key(), 1, now, now)
    return builder.sign(KEYS[0], hashes.SHA384())


def test_extensions_that_cannot_be_read_are_none_and_nobodys_authority() -> None:
    broken = authority.certify(
        "root", KEYS[0], ("root", KEYS[0]), ca=True, extensions=[authority.extension("2.5.29.17", b"\xff")]
    )
    assert certs.extensions(broken) is None
    assert not certs.is_authority(broken)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
@settings(max_examples=200)
def test_a_changed_certificate_is_refused_or_harmless(at: int, value: bytes) -> None:
    data = certs.der(LEAF)
    at %= len(data)
    changed = data[:at] + value + data[at + len(value) :]
    try:
        found = certs.load_der(changed)
    except AgentError as error:
        declared(error)
        return
    assert certs.name(found).isascii()
    certs.is_authority(found)
    assert changed == data or certs.path(found, [MIDDLE, ROOT], PINS) is None


@given(st.binary(max_size=300))
def test_only_the_declared_error_leaves_the_loaders(data: bytes) -> None:
    for load in (certs.load_der, certs.load_pem_chain):
        try:
            load(data)
        except AgentError as error:
            declared(error)


@pytest.mark.vectors
def test_amds_serial_number_of_zero_is_no_warning() -> None:
    assert certs.name(certs.load_der(recorded("snp/test-vcek.der"))) == "SEV-VCEK"
