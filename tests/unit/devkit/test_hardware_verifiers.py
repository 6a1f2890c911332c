"""The development KBS verifies hardware evidence: what holds is taken, one flipped bit anywhere is not."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.devkit.evidence_pki import AmdSigner, IntelSigner
from agent.devkit.kbs import verifiers, wire
from agent.devkit.kbs.verifiers import az_snp_vtpm, az_tdx_vtpm
from agent.devkit.kbs.verifiers import snp as snp_verifier
from agent.devkit.kbs.verifiers import tdx as tdx_verifier
from agent.devkit.kbs.verifiers.appraisal import Expected
from agent.tee.evidence import certs, tpm
from agent.tee.evidence.quote import parse_quote
from agent.tee.evidence.verdict import VENDOR, Roots
from tests.vectors import recorded

from . import hardware
from .guest import RFC7515_KEY, digest
from .hardware import ROOTS, Made

if TYPE_CHECKING:
    from collections.abc import Callable

TEES = ("snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm", "tpm")
TOML = 'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"policy.rego" = "package p"\n'
RUNTIME = {"nonce": "n", "tee-pubkey": RFC7515_KEY}


def body_of(evidence: Any, *, init_data: str | None = None, additional: str = "") -> dict[str, Any]:
    return {
        "init-data": init_data and {"format": "toml", "body": init_data},
        "runtime-data": json.loads(json.dumps(RUNTIME)),
        "tee-evidence": {"primary_evidence": evidence, "additional_evidence": additional},
    }


def made(tee: str, *, init_data: str | None = None, additional: str = "") -> Made:
    claims = {"additional-evidence": additional, **RUNTIME}
    init_digest = init_data and hashlib.sha256(init_data.encode()).digest()
    return Made(tee, digest(claims), init_digest or None)


def check(tee: str, body: dict[str, Any], roots: Roots = ROOTS) -> list[verifiers.Appraisal]:
    parsed = wire.decode(json.dumps(body).encode(), wire.Attestation)
    return verifiers.verify(tee, parsed, "sha384", roots)


def flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def flip_base64(text: str, at: int) -> str:
    return hardware.b64(flip(base64.b64decode(text), at))


def flip_base64url(text: str, at: int) -> str:
    return hardware.b64u(flip(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), at))


def flip_hex(text: str, at: int) -> str:
    return flip(bytes.fromhex(text), at).hex()


# --- what holds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("init_data", [None, TOML], ids=["plain", "init-data"])
@pytest.mark.parametrize("tee", TEES)
def test_evidence_that_holds_is_taken(tee: str, init_data: str | None) -> None:
    guest = made(tee, init_data=init_data)
    (found,) = check(tee, body_of(guest.evidence(), init_data=init_data))
    assert (found.tee, found.submod_class) == (tee, "cpu")
    wanted = {"snp": guest.field64, "tdx": guest.field64, "tpm": guest.report_data[:32]}
    assert found.report_data == wanted.get(tee, guest.report_data).hex()
    assert (found.init_claims is None) == (init_data is None)
    if tee == "snp" and init_data:
        assert found.init_data == hashlib.sha256(init_data.encode()).hexdigest()


def test_claims_are_named_as_trustee_names_them() -> None:
    snp = check("snp", body_of(made("snp").evidence()))[0].hardware
    assert snp["policy_abi_major"] == 0
    assert snp["policy_smt_allowed"] is True
    assert snp["policy_debug_allowed"] is False
    assert snp["reported_tcb_microcode"] == 217
    assert snp["measurement"] == bytes(range(48)).hex()
    azure = check("az-snp-vtpm", body_of(made("az-snp-vtpm").evidence()))[0].hardware
    assert (azure["policy_smt_allowed"], azure["reported_tcb_microcode"]) == ("true", "217")
    assert azure["measurement"] == hardware.b64(bytes(range(48)))
    tdx = check("tdx", body_of(made("tdx").evidence()))[0].hardware
    assert tdx["tcb_status"] == snp["tcb_status"] == "unverified"
    plain = json.loads(json.dumps(tdx))
    assert plain["quote"]["body"]["mr_td"] == bytes(range(48)).hex()
    assert plain["td_attributes"]["debug"] is False
    assert [each["index"] for each in plain["uefi_event_logs"]] == [0, 1, 4]
    tpm = check("tpm", body_of(made("tpm").evidence()))[0].hardware
    assert tpm["pcr23"] == "17" * 32
    assert tpm["ak_public"] == hardware.b64(hardware.TPM.public_der)


def test_a_gpu_beside_the_tee() -> None:
    additional = json.dumps({"nvidia": Made("nvidia", digest(RUNTIME)).evidence()})
    guest = made("tdx", additional=additional)
    found = check("tdx", body_of(guest.evidence(), additional=additional))
    assert [(each.tee, each.submod_class) for each in found] == [("tdx", "cpu"), ("nvidia", "gpu")]


# --- recorded on real hardware ----------------------------------------------------------------------------


def amd_chain(generation: str) -> tuple[bytes, ...]:
    chain = certs.load_pem_chain(recorded(f"snp/{generation}_ask_ark_asvk.pem"))
    return tuple(certs.der(each) for each in chain)


@pytest.mark.vectors
def test_a_recorded_genoa_guest_is_taken_with_amds_roots() -> None:
    evidence = recorded("snp/agent-evidence-genoa.json")
    report = json.loads(evidence)["attestation_report"]
    roots = replace(VENDOR, certificates=amd_chain("genoa"))
    (found,) = snp_verifier.verify(evidence, Expected("snp", bytes(report["report_data"]), None), roots)
    assert found.hardware["measurement"] == bytes(report["measurement"]).hex()
    report["measurement"][0] ^= 1
    changed = json.dumps({**json.loads(evidence), "attestation_report": report}).encode()
    with pytest.raises(wire.MalformedError, match="snp: report signature"):
        snp_verifier.verify(changed, Expected("snp", bytes(report["report_data"]), None), roots)


@pytest.mark.vectors
@pytest.mark.parametrize(
    ("tee", "module"), [("az-snp-vtpm", az_snp_vtpm), ("az-tdx-vtpm", az_tdx_vtpm)], ids=["snp", "tdx"]
)
def test_a_recorded_azure_guest_is_taken_with_the_vendors_roots(tee: str, module: Any) -> None:
    evidence = recorded(f"{tee}/evidence-v1.json")
    message = bytes.fromhex(json.loads(evidence)["tpm_quote"]["message"])
    nonce = tpm.parse_attest(message).extra_data
    roots = replace(VENDOR, certificates=amd_chain("milan") + amd_chain("genoa"))
    (found,) = module.verify(evidence, Expected(tee, nonce, None), roots)
    claims = json.loads(json.dumps(found.hardware))
    assert len(claims["tpm"]) == 24
    assert found.report_data == nonce.hex()
    with pytest.raises(wire.MalformedError, match=f"{tee}: TPM quote nonce"):
        module.verify(evidence, Expected(tee, nonce[:-1], None), roots)


def of_version_0(evidence: dict[str, Any]) -> dict[str, Any]:
    """As agents wrote it first: no version, bytes as numbers, the VCEK in PEM."""

    def b64u(name: str) -> list[int]:
        return list(base64.urlsafe_b64decode(evidence[name] + "=="))

    old = {
        "message": list(bytes.fromhex(evidence["tpm_quote"]["message"])),
        "signature": list(bytes.fromhex(evidence["tpm_quote"]["signature"])),
        "pcrs": [list(bytes.fromhex(pcr)) for pcr in evidence["tpm_quote"]["pcrs"]],
    }
    if "td_quote" in evidence:
        return {"tpm_quote": old, "hcl_report": b64u("hcl_report"), "td_quote": b64u("td_quote")}
    pem = ssl.DER_cert_to_PEM_cert(bytes(b64u("vcek")))
    return {"quote": old, "report": b64u("hcl_report"), "vcek": pem}


@pytest.mark.parametrize("tee", ["az-snp-vtpm", "az-tdx-vtpm"])
def test_azures_evidence_of_version_0_is_taken(tee: str) -> None:
    evidence = made(tee).evidence()
    new, old = (check(tee, body_of(each))[0] for each in (evidence, of_version_0(evidence)))
    assert old.hardware == new.hardware
    changed = of_version_0(evidence)
    changed["quote" if tee == "az-snp-vtpm" else "tpm_quote"]["pcrs"][0][0] ^= 1
    with pytest.raises(wire.MalformedError, match=f"{tee}: PCR"):
        check(tee, body_of(changed))


@pytest.mark.vectors
def test_claims_of_a_recorded_td_are_trustees() -> None:
    raw = recorded("tdx/tdx_quote_4.dat")
    expected = json.loads(recorded("tdx/parse_tdx_claims_expected.json"))
    quote = parse_quote(raw)
    evidence = json.dumps({"quote": hardware.b64(raw), "cc_eventlog": None}).encode()
    (found,) = tdx_verifier.verify(evidence, Expected("tdx", quote.report_data, None), VENDOR)
    assert found.hardware["quote"] == expected["quote"]
    assert found.hardware["td_attributes"] == expected["td_attributes"]
    assert (found.report_data, found.init_data) == (expected["report_data"], expected["init_data"])


# --- what does not --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tee", ["snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm"])
def test_the_devkits_roots_are_believed_only_when_they_were_given(tee: str) -> None:
    body = body_of(made(tee).evidence())
    with pytest.raises(wire.MalformedError):
        check(tee, body, VENDOR)
    with pytest.raises(wire.MalformedError):
        check(tee, body, replace(VENDOR, certificates=ROOTS.certificates))
    other = Roots(AmdSigner().roots.amd, IntelSigner().roots.intel, frozenset(), ROOTS.certificates)
    with pytest.raises(wire.MalformedError):
        check(tee, body, other)


@pytest.mark.parametrize("tee", TEES)
def test_a_nonce_or_key_of_another_session_is_refused(tee: str) -> None:
    for change in ({"nonce": "N"}, {"tee-pubkey": RFC7515_KEY | {"x": RFC7515_KEY["y"]}}):
        body = body_of(made(tee).evidence())
        body["runtime-data"] |= change
        with pytest.raises(wire.MalformedError, match=rf"{tee}: (report data|TPM quote nonce)"):
            check(tee, body)


@pytest.mark.parametrize("tee", TEES)
def test_device_evidence_that_was_changed_added_or_dropped_is_refused(tee: str) -> None:
    additional = json.dumps({"sampledevice": {"svn": "2", "report_data": hardware.b64(digest(RUNTIME))}})
    body = body_of(made(tee, additional=additional).evidence(), additional=additional)
    assert len(check(tee, body)) == 2
    for other in ("", additional.replace('"2"', '"3"'), additional + " "):
        body["tee-evidence"]["additional_evidence"] = other
        with pytest.raises(wire.MalformedError, match=rf"{tee}: (report data|TPM quote nonce)"):
            check(tee, body)


@pytest.mark.parametrize("tee", TEES)
def test_init_data_the_hardware_does_not_know_is_refused(tee: str) -> None:
    body = body_of(made(tee, init_data=TOML).evidence(), init_data=TOML.replace("package p", "package q"))
    with pytest.raises(wire.MalformedError, match=rf"{tee}: init-data"):
        check(tee, body)
    body = body_of(made(tee).evidence(), init_data=TOML)
    with pytest.raises(wire.MalformedError, match=rf"{tee}: init-data"):
        check(tee, body)


@pytest.mark.parametrize("tee", ["az-snp-vtpm", "tpm"])
def test_a_vtpm_takes_init_data_of_sha256_only(tee: str) -> None:
    body = body_of(made(tee).evidence(), init_data=TOML.replace("sha256", "sha384"))
    with pytest.raises(wire.MalformedError, match="init-data"):
        check(tee, body)


def _snp_byte(field: str) -> Callable[[dict[str, Any]], None]:
    def change(evidence: dict[str, Any]) -> None:
        evidence["attestation_report"][field][0] ^= 1

    return change


def _snp_signature(evidence: dict[str, Any]) -> None:
    evidence["attestation_report"]["signature"]["s"][0] ^= 1


def _snp_leaf(evidence: dict[str, Any]) -> None:
    evidence["cert_chain"][0]["data"][-1] ^= 1


def _in_text(*path: str, at: int, how: Callable[[str, int], str]) -> Callable[[dict[str, Any]], None]:
    def change(evidence: dict[str, Any]) -> None:
        for name in path[:-1]:
            evidence = evidence[name]
        evidence[path[-1]] = how(evidence[path[-1]], at)

    return change


def _pcr(number: int) -> Callable[[dict[str, Any]], None]:
    def change(evidence: dict[str, Any]) -> None:
        pcrs = evidence["tpm_quote"]["pcrs"]
        pcrs[number] = flip_hex(pcrs[number], 0)

    return change


FLIPS: dict[str, list[Callable[[dict[str, Any]], None]]] = {
    "snp": [_snp_byte(each) for each in ("report_data", "measurement", "host_data", "chip_id")]
    + [_snp_signature, _snp_leaf],
    "tdx": [_in_text("quote", at=at, how=flip_base64) for at in (48 + 136, 48 + 184, 48 + 520, 640, 700, 800)]
    + [_in_text("cc_eventlog", at=at, how=flip_base64) for at in (65, 90)],
    "az-snp-vtpm": [
        _pcr(0), _pcr(8),
        _in_text("tpm_quote", "message", at=-1, how=flip_hex),
        _in_text("tpm_quote", "signature", at=9, how=flip_hex),
        _in_text("hcl_report", at=32 + 0x90, how=flip_base64url),
        _in_text("hcl_report", at=1236 + 70, how=flip_base64url),
        _in_text("vcek", at=-1, how=flip_base64url),
    ],
    "az-tdx-vtpm": [
        _pcr(0), _pcr(8),
        _in_text("tpm_quote", "signature", at=9, how=flip_hex),
        _in_text("hcl_report", at=1236 + 70, how=flip_base64url),
        _in_text("td_quote", at=48 + 136, how=flip_base64url),
        _in_text("td_quote", at=48 + 520, how=flip_base64url),
    ],
    "tpm": [
        _pcr(0), _pcr(23),
        _in_text("tpm_quote", "message", at=-1, how=flip_base64),
        _in_text("tpm_quote", "signature", at=9, how=flip_base64),
        _in_text("ak_public", at=60, how=flip_base64),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("tee", "number"), [(tee, number) for tee, changes in FLIPS.items() for number in range(len(changes))]
)
def test_one_flipped_bit_of_evidence_is_refused(tee: str, number: int) -> None:
    evidence = made(tee).evidence()
    FLIPS[tee][number](evidence)
    with pytest.raises(wire.MalformedError, match=f"^{tee}: "):
        check(tee, body_of(evidence))


def test_only_vmpl_0_and_known_versions_are_taken() -> None:
    guest = made("snp")
    guest.vmpl = 1
    with pytest.raises(wire.MalformedError, match="snp: vmpl"):
        check("snp", body_of(guest.evidence()))
    guest = made("snp")
    guest.version = 2
    with pytest.raises(wire.MalformedError, match="snp: report version"):
        check("snp", body_of(guest.evidence()))


def test_a_log_has_to_explain_every_register() -> None:
    guest = made("tdx")
    guest.log = hardware.spec_id() + hardware.event(4, b"image") + b"\xff" * 8
    with pytest.raises(wire.MalformedError, match="tdx: event log: its replay does not give RTMR0"):
        check("tdx", body_of(guest.evidence()))
    guest.log = b""
    assert "uefi_event_logs" not in check("tdx", body_of(guest.evidence()))[0].hardware


def test_an_hcl_report_made_for_other_report_data_is_refused() -> None:
    old, new = made("az-snp-vtpm").evidence(), Made("az-snp-vtpm", b"o" * 48).evidence()
    old["hcl_report"] = new["hcl_report"]
    with pytest.raises(wire.MalformedError, match="az-snp-vtpm: user data"):
        check("az-snp-vtpm", body_of(old))


def test_a_report_of_the_other_azure_tee_is_refused() -> None:
    evidence = made("az-tdx-vtpm").evidence()
    evidence["vcek"] = made("az-snp-vtpm").evidence()["vcek"]
    with pytest.raises(wire.MalformedError, match="az-snp-vtpm: HCL report"):
        check("az-snp-vtpm", body_of(evidence))


# --- anything -------------------------------------------------------------------------------------------


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(tee=st.sampled_from(TEES), data=st.data())
def test_evidence_with_any_member_replaced_is_refused_or_taken_cleanly(tee: str, data: st.DataObject) -> None:
    evidence = made(tee).evidence()
    members: dict[str, Any] = evidence
    while True:
        name = data.draw(st.sampled_from(sorted(members)))
        if not isinstance(members[name], dict) or data.draw(st.booleans()):
            break
        members = members[name]
    members[name] = data.draw(
        st.none() | st.text(max_size=20) | st.integers() | st.lists(st.integers(0, 255), max_size=4)
    )
    with contextlib.suppress(wire.MalformedError):
        check(tee, body_of(evidence))
