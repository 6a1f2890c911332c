"""SNP evidence JSON, exactly as attesters.md 2.4."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import snp_chain, snp_json
from agent.tee.evidence.snp import Certificate, parse_certificates, parse_report
from agent.tee.evidence.verdict import VENDOR, Roots, holds
from tests.unit.tee.evidence.amd import changed, declared, raw_report, signer
from tests.vectors import recorded

OTHER = "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"

TOP = {
    "version", "guest_svn", "policy", "family_id", "image_id", "vmpl", "sig_algo", "current_tcb", "plat_info",
    "key_info", "report_data", "measurement", "host_data", "id_key_digest", "author_key_digest", "report_id",
    "report_id_ma", "reported_tcb", "cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "chip_id", "committed_tcb",
    "current", "committed", "launch_tcb", "launch_mit_vector", "current_mit_vector", "signature",
}  # fmt: skip


def written(raw: bytes, certificates: tuple[Certificate, ...] | None = None) -> Any:
    return json.loads(snp_json.encode(parse_report(raw), certificates))


def malformed(evidence: Any) -> str:
    with pytest.raises(AgentError) as caught:
        snp_json.decode(evidence if isinstance(evidence, bytes) else json.dumps(evidence).encode())
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED
    return caught.value.detail


def test_members_and_kinds_of_values() -> None:
    raw = raw_report()
    evidence = written(raw)
    assert set(evidence) == {"attestation_report", "cert_chain"}
    report = evidence["attestation_report"]
    assert set(report) == TOP
    assert report["policy"] == 0x30000
    assert report["plat_info"] == 0x25
    assert report["report_data"] == list(range(64))
    assert report["reported_tcb"] == {"fmc": None, "bootloader": 10, "tee": 0, "snp": 23, "microcode": 217}
    assert report["current"] == {"major": 1, "minor": 55, "build": 40}
    assert report["signature"] == {"r": list(raw[0x2A0:0x2E8]), "s": list(raw[0x2E8:0x330])}
    assert evidence["cert_chain"] is None


def test_what_is_null_depends_on_version_and_generation() -> None:
    second = written(raw_report(version=2))["attestation_report"]
    assert [second[key] for key in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")] == [None] * 3
    third = written(raw_report())["attestation_report"]
    assert [third[key] for key in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")] == [0x19, 0x11, 1]
    assert [third[key] for key in ("launch_mit_vector", "current_mit_vector")] == [None] * 2
    assert third["launch_tcb"]["fmc"] is None
    raw = changed(raw_report("Turin", version=5), 0x1F8, b"\7" + bytes(7) + b"\xff" * 8)
    fifth = written(raw)["attestation_report"]
    assert [fifth[key] for key in ("launch_mit_vector", "current_mit_vector")] == [7, 2**64 - 1]
    assert fifth["launch_tcb"]["fmc"] == 0


def test_certificates_keep_order_and_kind() -> None:
    table = (Certificate("VCEK", b"\0\xff"), Certificate(OTHER, b"x"), Certificate("CRL", b""))
    assert written(raw_report(), table)["cert_chain"] == [
        {"cert_type": "VCEK", "data": [0, 255]},
        {"cert_type": {"OTHER": OTHER}, "data": [120]},
        {"cert_type": "CRL", "data": []},
    ]
    report, back = snp_json.decode(snp_json.encode(parse_report(raw_report()), table))
    assert back == table
    assert report.raw == raw_report()


def test_an_empty_table_is_no_chain() -> None:
    # A chain without the signing key is refused by the verifier; without a chain it asks AMD (21.2).
    assert written(raw_report(), ())["cert_chain"] is None


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("generation", ["Milan", "Genoa", "Turin"])
def test_a_report_comes_back_from_json(generation: Any, version: int) -> None:
    raw = raw_report(generation, version=version)
    report, _ = snp_json.decode(snp_json.encode(parse_report(raw), None))
    assert report == parse_report(raw)
    assert snp_json.survives(report)


def test_evidence_of_the_devkit_holds_after_the_way_through_json() -> None:
    vendor = signer()
    evidence = snp_json.encode(parse_report(raw_report()), parse_certificates(vendor.table()))
    report, certificates = snp_json.decode(evidence)
    assert holds(snp_chain.verify(report, [each.data for each in certificates], vendor.roots))


@pytest.mark.parametrize("offset", [0x4C, 0x18B, 0x1EB, 0x1EF, 0x208, 0x29F])
def test_a_reserved_byte_does_not_survive_and_that_is_known(offset: int) -> None:
    report = parse_report(changed(raw_report(), offset, b"\1"))
    assert not snp_json.survives(report)
    back, _ = snp_json.decode(snp_json.encode(report, None))
    assert back.raw[offset] == 0


def test_older_agents_leave_members_out() -> None:
    evidence = written(raw_report())
    for member in ("launch_mit_vector", "current_mit_vector"):
        del evidence["attestation_report"][member]
    for tcb in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        del evidence["attestation_report"][tcb]["fmc"]
    del evidence["cert_chain"]
    report, certificates = snp_json.decode(json.dumps(evidence).encode())
    assert (report.raw, certificates) == (raw_report(), ())


@pytest.mark.parametrize("member", sorted(TOP - {"launch_mit_vector", "current_mit_vector"}))
def test_every_other_member_must_be_there(member: str) -> None:
    evidence = written(raw_report())
    del evidence["attestation_report"][member]
    assert malformed(evidence)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("version", 1),
        ("version", -1),
        ("version", 2**32 + 3),
        ("version", "3"),
        ("version", 3.0),
        ("policy", 2**64),
        ("vmpl", -1),
        ("cpuid_fam_id", 0x17),
        ("cpuid_fam_id", 256),
        ("cpuid_step", None),
        ("chip_id", [0] * 63),
        ("report_data", [256] + [0] * 63),
        ("report_data", [-1] + [0] * 63),
        ("report_data", [0] * 65),
        ("report_data", "AAAA"),
        ("signature", {"r": [0] * 72, "s": [0] * 71}),
        ("current", {"major": 1, "minor": 256, "build": 0}),
        ("current_tcb", {"fmc": None, "bootloader": 256, "tee": 0, "snp": 0, "microcode": 0}),
        ("current_tcb", {"fmc": None, "bootloader": 1, "tee": 0, "snp": 0}),
    ],
)
def test_a_wrong_value_is_refused(member: str, value: Any) -> None:
    evidence = written(raw_report())
    evidence["attestation_report"][member] = value
    assert malformed(evidence)


@pytest.mark.parametrize(
    "entry",
    [
        {"cert_type": "VCEC", "data": []},
        {"cert_type": {"OTHER": "no uuid"}, "data": []},
        {"cert_type": {"other": OTHER}, "data": []},
        {"cert_type": 1, "data": []},
        {"cert_type": "VCEK", "data": [256]},
        {"cert_type": "VCEK"},
    ],
)
def test_a_wrong_certificate_is_refused(entry: Any) -> None:
    evidence = written(raw_report())
    evidence["cert_chain"] = [entry]
    assert malformed(evidence)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null", b" " * 2**20 + b"{}"])
def test_what_is_no_evidence_is_refused(text: bytes) -> None:
    assert malformed(text)


def test_too_many_certificates_are_refused() -> None:
    evidence = written(raw_report())
    evidence["cert_chain"] = [{"cert_type": "VCEK", "data": [1]}] * 33
    assert "33 certificates" in malformed(evidence)


@given(st.data())
@settings(max_examples=150)
def test_mutated_evidence_decodes_or_is_refused(data: st.DataObject) -> None:
    whole = snp_json.encode(parse_report(raw_report()), (Certificate("VCEK", b"abc"),))
    at = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.binary(max_size=4))
    drop = data.draw(st.integers(0, 40))
    try:
        report, _ = snp_json.decode(whole[:at] + change + whole[at + drop :])
    except AgentError as error:
        declared(error)
    else:
        assert snp_json.survives(report)


@pytest.mark.vectors
def test_recorded_evidence_rebuilds_verifies_and_encodes_again() -> None:
    evidence = recorded("snp/agent-evidence-genoa.json")
    report, certificates = snp_json.decode(evidence)
    assert (report.version, report.generation, len(report.raw)) == (3, "Genoa", 1184)
    roots = Roots(
        VENDOR.amd, VENDOR.intel, VENDOR.nvidia, certificates=(recorded("snp/genoa_ask_ark_asvk.pem"),)
    )
    assert holds(snp_chain.verify(report, [each.data for each in certificates], roots))
    again = json.loads(snp_json.encode(report, certificates))
    for member in ("launch_mit_vector", "current_mit_vector"):
        assert again["attestation_report"].pop(member) is None
    assert again == json.loads(evidence)


@pytest.mark.vectors
@pytest.mark.parametrize("name", ["test-report.bin", "test-vlek-report.bin"])
def test_recorded_reports_survive(name: str) -> None:
    raw = recorded(f"snp/{name}")
    report, _ = snp_json.decode(snp_json.encode(parse_report(raw), None))
    assert report.raw == raw
