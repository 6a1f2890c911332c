from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import az_json, tpm_json
from agent.tee.evidence.az_json import SNP, TDX, AzureEvidence
from agent.tee.evidence.hcl import parse_hcl
from agent.tee.evidence.tpm import bound_init_data, verify_quote
from agent.tee.evidence.verdict import holds
from tests.unit.tee.evidence import azure
from tests.unit.tee.evidence.azure import NONCE, PCRS
from tests.vectors import recorded

if TYPE_CHECKING:
    from collections.abc import Mapping

CERTIFICATE = b"0\x82certificate"


def evidence(nonce: bytes = NONCE, pcrs: tuple[bytes, ...] = PCRS) -> AzureEvidence:
    message = azure.attest(nonce, pcrs)
    return AzureEvidence(SNP, message, azure.sign(message), pcrs, azure.report(), (CERTIFICATE,))


def failed(found: AzureEvidence, report_data: bytes, init_data: bytes | None = None) -> set[str]:
    return {each.name for each in az_json.verify(found, report_data, init_data) if each.passed is False}


def test_what_is_written_is_version_2_of_the_sheet() -> None:
    document = json.loads(az_json.encode(evidence()))
    assert set(document) == {"version", "tpm_quote", "hcl_report", "vcek"}
    assert document["version"] == 2
    assert set(document["tpm_quote"]) == {"signature", "message", "pcrs"}
    assert len(bytes.fromhex(document["tpm_quote"]["signature"])) == 256
    assert document["tpm_quote"]["pcrs"] == [pcr.hex() for pcr in PCRS]
    tdx = AzureEvidence(TDX, b"m", b"s", PCRS, b"h" * 4, td_quote=b"\xfb\xff\xfe\x00")
    document = json.loads(az_json.encode(tdx))
    assert set(document) == {"version", "tpm_quote", "hcl_report", "td_quote"}
    assert document["td_quote"] == "-__-AA=="  # URL-safe, padded


def test_what_is_written_is_read_back() -> None:
    assert az_json.decode(az_json.encode(evidence())) == evidence()


def test_each_binding_is_checked() -> None:
    digest = b"d" * 32
    bound = bound_init_data(digest)
    assert bound is not None
    pcrs = (*PCRS[:8], bound, *PCRS[9:])
    good = evidence(pcrs=pcrs)
    assert failed(good, NONCE, digest) == set()
    assert holds(az_json.verify(good, NONCE, digest))
    assert failed(good, b"x" * 48, digest) == {"TPM quote nonce", "user data"}
    assert failed(good, NONCE, b"e" * 32) == {"init-data in PCR 8"}
    other = evidence(b"x" * 48, pcrs)  # a quote over another nonce beside the same report
    assert failed(other, NONCE, digest) == {"TPM quote nonce"}
    assert failed(other, b"x" * 48, digest) == {"user data"}


def test_a_report_of_the_other_tee_is_refused() -> None:
    found = evidence()
    swapped = AzureEvidence(TDX, found.message, found.signature, PCRS, found.hcl_report, td_quote=b"q")
    with pytest.raises(AgentError, match="type SNP"):
        az_json.verify(swapped, NONCE, None)


def changed(**members: object) -> bytes:
    document: dict[str, Any] = json.loads(az_json.encode(evidence()))
    quote: dict[str, object] = document["tpm_quote"]
    for name, value in members.items():
        where = quote if name in quote else document
        where[name] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "members",
    [
        {"version": 3},
        {"version": -1},
        {"version": "2"},
        {"td_quote": "AAAA"},
        {"vcek": ""},
        {"signature": "zz"},
        {"signature": "0"},
        {"message": [1]},
        {"pcrs": ["00 00"]},
        {"hcl_report": "++++"},  # the other alphabet
        {"hcl_report": "AAA"},  # no padding
        {"hcl_report": "AA\nAA"},
    ],
    ids=str,
)
def test_other_spellings_are_refused(members: Mapping[str, object]) -> None:
    with pytest.raises(AgentError) as caught:
        az_json.decode(changed(**members))
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


def test_the_oldest_form_of_tdx_is_read() -> None:
    quote = {"signature": [1, 2], "message": [3], "pcrs": [[4] * 32] * 24}
    document = {"tpm_quote": quote, "hcl_report": [5, 6], "td_quote": [7]}
    found = az_json.decode(json.dumps(document).encode())
    assert (found.tee, found.version, found.td_quote) == (TDX, 0, b"\x07")
    assert (found.signature, found.message, found.pcrs[23]) == (b"\1\2", b"\3", b"\4" * 32)
    quote["signature"] = [256]
    with pytest.raises(AgentError):
        az_json.decode(json.dumps(document).encode())


