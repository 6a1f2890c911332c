from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devkit import hcl as builder
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.hcl import ReportType, parse_hcl, user_data_check, variable_data_check
from tests.unit.tee.evidence import azure
from tests.unit.tee.evidence.azure import NONCE
from tests.vectors import recorded


@pytest.mark.parametrize("kind", [ReportType.SNP, ReportType.TDX])
def test_a_report_is_taken_apart(kind: ReportType) -> None:
    report = parse_hcl(azure.report(kind))
    assert report.report_type is kind
    assert len(report.hardware) == (1184 if kind is ReportType.SNP else 1024)
    assert report.ak.public_numbers() == azure.key().public_key().public_numbers()
    assert report.user_data == NONCE.ljust(64, b"\0")
    assert report.report_data[:32] == hashlib.sha256(report.variable_data).digest()
    assert variable_data_check(report, report.report_data, "it").passed
    assert user_data_check(report, NONCE).passed


def test_a_changed_bit_of_the_variable_data_is_not_vouched_for() -> None:
    data = bytearray(azure.report())
    at = data.index(b"secure-boot")
    data[at] ^= 1
    report = parse_hcl(bytes(data))
    assert variable_data_check(report, report.report_data, "it").passed is False


def test_user_data_is_the_report_data_and_zeros() -> None:
    report = parse_hcl(azure.report())
    assert user_data_check(report, NONCE[:32]).passed is False  # what follows would be bound to nothing
    assert user_data_check(report, bytes(48)).passed is False
    assert user_data_check(report, bytes(65)).passed is False
    assert user_data_check(report, None).passed is None
    assert user_data_check(parse_hcl(azure.report(user_data=None)), NONCE).passed is False


def test_the_hash_the_report_names_is_the_one_that_counts() -> None:
    data = bytearray(azure.report())
    data[1228:1232] = struct.pack("<I", 2)
    report = parse_hcl(bytes(data))
    assert report.hash_type == "sha384"
    assert variable_data_check(report, report.report_data, "it").passed is False


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 0x41414141),  # signature
        (4, 3),  # version
        (8, 100),  # report size
        (1216, 7),  # data size
        (1224, 1),  # VBS: no hardware report
        (1224, 9),
        (1228, 0),
        (1232, 0xFFFFFFFF),
        (1232, 0),
    ],
)
def test_headers_that_do_not_fit_are_refused(at: int, value: int) -> None:
    data = bytearray(azure.report())
    data[at : at + 4] = struct.pack("<I", value)
    with pytest.raises(AgentError) as caught:
        parse_hcl(bytes(data))
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


@pytest.mark.parametrize(
    "variable",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":[]}',
        b'{"keys":[{"kid":"HCLAkPub","kty":"EC","n":"AQAB","e":"AQAB"}]}',
        b'{"keys":[{"kid":"HCLAkPub","kty":"RSA","n":"AQAB","e":"AQAB"}]}',
        b'{"keys":[{"kid":"HCLAkPub","kty":"RSA","n":"A A","e":"AQAB"}]}',
        b"[" * 5000,
        b'{"keys":"\xff"}',
    ],
)
def test_variable_data_without_a_key_is_refused(variable: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_hcl(builder.build(ReportType.SNP, bytes(1184), variable))
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


def test_two_attestation_keys_are_one_too_many() -> None:
    good = builder.variable_data(azure.numbers(), NONCE)
    doubled = good.replace(b'"kid":"HCLEkPub"', b'"kid":"HCLAkPub"')
    with pytest.raises(AgentError, match="2 keys"):
        parse_hcl(builder.build(ReportType.SNP, bytes(1184), doubled))


@pytest.mark.parametrize("text", [b"00 11" * 26, b"zz" * 64, b"00" * 63, b""])
def test_user_data_is_128_digits(text: bytes) -> None:
    good = builder.variable_data(azure.numbers(), NONCE)
    field = NONCE.ljust(64, b"\0").hex().upper().encode()
    with pytest.raises(AgentError, match="user data"):
        parse_hcl(builder.build(ReportType.SNP, bytes(1184), good.replace(field, text)))


def test_a_giant_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(AgentError):
        parse_hcl(azure.report().ljust(20000, b"\0"))


@settings(max_examples=100)
@given(st.binary(max_size=1500))
def test_noise_is_refused_politely(data: bytes) -> None:
    with pytest.raises(AgentError):
        parse_hcl(data)


@settings(max_examples=200)
@given(st.integers(0, 2599), st.integers(0, 255), st.integers(0, 4000))
def test_a_changed_report_parses_or_is_refused(at: int, value: int, end: int) -> None:
    data = bytearray(azure.report())
    data[at] = value
    with azure.parsed_or_malformed():
        parse_hcl(bytes(data[:end]))


@pytest.mark.vectors
@pytest.mark.parametrize(("tee", "kind", "version"), [("az-snp-vtpm", 2, 1), ("az-tdx-vtpm", 4, 2)])
def test_recorded_reports_are_bound_to_their_hardware(tee: str, kind: int, version: int) -> None:
    report = parse_hcl(recorded(f"{tee}/hcl-report.bin"))
    assert (report.report_type, report.version) == (kind, version)
    assert variable_data_check(report, report.report_data, "it").passed
    assert report.user_data == bytes(64)
