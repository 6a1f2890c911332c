"""SNP reports and certificate tables against attesters.md 2.3, 2.4 and 18.1."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.snp import Firmware, SnpReport, Tcb, parse_certificates, parse_report
from agent.tee.evidence.snp_table import MAX_CERTIFICATES
from tests.unit.tee.evidence.amd import changed, declared, raw_report, signer
from tests.vectors import recorded

VCEK = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes
ASK = uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes
GOOGLE = uuid.UUID("ecae0c0f-9502-43b1-afa2-0ae2e0d565b6").bytes


def malformed(data: bytes) -> str:
    with pytest.raises(AgentError) as caught:
        parse_report(data)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED
    return caught.value.detail


def numbered(version: int, cpuid: bytes = b"\x19\x11\x01") -> bytes:
    """A report in which every byte tells its place."""
    data = bytearray(range(256)) * 5
    data[:4] = version.to_bytes(4, "little")
    data[0x188:0x18B] = cpuid
    return bytes(data[:1184])


def test_every_field_is_at_its_offset() -> None:
    raw = numbered(5)
    found = parse_report(raw)
    assert found.raw == raw
    assert found.guest_svn == int.from_bytes(raw[0x04:0x08], "little")
    assert found.policy == int.from_bytes(raw[0x08:0x10], "little")
    assert found.family_id == raw[0x10:0x20]
    assert found.image_id == raw[0x20:0x30]
    assert found.vmpl == int.from_bytes(raw[0x30:0x34], "little")
    assert found.signature_algorithm == int.from_bytes(raw[0x34:0x38], "little")
    assert found.platform_info == int.from_bytes(raw[0x40:0x48], "little")
    assert found.key_info == int.from_bytes(raw[0x48:0x4C], "little")
    assert found.report_data == raw[0x50:0x90]
    assert found.measurement == raw[0x90:0xC0]
    assert found.host_data == raw[0xC0:0xE0]
    assert found.id_key_digest == raw[0xE0:0x110]
    assert found.author_key_digest == raw[0x110:0x140]
    assert found.report_id == raw[0x140:0x160]
    assert found.report_id_ma == raw[0x160:0x180]
    assert found.cpuid == (0x19, 0x11, 0x01)
    assert found.chip_id == raw[0x1A0:0x1E0]
    assert found.current == Firmware(raw[0x1EA], raw[0x1E9], raw[0x1E8])
    assert found.committed == Firmware(raw[0x1EE], raw[0x1ED], raw[0x1EC])
    assert found.launch_mit_vector == int.from_bytes(raw[0x1F8:0x200], "little")
    assert found.current_mit_vector == int.from_bytes(raw[0x200:0x208], "little")
    assert found.signature_r == raw[0x2A0:0x2E8]
    assert found.signature_s == raw[0x2E8:0x330]
    assert found.signed == raw[:0x2A0]


def tcbs(found: SnpReport) -> list[Tcb]:
    return [found.current_tcb, found.reported_tcb, found.committed_tcb, found.launch_tcb]


@pytest.mark.parametrize("model", [0x01, 0x11, 0xA0])
def test_levels_before_turin(model: int) -> None:
    raw = numbered(3, bytes([0x19, model, 1]))
    offsets = [0x38, 0x180, 0x1E0, 0x1F0]
    assert tcbs(parse_report(raw)) == [
        Tcb(bootloader=raw[at], tee=raw[at + 1], snp=raw[at + 6], microcode=raw[at + 7]) for at in offsets
    ]


@pytest.mark.parametrize("model", [0x02, 0x50, 0x90, 0xC7])
def test_levels_from_turin_on(model: int) -> None:
    raw = numbered(3, bytes([0x1A, model, 1]))
    offsets = [0x38, 0x180, 0x1E0, 0x1F0]
    assert tcbs(parse_report(raw)) == [
        Tcb(fmc=raw[at], bootloader=raw[at + 1], tee=raw[at + 2], snp=raw[at + 3], microcode=raw[at + 7])
        for at in offsets
    ]


@given(st.binary(min_size=8, max_size=8), st.booleans())
def test_levels_survive_packing_except_for_reserved_bytes(data: bytes, turin: bool) -> None:
    reserved = (4, 5, 6) if turin else (2, 3, 4, 5)
    clean = bytes(0 if index in reserved else byte for index, byte in enumerate(data))
    assert Tcb.unpack(data, turin=turin).pack(turin=turin) == clean


KNOWN = {
    0x19: {
        **dict.fromkeys(range(0x10), "Milan"),
        **dict.fromkeys([*range(0x10, 0x20), *range(0xA0, 0xB0)], "Genoa"),
    },
    0x1A: {
        **dict.fromkeys(range(0x12), "Turin"),
        **dict.fromkeys([*range(0x50, 0x58), *range(0x90, 0xB0), *range(0xC0, 0xC8)], "Venice"),
    },
}


@pytest.mark.parametrize("family", [0x17, 0x19, 0x1A, 0x1B])
def test_the_generation_is_told_by_family_and_model_and_nothing_is_guessed(family: int) -> None:
    for model in range(256):
        raw = numbered(3, bytes([family, model, 0]))
        expected = KNOWN.get(family, {}).get(model)
        if expected is None:
            assert f"family {family:#04x} model {model:#04x}" in malformed(raw)
        else:
            assert parse_report(raw).generation == expected
            assert parse_report(raw).generations == (expected,)


def second(chip_id: bytes) -> bytes:
    return changed(numbered(2), 0x1A0, chip_id.ljust(64, b"\0"))


def test_version_2_has_no_cpuid_and_goes_by_the_chip_id() -> None:
    legacy = parse_report(second(bytes(range(1, 65))))
    assert legacy.cpuid is None
    assert legacy.generations == ("Milan", "Genoa")
    assert legacy.reported_tcb.fmc is None
    turin = parse_report(second(b"\1\2\3\4\5\6\7\x08"))
    assert turin.generation == "Turin"
    assert turin.reported_tcb.fmc == turin.raw[0x180]
    assert turin.hardware_id == b"\1\2\3\4\5\6\7\x08"


def test_version_2_with_a_masked_chip_id_cannot_be_read() -> None:
    assert "masked" in malformed(second(b""))


@pytest.mark.parametrize(("version", "there"), [(2, False), (3, False), (4, False), (5, True), (6, True)])
def test_mitigation_vectors_came_with_version_5(version: int, there: bool) -> None:
    found = parse_report(numbered(version))
    assert (found.launch_mit_vector is not None) is there
    assert (found.current_mit_vector is not None) is there


@pytest.mark.parametrize("version", [0, 1])
def test_versions_before_2_are_refused(version: int) -> None:
    assert "version" in malformed(numbered(version))


@pytest.mark.parametrize("size", [0, 1, 1183, 1185, 4000])
def test_only_1184_bytes_are_a_report(size: int) -> None:
    assert f"{size} bytes" in malformed(raw_report().ljust(size, b"\0")[:size])


def test_policy_bits_have_names() -> None:
    found = parse_report(raw_report(policy=0x0002_0137 | 1 << 19 | 1 << 25 | 1 << 40))
    assert found.debug
    assert found.abi == (1, 0x37)
    on = [name for name, on in found.policy_flags if on]
    assert on == ["RESERVED_MUST_BE_1", "DEBUG", "PAGE_SWAP_DISABLE", "BIT_40"]
    assert [name for name, on in found.policy_flags if not on] == [
        "SMT_ALLOWED", "MIGRATE_MA", "SINGLE_SOCKET", "CXL_ALLOW", "MEM_AES_256_XTS", "RAPL_DIS",
        "CIPHERTEXT_HIDING",
    ]  # fmt: skip


def test_platform_bits_have_names() -> None:
    found = parse_report(changed(raw_report(), 0x40, b"\xe5"))
    assert [name for name, on in found.platform_flags if on] == [
        "SMT_EN", "ECC_EN", "ALIAS_CHECK_COMPLETE", "TIO_EN", "BIT_6",
    ]  # fmt: skip
    assert not parse_report(raw_report()).debug


@pytest.mark.parametrize(
    ("key_info", "key"), [(0, "VCEK"), (4, "VLEK"), (0x1C, "none"), (8, "reserved 2"), (0x07, "VLEK")]
)
def test_key_info_tells_the_signing_key(key_info: int, key: str) -> None:
    found = parse_report(changed(raw_report(), 0x48, bytes([key_info])))
    assert found.signing_key == key
    assert found.author_key_enabled is bool(key_info & 1)
    assert found.masked_chip_key is bool(key_info & 2)


def test_a_masked_chip_id_is_noticed() -> None:
    assert parse_report(changed(raw_report(), 0x1A0, bytes(64))).masked_chip_id
    assert not parse_report(raw_report()).masked_chip_id


@given(st.binary(max_size=1300) | st.binary(min_size=1184, max_size=1184))
def test_only_the_declared_error_leaves_the_parser(data: bytes) -> None:
    try:
        parse_report(data)
    except AgentError as error:
        declared(error)


@given(st.integers(0, 1183), st.integers(0, 255))
@settings(max_examples=200)
def test_a_changed_report_parses_or_is_refused(at: int, byte: int) -> None:
    raw = changed(raw_report(), at, bytes([byte]))
    try:
        found = parse_report(raw)
    except AgentError as error:
        declared(error)
    else:
        assert found.raw == raw
        assert found.policy_flags
        assert found.platform_flags


@pytest.mark.vectors
def test_recorded_reports_read_as_the_sheet_says() -> None:
    milan = parse_report(recorded("snp/test-report.bin"))
    assert (milan.version, milan.policy, milan.vmpl) == (2, 0x3001F, 0)
    assert milan.current == (1, 52, 4)
    vlek = parse_report(recorded("snp/test-vlek-report.bin"))
    assert (vlek.version, vlek.vmpl, vlek.generation, vlek.signing_key) == (3, 1, "Milan", "VLEK")
    assert vlek.masked_chip_id
    assert vlek.reported_tcb == Tcb(bootloader=4, tee=0, snp=24, microcode=217)


# --- the certificate table --------------------------------------------------------------------------


def entry(identity: bytes, offset: int, size: int) -> bytes:
    return identity + offset.to_bytes(4, "little") + size.to_bytes(4, "little")


END = bytes(24)


def refused(table: bytes) -> str:
    with pytest.raises(AgentError) as caught:
        parse_certificates(table)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED
    return caught.value.detail


def test_the_order_of_the_table_is_kept_and_the_rest_of_the_buffer_ignored() -> None:
    table = entry(ASK, 99, 3) + entry(VCEK, 96, 3) + entry(GOOGLE, 102, 2) + END + b"vekaskgg" + bytes(4000)
    assert [(each.kind, each.data) for each in parse_certificates(table)] == [
        ("ASK", b"ask"),
        ("VCEK", b"vek"),
        ("ecae0c0f-9502-43b1-afa2-0ae2e0d565b6", b"gg"),
    ]


def test_all_kinds_have_their_names() -> None:
    names = {
        "63da758d-e664-4564-adc5-f4b93be8accd": "VCEK",
        "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "VLEK",
        "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ASK",
        "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ARK",
        "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "CRL",
    }
    entries = b"".join(entry(uuid.UUID(each).bytes, 144 + at, 1) for at, each in enumerate(names))
    assert [each.kind for each in parse_certificates(entries + END + b"12345")] == list(names.values())


def test_a_table_of_the_devkit_comes_back() -> None:
    vendor = signer()
    assert [each.kind for each in parse_certificates(vendor.table())] == list(vendor.certificates)


@pytest.mark.parametrize("table", [b"", END, bytes(4096)])
def test_no_certificates_are_no_error(table: bytes) -> None:
    assert parse_certificates(table) == ()


def test_an_entry_of_no_bytes_is_passed_by_wherever_it_points() -> None:
    assert [
        each.kind for each in parse_certificates(entry(ASK, 0xFFFFFFFF, 0) + entry(VCEK, 72, 1) + END + b"v")
    ] == ["VCEK"]


@pytest.mark.parametrize("offset", [0, 24, 47])
def test_data_inside_the_table_are_refused(offset: int) -> None:
    assert f"offset {offset}" in refused(entry(VCEK, offset, 4) + END + b"vcek")


@pytest.mark.parametrize(
    ("offset", "size"), [(48, 5), (52, 1), (0xFFFFFFFF, 1), (48, 0xFFFFFFFF), (0xFFFFFFFF,) * 2]
)
def test_data_outside_the_buffer_are_refused(offset: int, size: int) -> None:
    assert "data lie between" in refused(entry(VCEK, offset, size) + END + b"vcek")


def test_a_table_without_an_end_is_refused() -> None:
    assert "no end after 1" in refused(entry(VCEK, 24, 4) + b"vcek")
    assert "no end after 0" in refused(END[:23])


def test_entries_share_all_of_their_data_or_nothing() -> None:
    same = parse_certificates(entry(VCEK, 72, 4) + entry(ASK, 72, 4) + END + b"vcek")
    assert [each.data for each in same] == [b"vcek", b"vcek"]
    assert "overlap" in refused(entry(VCEK, 72, 4) + entry(ASK, 73, 3) + END + b"vcek")


def test_too_many_entries_are_refused() -> None:
    assert "more than" in refused(entry(VCEK, 0, 0) * (MAX_CERTIFICATES + 1) + END)
    assert parse_certificates(entry(VCEK, 0, 0) * MAX_CERTIFICATES + END) == ()


@given(st.binary(max_size=400))
def test_only_the_declared_error_leaves_the_table(data: bytes) -> None:
    try:
        found = parse_certificates(data)
    except AgentError as error:
        declared(error)
    else:
        assert sum(len(each) for each in {item.data for item in found}) <= len(data)


@given(st.integers(0, 143), st.binary(min_size=1, max_size=8))
def test_a_changed_table_parses_or_is_refused(at: int, value: bytes) -> None:
    table = changed(signer().table(), at, value)
    try:
        found = parse_certificates(table)
    except AgentError as error:
        declared(error)
    else:
        assert all(each.data in table for each in found)


@given(st.integers(0, 4000))
def test_a_table_cut_short_loses_nothing_silently(size: int) -> None:
    whole = signer().table()
    if 0 < size < len(whole):
        refused(whole[:size])
