"""The throw-away vendors: what they sign is what the parsers read, and each lives by its own rules."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from agent.devkit.evidence_pki import (
    AmdSigner,
    IntelSigner,
    NvidiaSigner,
    SnpState,
    Tcb,
    TdState,
    TpmSigner,
    authority,
)
from agent.devkit.guests import firmware
from agent.tee.evidence import certs, der, events, quote_chain, snp, snp_chain, spdm, tdreport, tpm
from agent.tee.evidence.pck import parse_pck
from agent.tee.evidence.quote import parse_quote
from agent.tee.evidence.verdict import VENDOR, Check, holds

REPORT_DATA = bytes(range(64))
INTEL = IntelSigner()


def failing(checks: tuple[Check, ...]) -> set[str]:
    return {check.name for check in checks if not check.passed}


# --- AMD ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("vlek", [False, True])
def test_every_generation_signs_reports_that_hold(generation: Any, vlek: bool) -> None:
    tcb = Tcb(bootloader=4, tee=1, snp=130, microcode=255, fmc=2)
    signer = AmdSigner(generation, vlek=vlek, tcb=tcb)
    table = snp.parse_certificates(signer.table())
    assert [each.kind for each in table] == ["VLEK" if vlek else "VCEK", "ASK", "ARK"]
    for version in (3, 5):
        state = replace(signer.guest(b"\7" * 48), version=version, policy=0xB0000)
        report = snp.parse_report(signer.report(state, REPORT_DATA, vmpl=2))
        assert (report.version, report.vmpl, report.generation) == (version, 2, generation)
        assert (report.report_data, report.host_data) == (REPORT_DATA, b"\7" * 32)
        assert report.debug
        assert (report.reported_tcb.snp, report.reported_tcb.microcode) == (130, 255)
        assert report.reported_tcb.fmc == (2 if generation == "Turin" else None)
        certificates = [each.data for each in table]
        assert holds(snp_chain.verify(report, certificates, signer.roots))
        assert holds(snp_chain.verify(report, certificates[:1], signer.roots))  # completed from the roots
        assert not holds(snp_chain.verify(report, certificates, VENDOR))


def test_a_report_of_another_tcb_does_not_fit_the_certificate() -> None:
    signer = AmdSigner(tcb=Tcb(microcode=200))
    report = snp.parse_report(signer.report(SnpState(tcb=Tcb(microcode=201)), REPORT_DATA))
    checks = snp_chain.verify(
        report, [each.data for each in snp.parse_certificates(signer.table())], signer.roots
    )
    assert "report signature" not in failing(checks)
    assert failing(checks)


def test_a_changed_report_can_be_signed_again() -> None:
    signer = AmdSigner()
    certificates = [each.data for each in snp.parse_certificates(signer.table())]
    changed = bytearray(signer.report(signer.guest(), REPORT_DATA))
    changed[0x90] ^= 1
    broken, mended = snp.parse_report(bytes(changed)), snp.parse_report(signer.resigned(bytes(changed)))
    assert failing(snp_chain.verify(broken, certificates, signer.roots)) == {"report signature"}
    assert holds(snp_chain.verify(mended, certificates, signer.roots))


def test_fields_of_another_size_are_not_packed() -> None:
    signer = AmdSigner()
    with pytest.raises(ValueError, match="64 bytes, 48 given"):
        signer.report(signer.guest(), bytes(48))
    with pytest.raises(ValueError, match="48 bytes"):
        INTEL.tdreport(TdState(mrtd=b"short"), REPORT_DATA)
    with pytest.raises(ValueError, match="64 bytes"):
        INTEL.tdreport(TdState(), b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        NvidiaSigner().report(b"short")


# --- Intel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_a_quote_carries_what_the_report_says(version: int) -> None:
    state = TdState(
        mrconfigid=b"\5" * 48, rtmrs=(b"\1" * 48, b"\2" * 48, b"\3" * 48, b"\4" * 48), attributes=1
    )
    raw = INTEL.tdreport(state, REPORT_DATA)
    report = tdreport.parse_tdreport(raw)
    assert failing(tdreport.verify(report)) <= {"MAC"}
    quote = parse_quote(INTEL.quote(raw, version, padding=70))
    body: Any = quote.body
    assert (quote.version, body.report_data, body.mrconfigid) == (version, REPORT_DATA, b"\5" * 48)
    assert (body.rtmrs, body.mrtd, body.debug) == (report.rtmrs, report.mrtd, True)
    assert (body.mrseam, body.tee_tcb_svn) == (report.mrseam, report.tee_tcb_svn)
    assert holds(quote_chain.offline(quote_chain.verify(quote, INTEL.roots)))
    assert failing(quote_chain.offline(quote_chain.verify(quote, VENDOR))) == {"PCK chain"}


def test_the_quoting_enclave_signs_for_its_own_platform_only() -> None:
    raw = INTEL.tdreport(TdState(), REPORT_DATA)
    other = IntelSigner().tdreport(TdState(), REPORT_DATA)
    for report in (other, raw[:128] + b"\1" + raw[129:], raw[:600] + b"\1" + raw[601:], raw[:1000]):
        with pytest.raises(ValueError, match="refuses"):
            INTEL.quote(report)


def test_the_pck_names_its_platform() -> None:
    pck = parse_pck(INTEL.chain[0])
    assert pck.fmspc.hex() == "00806f050000"
    assert pck.pce_svn == 11
    assert pck.components[:6] == (5, 5, 2, 2, 3, 1)


# --- NVIDIA and TPM -------------------------------------------------------------------------------------


def test_a_gpu_report_holds_for_its_nonce() -> None:
    signer = NvidiaSigner()
    report = spdm.parse(signer.report(b"n" * 32))
    chain = authority.pem(*signer.chain)
    assert holds(spdm.verify(report, chain, signer.roots, b"n" * 32))
    assert failing(spdm.verify(report, chain, signer.roots, b"m" * 32)) == {"nonce"}
    assert "device chain" in failing(spdm.verify(report, chain, VENDOR, b"n" * 32))
    assert len(report.measurements) == 4


def test_a_tpm_quote_holds_for_nonce_and_pcrs() -> None:
    signer, pcrs = TpmSigner(), [bytes([number]) * 32 for number in range(24)]
    message, signature = signer.quote(b"nonce", pcrs)
    assert holds(tpm.verify_quote(message, signature, pcrs, signer.public, b"nonce"))
    assert not holds(tpm.verify_quote(message, signature, pcrs, signer.public, b"Nonce"))
    assert not holds(tpm.verify_quote(message, signature, pcrs[::-1], signer.public, b"nonce"))


# --- the parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 127, 128, 217, 255, 256, 65535])
def test_integers_are_der(value: int) -> None:
    (element,) = der.elements(authority.integer(value), "test")
    assert der.unsigned(element, "test") == value


def test_object_identifiers_are_der() -> None:
    for dotted in ("1.2.840.113741.1.13.1.2.18", "2.23.133.5.4.1", "1.3.6.1.4.1.3704.1.3.8"):
        (element,) = der.elements(authority.oid(dotted), "test")
        assert der.dotted(element, "test") == dotted


def test_pins_are_the_parsers() -> None:
    root = INTEL.chain[-1]
    assert INTEL.roots.intel == {certs.key_pin(root)}
    assert authority.pin(root) == certs.key_pin(root)


def test_the_firmware_log_leads_to_its_registers() -> None:
    booted = firmware.boot()
    log = events.parse_log(booted.ccel)
    registers = events.replay(log, "sha384")
    assert tuple(registers.get(index, bytes(48)) for index in range(1, 5)) == booted.rtmrs
    assert all(events.digest_matches_event(event) for event in log.events[1:])
    assert booted.rtmrs[3] == bytes(48)
    assert hashlib.sha384(booted.ccel).digest() == hashlib.sha384(firmware.boot().ccel).digest()
