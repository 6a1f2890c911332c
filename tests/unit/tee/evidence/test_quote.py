"""SGX and TDX quotes: recorded ones hold, made ones of every version parse, changed ones are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.quote import Quote, SgxBody, TdBody, parse_quote
from agent.tee.evidence.quote_chain import TCB_STATUS, leaf_pck, offline, verify
from agent.tee.evidence.tdx_claims import tdx_claims
from agent.tee.evidence.verdict import VENDOR, Roots, holds
from tests.unit.tee.evidence.forge import Forge, attempt, pck_extension, point, roots
from tests.vectors import recorded

if TYPE_CHECKING:
    from collections.abc import Callable

TD10 = bytes(range(256)) * 2 + bytes(72)
TD15 = TD10 + bytes(range(64))
ENCLAVE = bytes(48) + b"\x05" + bytes(335)


@pytest.fixture(scope="module")
def forge() -> Forge:
    return Forge()


def result(quote: Quote, accepted: Roots, name: str) -> bool | None:
    return next(check.passed for check in verify(quote, accepted) if check.name == name)


# --- recordings ----------------------------------------------------------------------------------------
@pytest.mark.vectors
@pytest.mark.parametrize(
    ("name", "version", "fmspc", "size"),
    [
        ("tdx/tdx_quote_4.dat", 4, "50806f000000", 4936),
        ("tdx/tdx_quote_6.dat", 4, "00a06d080000", 4936),
        ("az-tdx-vtpm/td-quote.bin", 4, "00806f050000", 4936),
        ("sgx/occlum_quote.dat", 3, "00606a000000", 4733),
    ],
)
def test_a_recorded_quote_holds_up_to_intels_root(name: str, version: int, fmspc: str, size: int) -> None:
    quote = parse_quote(recorded(name))
    checks = verify(quote, VENDOR)
    assert holds(offline(checks)), checks
    assert not holds(checks), "the TCB status is not known offline"
    assert (quote.version, quote.size, leaf_pck(quote).fmspc.hex()) == (version, size, fmspc)


@pytest.mark.vectors
def test_the_recorded_debug_td_is_told() -> None:
    debug, other = (parse_quote(recorded(f"tdx/tdx_quote_{n}.dat")).body for n in (4, 6))
    assert debug.debug
    assert not other.debug


@pytest.mark.vectors
def test_no_byte_of_a_recorded_quote_can_change_unnoticed() -> None:
    data = recorded("tdx/tdx_quote_6.dat")
    size = parse_quote(data).size
    chain_at = data.index(b"-----BEGIN")
    for at in [*range(0, chain_at, 37), *range(chain_at, size, 211)]:
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        checks = attempt(lambda: verify(parse_quote(changed), VENDOR))  # noqa: B023  # called at once
        # The root in the quote is believed for its pinned key alone, text between certificates for nothing.
        if at < chain_at:
            assert checks is None or not holds(offline(checks)), at


@pytest.mark.vectors
def test_claims_are_those_of_trustees_verifier() -> None:
    expected = json.loads(recorded("tdx/parse_tdx_claims_expected.json"))
    del expected["uefi_event_logs"]  # of the event log, not of the quote
    assert tdx_claims(parse_quote(recorded("tdx/tdx_quote_4.dat"))) == expected


# --- every version -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("version", "tee_type", "body_type", "body"),
    [
        (3, 0, None, ENCLAVE),
        (4, 0, None, ENCLAVE),
        (4, 0x81, None, TD10),
        (5, 0, 1, ENCLAVE),
        (5, 0x81, 2, TD10),
        (5, 0x81, 3, TD15),
    ],
)
def test_every_version_and_body_type_parses_and_verifies(
    forge: Forge, version: int, tee_type: int, body_type: int | None, body: bytes
) -> None:
    data = forge.quote(body, version=version, tee_type=tee_type, body_type=body_type)
    for fill in (b"", bytes(70)):
        quote = parse_quote(data + fill)
        assert holds(offline(verify(quote, roots(forge.root))))
        assert quote.report_data == body[len(body) - 64 :] if tee_type == 0 else body[520:584]
        assert quote.size == len(data)


def test_a_td_15_has_the_second_svn_and_the_service_td(forge: Forge) -> None:
    body = parse_quote(forge.quote(TD15, version=5, body_type=3)).body
    assert isinstance(body, TdBody)
    assert (body.tee_tcb_svn2, body.mrservicetd) == (TD15[584:600], TD15[600:648])
    assert body.mrtd == TD15[136:184]
    assert body.rtmrs[3] == TD15[472:520]


def test_claims_of_version_5_name_type_size_and_the_new_fields(forge: Forge) -> None:
    claims = tdx_claims(parse_quote(forge.quote(TD15, version=5, body_type=3)))
    quote = claims["quote"]
    assert isinstance(quote, dict)
    assert (quote["type"], quote["size"]) == ("0300", "88020000")
    assert quote["body"]["mr_servicetd"] == TD15[600:648].hex()
    assert quote["header"]["version"] == "0500"


def test_an_enclave_has_no_claims_of_a_td(forge: Forge) -> None:
    with pytest.raises(AgentError, match="SGX"):
        tdx_claims(parse_quote(forge.quote(ENCLAVE, version=3, tee_type=0)))


def test_an_enclave_in_debug_mode_is_told(forge: Forge) -> None:
    body = bytearray(ENCLAVE)
    body[48] |= 2
    quote = parse_quote(forge.quote(bytes(body), version=3, tee_type=0))
    assert isinstance(quote.body, SgxBody)
    assert quote.body.debug


# --- what is refused ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        lambda d: b"\x06\0" + d[2:],  # version
        lambda d: d[:2] + b"\x03\0" + d[4:],  # key type
        lambda d: d[:4] + b"\x82\0\0\0" + d[8:],  # TEE type
        lambda d: d[:-1],  # cut
        lambda d: d + b"\0\x01",  # bytes under no signature
        lambda d: d[:48] + b"\x02\0" + d[50:],  # TD 1.0 of 648 bytes
        lambda d: d[:50] + b"\x48\x02\0\0" + d[54:],  # size of TD 1.0
        lambda d: d[:48] + b"\x01\0\x80\x01\0\0" + d[54:],  # an enclave's body in a TD
        lambda d: d[:702] + b"\xff\xff\xff\xff" + d[706:],  # signature size
        lambda d: bytes(70_000),
        lambda d: b"",
    ],
)
def test_a_structure_that_contradicts_itself_is_malformed(
    forge: Forge, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(AgentError) as caught:
        parse_quote(change(forge.quote(TD15, version=5, body_type=3)))
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


def test_each_broken_link_fails_its_own_check(forge: Forge) -> None:
    accepted = roots(forge.root)
    other = Forge()
    body = parse_quote(forge.quote(TD10)).signed + b"\0"
    assert len(body) == 633
    changed = bytearray(forge.quote(TD10))
    changed[200] ^= 1
    assert result(parse_quote(bytes(changed)), accepted, "quote signature") is False
    stranger = forge.qe_report(0x81)[:320] + bytes(64)
    assert result(parse_quote(forge.quote(TD10, qe_report=stranger)), accepted, "key binding") is False
    mixed = forge.quote(TD10, chain=other.chain)
    assert result(parse_quote(mixed), roots(other.root), "QE report signature") is False
    assert result(parse_quote(mixed), roots(other.root), "PCK chain") is True
    assert result(parse_quote(mixed), accepted, "PCK chain") is False


@pytest.mark.parametrize("case", ["signer", "debug"])
def test_an_enclave_that_is_not_intels_cannot_play_the_quoting_enclave(forge: Forge, case: str) -> None:
    report = forge.qe_report(0x81, b"\x66" * 32) if case == "signer" else forge.qe_report(0x81, debug=True)
    quote = parse_quote(forge.quote(TD10, qe_report=report))
    assert result(quote, roots(forge.root), "QE report signature") is True
    assert result(quote, roots(forge.root), "QE identity") is False


@pytest.mark.parametrize("authority", [False, None])
def test_an_end_certificate_cannot_issue_a_pck(authority: bool | None) -> None:
    forge = Forge(ca_is_authority=authority)
    assert result(parse_quote(forge.quote(TD10)), roots(forge.root), "PCK chain") is False


def test_a_certificate_without_intels_extension_is_no_pck() -> None:
    forge = Forge(extension=None)
    assert result(parse_quote(forge.quote(TD10)), roots(forge.root), "PCK chain") is False


def test_a_pck_that_is_only_named_is_not_checked_and_does_not_hold(forge: Forge) -> None:
    quote = parse_quote(forge.quote(TD10, kind=3, chain=b"named"))
    assert result(quote, roots(forge.root), "PCK chain") is None
    assert not holds(offline(verify(quote, roots(forge.root))))
    with pytest.raises(AgentError):
        leaf_pck(quote)
    assert "platform_instance_id" not in tdx_claims(quote)


def test_a_broken_chain_fails_and_does_not_raise(forge: Forge) -> None:
    quote = parse_quote(forge.quote(TD10, chain=b"-----BEGIN CERTIFICATE-----\nx"))
    assert result(quote, roots(forge.root), "PCK chain") is False
    assert result(quote, roots(forge.root), "QE report signature") is False


def test_a_chain_without_its_ca_is_completed_from_the_known_certificates(forge: Forge) -> None:
    from agent.tee.evidence.certs import der  # noqa: PLC0415
    from tests.unit.tee.evidence.forge import pem  # noqa: PLC0415

    quote = parse_quote(forge.quote(TD10, chain=pem(forge.pck, forge.root)))
    assert result(quote, roots(forge.root), "PCK chain") is False
    assert result(quote, roots(forge.root, der(forge.ca)), "PCK chain") is True


def test_a_key_that_is_no_point_fails(forge: Forge) -> None:
    data = forge.quote(TD10)
    quote = parse_quote(data.replace(point(forge.key), b"\xff" * 64))
    assert result(quote, roots(forge.root), "quote signature") is False


def test_the_tcb_status_is_never_decided(forge: Forge) -> None:
    checks = verify(parse_quote(forge.quote(TD10)), roots(forge.root))
    assert [check.passed for check in checks if check.name == TCB_STATUS] == [None]
    assert TCB_STATUS not in {check.name for check in offline(checks)}


# --- properties --------------------------------------------------------------------------------------
@settings(max_examples=150)
@given(data=st.binary(max_size=1500))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    for prefix in (
        b"",
        b"\x04\0\x02\0\x81\0\0\0",
        b"\x05\0\x02\0\x81\0\0\0" + bytes(40) + b"\x03\0\x88\x02\0\0",
    ):
        attempt(lambda: parse_quote(prefix + data))  # noqa: B023  # called at once


_WHOLE = Forge().quote(TD15, version=5, body_type=3)


@settings(max_examples=150)
@given(at=st.integers(0, len(_WHOLE) - 1), byte=st.integers(0, 255), cut=st.integers(0, len(_WHOLE)))
def test_a_changed_or_cut_quote_never_holds_and_never_crashes(at: int, byte: int, cut: int) -> None:
    for data in (_WHOLE[:at] + bytes([byte]) + _WHOLE[at + 1 :], _WHOLE[:cut]):
        quote = attempt(lambda: parse_quote(data))  # noqa: B023  # called at once
        assert quote is None or not holds(offline(verify(quote, VENDOR)))


def test_a_pck_extension_with_a_field_twice_is_malformed() -> None:
    again = pck_extension()
    fields = again[again.index(b"\x30", 1) :]
    forge = Forge(extension=pck_extension(again=fields[: fields.index(b"p" * 16) + 16]))
    check = next(
        c for c in verify(parse_quote(forge.quote(TD10)), roots(forge.root)) if c.name == "PCK chain"
    )
    assert check.passed is False
    assert "twice" in check.detail
