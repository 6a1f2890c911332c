"""coco-agent inspect: every kind of evidence is recognised by content, shown, and judged."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.inspect import _context
from agent.cli.inspection.document import Context, Document
from agent.cli.inspection.recognise import recognise
from agent.cli.main import build_parser, main
from agent.config import limits
from agent.devkit.evidence_pki.amd import SnpState
from agent.devkit.evidence_pki.authority import der
from agent.tee.evidence import snp_json
from agent.tee.evidence.events import encode_event
from agent.tee.evidence.snp import parse_report
from agent.tee.evidence.snp_table import Certificate
from tests.unit.cli.inspect_files import FILES, HEADER, LOG, TD15, attestation, b64, csv, sample
from tests.unit.tee.evidence.amd import raw_report, signer
from tests.unit.tee.evidence.forge import Forge, attempt
from tests.unit.tee.evidence.test_encodings import token
from tests.unit.tee.evidence.test_events import event, spec_id
from tests.unit.tee.evidence.test_events_sha1 import SHA1_LOG, entry
from tests.vectors import recorded

if TYPE_CHECKING:
    from pathlib import Path

CERTIFICATE = der(signer("Milan").certificates["VCEK"])


def inspected(data: bytes, context: Context | None = None) -> Document:
    found = recognise(data, context or Context())
    assert found is not None
    return found


def checks(found: Document) -> dict[str, bool | None]:
    own = {check.name: check.passed for check in found.checks}
    for part in found.parts:
        own |= checks(part)
    return own


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tmp_path / "evidence"


def run(saved: Path, data: bytes, *options: str) -> int:
    saved.write_bytes(data)
    return main(["inspect", str(saved), *options])


# --- recordings --------------------------------------------------------------------------------------
@pytest.mark.vectors
@pytest.mark.parametrize(
    ("name", "kind", "chain"),
    [
        ("snp/test-report.bin", "snp-report", "snp/test-vcek.der"),
        ("snp/test-vlek-report.bin", "snp-report", "snp/test-vlek.der"),
        ("snp/agent-evidence-genoa.json", "snp-evidence", "snp/genoa_ask_ark_asvk.pem"),
        ("tdx/tdx_quote_4.dat", "tdx-quote", None),
        ("tdx/tdx_quote_6.dat", "tdx-quote", None),
        ("tdx/tdx_report_1.bin", "tdreport", None),
        ("sgx/occlum_quote.dat", "sgx-quote", None),
        ("az-snp-vtpm/evidence-v1.json", "az-snp-vtpm-evidence", "az-snp-vtpm/vcek.pem"),
        ("az-snp-vtpm/hcl-report.bin", "hcl-report", "az-snp-vtpm/vcek.pem"),
        ("az-tdx-vtpm/evidence-v1.json", "az-tdx-vtpm-evidence", None),
        ("az-tdx-vtpm/hcl-report.bin", "hcl-report", None),
        ("az-tdx-vtpm/tpm-quote-v1.json", "tpm-attest", None),
        ("eventlog/CCEL_AAEL_alibabacloud", "event-log", None),
        ("eventlog/CCEL_data_ovmf", "event-log", None),
        ("nvidia/hopperAttestationReport.txt", "spdm-report", "nvidia/hopper_cert_chain_case1.txt"),
    ],
)
def test_every_recording_is_recognised_and_no_check_fails(
    name: str,
    kind: str,
    chain: str | None,
    *,
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--json"]
    if chain:
        (tmp_path / "chain").write_bytes(recorded(chain))
        options += ["--chain", str(tmp_path / "chain")]
    assert run(saved, recorded(name), *options) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["kind"], shown["failed"]) == (kind, False)


@pytest.mark.vectors
def test_a_recorded_report_with_its_whole_chain_has_nothing_left_to_check(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chain").write_bytes(recorded("snp/genoa_ask_ark_asvk.pem"))
    assert run(saved, recorded("snp/agent-evidence-genoa.json"), "--chain", str(tmp_path / "chain")) == 0
    shown = capsys.readouterr().out
    assert "FAILED" not in shown
    assert "not checked" not in shown
    assert "SEV-VCEK < SEV-Genoa < ARK-Genoa" in shown


@pytest.mark.vectors
def test_a_wrong_certificate_ends_with_1(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chain").write_bytes(recorded("snp/milan_ask_ark_asvk.pem"))
    wrong = recorded("snp/test-vcek-invalid-new.der")
    (tmp_path / "wrong").write_bytes(wrong)
    assert run(saved, recorded("snp/test-report.bin"), "--chain", str(tmp_path / "wrong")) == 1
    ended = capsys.readouterr()
    assert "FAILED" in ended.out
    assert "do not trust" in ended.err


@pytest.mark.vectors
def test_the_recorded_debug_td_alarms(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(saved, recorded("tdx/tdx_quote_4.dat"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["alarms"] == ["debug"]


@pytest.mark.vectors
def test_the_recorded_logs_registers_are_shown(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(saved, recorded("eventlog/CCEL_AAEL_alibabacloud")) == 0
    shown = capsys.readouterr().out
    assert (
        "5e4ecd49d3c7983d6f9ca36755b5cee0b423d7fa8c5a88aeb0681bd4698772bc37b4463dc5f722efe352a66417257dad"
        in shown
    )
    assert "coco.com some-operation some-content" in shown


# --- every kind --------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_is_recognised_by_its_content(
    kind: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(saved, FILES[kind], "--json")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["kind"], status) == (kind, int(shown["failed"]))
    assert run(saved, FILES[kind]) == status
    assert capsys.readouterr().out.isascii()


@pytest.mark.parametrize("kind", ["tdx-quote", "tdreport", "spdm-report", "cca-token", "event-log"])
def test_binary_forms_are_recognised_as_hexadecimal_text(kind: str) -> None:
    assert inspected(FILES[kind].hex().upper().encode() + b"\n").kind == kind
    assert inspected(b"0x" + FILES[kind].hex().encode()).kind == kind


@pytest.mark.parametrize("kind", FILES)
def test_no_two_fields_have_one_name_for_programs(kind: str) -> None:
    def look(found: Document) -> None:
        assert len(found.as_json()["fields"]) == len(found.fields)  # type: ignore[arg-type]
        for part in found.parts:
            look(part)

    look(inspected(FILES[kind]))


def test_a_quote_of_unknown_roots_fails() -> None:
    found = checks(inspected(FILES["tdx-quote"]))
    assert found["PCK chain"] is False
    assert found["quote signature"] is True
    assert found["TCB status"] is None


def test_a_device_report_without_a_chain_is_not_checked() -> None:
    assert set(checks(inspected(FILES["spdm-report"])).values()) == {None}


def test_a_log_that_does_not_lead_to_the_quotes_registers_fails() -> None:
    found = checks(inspected(FILES["tdx-evidence"]))
    assert found["event log"] is True
    assert found["replay of RTMR3"] is False


def test_a_log_that_leads_to_the_registers_holds() -> None:
    value = "82d3f7a4203f58dafe0519eb5e9f645339cda127418c62d4b0270d790ab6ff3c38783523613a7a9f610e7ba004788c26"
    body = bytes(472) + bytes.fromhex(value) + bytes(64)
    evidence = {"quote": b64(Forge().quote(body)), "cc_eventlog": b64(LOG)}
    found = checks(inspected(json.dumps(evidence).encode()))
    assert [found[f"replay of RTMR{index}"] for index in range(4)] == [True] * 4


def test_version_1_of_a_csv_report_is_unmasked() -> None:
    plain, masked = (inspected(json.dumps(csv(extended=each)).encode()) for each in (True, False))
    wanted = {"measurement", "report data"}
    assert [f for f in plain.fields if f.name in wanted] == [f for f in masked.fields if f.name in wanted]


def test_a_csv_guest_that_may_be_debugged_alarms() -> None:
    evidence = csv(extended=True)
    report = evidence["attestation_report"]
    assert isinstance(report, dict)
    for policy, alarms in ((1, []), (0, ["debug"])):
        report["data"][176] = policy
        assert inspected(json.dumps(evidence).encode()).as_json()["alarms"] == alarms


@pytest.mark.parametrize(("lifecycle", "alarms"), [(0x3003, []), (0x4000, ["platform_lifecycle"])])
def test_a_cca_platform_that_is_not_secured_alarms(lifecycle: int, alarms: list[str]) -> None:
    assert inspected(token(_2395=lifecycle)).as_json()["alarms"] == alarms


def test_a_host_that_keeps_the_chip_from_signing_is_named() -> None:
    made = signer("Milan")
    data = bytearray(made.report(made.guest(), bytes(64)))
    data[0x48] |= 2  # MASK_CHIP_KEY
    found = inspected(bytes(data), Context(chain=(der(made.certificates["VCEK"]),)))
    assert found.as_json()["alarms"] == ["chip_key_masked"]
    assert any("MASK_CHIP_KEY" in check.detail for check in found.checks)


@pytest.mark.vectors
def test_a_quote_without_its_key_is_held_against_its_registers() -> None:
    quote = json.loads(recorded("az-tdx-vtpm/tpm-quote-v1.json"))
    wanted = {"TPM quote signature": None, "PCR selection": True, "PCR digest": True}
    assert checks(inspected(json.dumps(quote).encode())) == wanted
    quote["pcrs"][8] = "01" * 32
    assert checks(inspected(json.dumps(quote).encode()))["PCR digest"] is False


@pytest.mark.vectors
def test_events_of_a_recorded_log_can_be_read() -> None:
    (events, _) = inspected(recorded("eventlog/CCEL_AAEL_alibabacloud")).tables
    said = [row[-1] for row in events.rows]
    assert "SecureBoot = 00" in said
    assert "PK, empty" in said
    assert "Boot0000 UiApp" in said
    assert "grub_cmd set timeout=1" in said  # and not the byte that was measured behind it


def test_a_tpms_log_is_replayed_from_its_startup_locality() -> None:
    log = spec_id((0x0B, 32)) + event(0, 3, (0x0B, bytes(32)), data=b"StartupLocality\0\3")
    found = inspected(log + event(0, 8, (0x0B, b"\1" * 32)))
    value = hashlib.sha256(bytes(31) + b"\3" + b"\1" * 32).digest()
    assert found.tables[1].rows == ((0, "sha256", value),)
    assert found.as_json()["fields"] == {
        "algorithms": ["sha256"],
        "events": 3,
        "terminator": False,
        "startup_locality": 3,
    }


@pytest.mark.parametrize("data", [SHA1_LOG, spec_id((4, 20)) + event(0, 8, (4, bytes(20)))])
def test_a_log_with_sha1_alone_is_weak(saved: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
    assert run(saved, data) == 0
    assert "warning: weak: SHA-1" in capsys.readouterr().out
    both = spec_id((4, 20), (0x0B, 32)) + event(0, 8, (4, bytes(20)), (0x0B, bytes(32)))
    assert not any("weak" in each for each in inspected(both).warnings)


def test_a_sha1_log_that_is_cut_fails_and_is_shown() -> None:
    found = inspected(SHA1_LOG + entry(0, 8, b"more")[:-1])
    assert (found.kind, checks(found)["event log"]) == ("sha1-event-log", False)


@pytest.mark.parametrize(
    ("version", "vmpl", "refused"),
    [(2, 0, ["version 2"]), (3, 0, []), (5, 0, []), (3, 1, ["VMPL"]), (2, 0xFFFFFFFF, ["version 2", "VMPL"])],
)
def test_what_verifiers_refuse_of_a_report_is_a_warning(
    saved: Path, capsys: pytest.CaptureFixture[str], version: int, vmpl: int, refused: list[str]
) -> None:
    vendor = signer()
    raw = vendor.report(SnpState(version=version, tcb=vendor.tcb), bytes(64), vmpl)
    said = inspected(raw).warnings
    assert len(said) == len(refused)
    assert all(word in each for word, each in zip(refused, said, strict=True))
    run(saved, raw)
    shown = capsys.readouterr().out
    assert shown.count("  warning: Trustee refuses") == len(refused)


@pytest.mark.parametrize(
    ("kinds", "word"),
    [
        (("VCEK", "VLEK", "ASK"), ""),
        ((), ""),
        (("VLEK", "VCEK"), "VLEK"),
        (("ASK", "ARK"), "without VCEK"),
    ],
)
def test_a_chain_that_verifiers_misread_is_a_warning(kinds: tuple[str, ...], word: str) -> None:
    evidence = snp_json.encode(parse_report(raw_report()), [Certificate(kind, b"0") for kind in kinds])
    said = inspected(evidence).warnings
    assert [word in each for each in said] == ([True] if word else [])


def test_what_verifiers_refuse_of_a_log_is_a_warning(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = spec_id((0x0C, 48)) + event(1, 0x99, (0x0C, bytes(48))) + event(1, 0x99, (0x0C, bytes(48)))
    assert run(saved, log + bytes(4), "--json") == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [
        (
            "Trustee refuses the log for a type that it does not know "
            "(event 1, EV_0x00000099 at offset 65; 2 events)"
        ),
        "Trustee refuses the log for a terminator of 4 bytes, where 8 or none belong",
    ]


def test_each_chain_that_is_given_counts(saved: Path, tmp_path: Path) -> None:
    vendor = signer()
    raw = raw_report()
    ask, vcek = tmp_path / "ask", tmp_path / "vcek"
    ask.write_bytes(der(vendor.certificates["ASK"]))
    vcek.write_text(ssl.DER_cert_to_PEM_cert(der(vendor.certificates["VCEK"])))
    saved.write_bytes(raw)
    for one, other in ((ask, vcek), (vcek, ask)):
        arguments = build_parser("inspect").parse_args(
            ["inspect", str(saved), "--chain", str(one), "--chain", str(other), "--chain", str(one)]
        )
        found = _context(arguments.chain)
        assert sorted(found.chain) == sorted(
            (der(vendor.certificates["ASK"]), der(vendor.certificates["VCEK"]))
        )
        assert found.chain_pem.count(b"BEGIN") == 2
        judged = checks(inspected(raw, found))
        assert judged["report signature"] is True  # by the VCEK of one file
        assert judged["certificate chain"] is None  # the ASK of the other was found: the ARK is missing


def test_sample_evidence_is_an_alarm() -> None:
    assert inspected(FILES["sample-evidence"]).as_json()["alarms"] == ["proves_nothing"]


# --- attestations ------------------------------------------------------------------------------------
def test_an_attestations_evidence_is_held_against_nonce_and_key() -> None:
    found = inspected(attestation())
    primary, devices = found.parts
    assert checks(primary) == {"report data": True}
    assert checks(devices) == {"report data": True}
    assert not found.failed()


def test_another_nonce_fails_every_part() -> None:
    found = inspected(attestation(nonce="b3RoZXI="))
    assert [part.failed() for part in found.parts] == [True, True]


def test_init_data_of_an_attestation_is_digested(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.loads(attestation())
    text = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"aa.toml" = ""\n'
    body["init-data"] = {"format": "toml", "body": text}
    assert run(saved, json.dumps(body).encode(), "--json") == 0
    assert json.loads(capsys.readouterr().out)["fields"]["init_data"].startswith("sha256:")
    body["init-data"]["body"] = "not toml ="
    assert run(saved, json.dumps(body).encode()) == 1


def test_one_broken_part_leaves_the_others() -> None:
    both = {"sample": sample(b"x"), "tdx": {"quote": b64(b"cut"), "cc_eventlog": None}}
    found = inspected(json.dumps(both).encode())
    assert [part.kind for part in found.parts] == ["sample-evidence", "malformed"]
    assert found.failed()


# --- how it ends -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"hello", b"{}", b'{"quote": {}}', b"[1]", b"-----BEGIN X"]
)
def test_what_is_not_recognised_says_what_is_and_what_to_do(
    data: bytes, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(saved, data) == 1
    said = capsys.readouterr().err
    assert "next:" in said
    assert run(saved, data, "--json") == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["next"]
    assert shown["kind"] in {None, "malformed"}
    if shown["kind"] is None:
        assert "SNP attestation report" in said
        assert len(shown["known"]) > 10


@pytest.mark.parametrize(
    ("data", "step"),
    [
        (b"-----BEGIN CERTIFICATE-----", "PEM text"),
        (CERTIFICATE, "certificate in DER"),
        (b'{"tcbInfo": {}}', "JSON, and no evidence"),
        (b"", "is empty"),
        (b"\x7fELF", "decode base64"),
    ],
)
def test_the_next_step_fits_what_the_file_is(
    data: bytes, step: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(saved, data) == 1
    assert step in capsys.readouterr().err


@pytest.mark.vectors
def test_missing_certificates_have_a_next_step(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(saved, recorded("snp/test-report.bin"))
    assert "--chain FILE" in capsys.readouterr().out
    run(saved, recorded("tdx/tdx_quote_4.dat"))
    assert "--chain FILE" not in capsys.readouterr().out


def test_a_cut_file_says_where(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(saved, FILES["tdx-quote"][:-9]) == 1
    said = capsys.readouterr().err
    assert "EVIDENCE_MALFORMED" in said
    assert "offset" in said


def test_a_huge_file_is_not_read(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INSPECT_MAX", 1000)
    assert run(saved, bytes(1001)) == 1
    assert "PAYLOAD_TOO_LARGE" in capsys.readouterr().err


def test_a_file_that_is_not_there(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(saved)]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_chain_that_is_none(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chain").write_bytes(b"-----BEGIN CERTIFICATE-----\nx")
    assert run(saved, FILES["tdreport"], "--chain", str(tmp_path / "chain")) == 1
    assert "certificate chain" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "red"), [(None, True), ("", True), ("1", False)])
def test_alarms_and_failures_are_red_on_a_terminal(
    no_color: str | None, red: bool, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    debug = bytearray(TD15)
    debug[120] |= 1
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    assert run(saved, Forge().quote(bytes(debug), version=5, body_type=3)) == 1
    lines = shown.getvalue().splitlines()
    coloured = [line for line in lines if line.startswith("\x1b[31m")]
    assert bool(coloured) is red
    if red:
        assert any("debug" in line for line in coloured)
        assert any("PCK chain" in line for line in coloured)
        assert not any("quote signature" in line for line in coloured)


def test_nothing_is_coloured_in_a_pipe(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(saved, FILES["tdx-quote"])
    assert "\x1b" not in capsys.readouterr().out


def test_text_in_evidence_cannot_steer_the_terminal(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = encode_event(4, "sha384", "domain\x1b[2J", "operation", "content\u202e\x07")
    assert run(saved, HEADER + entry) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\x1b[2J" in shown


# --- properties --------------------------------------------------------------------------------------
def shows(data: bytes) -> None:
    found = attempt(lambda: recognise(data, Context(report_data=b"r" * 48, init_data=b"i" * 32)))
    if found is not None:
        assert found.as_text(colour=False).isascii()
        json.dumps(found.as_json())


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=600))
def test_any_bytes_are_shown_or_refused(data: bytes) -> None:
    for start in (b"", b"{", b"HCLA", b"\xffTCG", b"\xd9\x01\x8f", b"\x11\xe0\x01\xff", HEADER):
        shows(start + data)
    shows(b"\x02\0\0\0" + data.ljust(1180, b"\0")[:1180])


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(sorted(FILES)), at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_or_cut_file_is_shown_or_refused(kind: str, at: int, byte: int) -> None:
    data = FILES[kind]
    at %= len(data)
    shows(data[:at] + bytes([byte]) + data[at + 1 :])
    shows(data[:at])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({name for data in FILES.values() if data.startswith(b"{") for name in json.loads(data)})


@settings(max_examples=150, deadline=None)
@given(
    members=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5), tee=st.sampled_from(["tdx", "nvidia"])
)
def test_any_json_is_shown_or_refused(members: dict[str, object], tee: str) -> None:
    shows(json.dumps(members).encode())
    shows(json.dumps({tee: members}).encode())
    shows(json.dumps({"tee-evidence": members, "runtime-data": members}).encode())