def plain() -> tpm_json.TpmEvidence:
    message = azure.attest(NONCE[:32])
    marshalled = bytes.fromhex("0014000b0100") + azure.sign(message)
    return tpm_json.TpmEvidence(message, marshalled, PCRS, tpm_json.key_info(azure.key().public_key()))


def test_a_plain_tpm_quotes_the_first_32_bytes() -> None:
    document = json.loads(tpm_json.encode(plain()))
    assert set(document) == {"tpm_quote", "ak_public"}
    assert document["tpm_quote"]["signature"].startswith("ABQACwEA")
    found = tpm_json.decode(tpm_json.encode(plain()))
    assert found == plain()
    assert all(each.passed is not False for each in tpm_json.verify(found, NONCE, None))
    checks = tpm_json.verify(found, b"x" + NONCE[1:], None)
    assert [each.name for each in checks if each.passed is False] == ["TPM quote nonce"]


def test_a_plain_tpm_needs_an_rsa_key() -> None:
    found = plain()
    for ak in (b"", found.ak[:-1], b"0" * 40):
        with pytest.raises(AgentError):
            tpm_json.verify(tpm_json.TpmEvidence(found.message, found.signature, PCRS, ak), NONCE, None)


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_noise_is_refused_politely(data: bytes) -> None:
    for decode in (az_json.decode, tpm_json.decode):
        with pytest.raises(AgentError):
            decode(data)


@settings(max_examples=150)
@given(st.data())
def test_changed_evidence_is_refused_or_judged(data: st.DataObject) -> None:
    text = bytearray(az_json.encode(evidence()))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(text)), st.integers(0, len(text))))
    with azure.parsed_or_malformed():
        az_json.verify(az_json.decode(bytes(text[:end])), NONCE, None)


def test_too_much_of_it_is_refused() -> None:
    for decode in (az_json.decode, tpm_json.decode):
        with pytest.raises(AgentError, match="bytes"):
            decode(b" " * 300_000)


@pytest.mark.vectors
@pytest.mark.parametrize("tee", [SNP, TDX])
def test_recorded_evidence_holds(tee: str) -> None:
    found = az_json.decode(recorded(f"{tee}/evidence-v1.json"))
    assert (found.tee, found.version) == (tee, 1)
    checks = az_json.verify(found, b"challenge", None)
    assert [each.name for each in checks if each.passed is not True] == ["init-data in PCR 8"]
    assert failed(found, b"challengf") == {"TPM quote nonce"}
    document = json.loads(recorded(f"{tee}/evidence-v1.json"))
    assert json.loads(az_json.encode(found)) == document | {"version": 2}


@pytest.mark.vectors
@pytest.mark.parametrize("tee", [SNP, TDX])
def test_recorded_quotes_are_signed_by_the_report_s_key(tee: str) -> None:
    quote = json.loads(recorded(f"{tee}/tpm-quote-v1.json"))
    report = parse_hcl(recorded(f"{tee}/hcl-report.bin"))
    pcrs = [bytes.fromhex(pcr) for pcr in quote["pcrs"]]
    parts = bytes.fromhex(quote["message"]), bytes.fromhex(quote["signature"])
    assert holds(verify_quote(*parts, pcrs, report.ak, b"challenge"))


@pytest.mark.vectors
@pytest.mark.parametrize("tee", [SNP, TDX])
def test_recorded_evidence_in_the_oldest_form_is_the_same(tee: str) -> None:
    new = az_json.decode(recorded(f"{tee}/evidence-v1.json"))
    quote = {
        "signature": list(new.signature),
        "message": list(new.message),
        "pcrs": [list(pcr) for pcr in new.pcrs],
    }
    if tee == SNP:
        pem = recorded("az-snp-vtpm/vcek.pem").decode()
        old: dict[str, object] = {"quote": quote, "report": list(new.hcl_report), "vcek": pem}
    else:
        old = {"tpm_quote": quote, "hcl_report": list(new.hcl_report), "td_quote": list(new.td_quote)}
    found = az_json.decode(json.dumps(old).encode())
    assert (found.tee, found.version) == (tee, 0)
    assert (found.message, found.signature, found.pcrs) == (new.message, new.signature, new.pcrs)
    assert (found.hcl_report, found.td_quote) == (new.hcl_report, new.td_quote)
    assert len(found.certificates) == (3 if tee == SNP else 0)
    assert failed(found, b"challenge") == set()
