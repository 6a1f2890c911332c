"""NVIDIA's SPDM reports: the recorded one holds; each broken link is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.spdm import parse, verify
from agent.tee.evidence.verdict import VENDOR, holds
from tests.unit.tee.evidence.forge import Gpu, attempt, gpu_chain, roots
from tests.vectors import recorded

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = ec.generate_private_key(ec.SECP384R1())
GPU = Gpu(KEY)
CHAIN, ROOT = gpu_chain(KEY)


def results(data: bytes, chain: bytes = CHAIN, nonce: bytes | None = GPU.nonce) -> dict[str, bool | None]:
    return {check.name: check.passed for check in verify(parse(data), chain, roots(ROOT), nonce)}


@pytest.mark.vectors
def test_the_recorded_h100_report_holds_up_to_nvidias_root() -> None:
    data = bytes.fromhex(recorded("nvidia/hopperAttestationReport.txt").decode())
    report = parse(data)
    chain = recorded("nvidia/hopper_cert_chain_case1.txt")
    nonce = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")
    assert holds(verify(report, chain, VENDOR, nonce))
    assert report.signed == data[:-96]
    assert len(report.measurements) == 64
    assert report.text("driver_version") == "550.90.07"


@pytest.mark.vectors
def test_no_bit_of_the_recorded_report_can_change_unnoticed() -> None:
    data = bytes.fromhex(recorded("nvidia/hopperAttestationReport.txt").decode())
    chain = recorded("nvidia/hopper_cert_chain_case1.txt")
    for at in range(0, len(data), 53):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        checks = attempt(lambda: verify(parse(changed), chain, VENDOR))  # noqa: B023  # called at once
        assert checks is None or not holds(checks), at


@pytest.mark.vectors
def test_a_shortened_recorded_chain_is_refused() -> None:
    report = parse(bytes.fromhex(recorded("nvidia/hopperAttestationReport.txt").decode()))
    chain = recorded("nvidia/hopper_cert_chain_case1.txt").split(b"-----END CERTIFICATE-----\n")
    parts = [part + b"-----END CERTIFICATE-----\n" for part in chain if part.strip()]
    for left in (parts[1:], parts[:2] + parts[3:], parts[-1:], parts[:-1]):
        assert not holds(verify(report, b"".join(left), VENDOR))


def test_a_made_report_holds() -> None:
    assert results(GPU.report()) == {
        "report signature": True,
        "device chain": True,
        "FWID": True,
        "nonce": True,
    }


def test_without_a_nonce_none_is_said_to_be_checked() -> None:
    assert "nonce" not in results(GPU.report(), nonce=None)


def test_a_buffers_rest_is_left_out() -> None:
    assert holds(verify(parse(GPU.report() + b"\xee"), CHAIN, roots(ROOT), GPU.nonce))


def test_another_nonce_is_told() -> None:
    assert results(GPU.report(), nonce=bytes(32))["nonce"] is False


def test_another_devices_chain_fails() -> None:
    other, root = gpu_chain(ec.generate_private_key(ec.SECP384R1()))
    found = {c.name: c.passed for c in verify(parse(GPU.report()), other, roots(root), None)}
    assert found == {"report signature": False, "device chain": True, "FWID": True}


def test_an_unknown_root_fails() -> None:
    assert {c.name: c.passed for c in verify(parse(GPU.report()), CHAIN, VENDOR)}["device chain"] is False


def test_a_certificate_of_other_firmware_fails() -> None:
    chain, root = gpu_chain(KEY, fwid=b"\x34" * 48)
    found = {c.name: c.passed for c in verify(parse(GPU.report()), chain, roots(root))}
    assert found == {"report signature": True, "device chain": True, "FWID": False}


def test_a_certificate_without_firmware_fails_when_the_report_names_one() -> None:
    chain, root = gpu_chain(KEY, fwid=None)
    assert {c.name: c.passed for c in verify(parse(GPU.report()), chain, roots(root))}["FWID"] is False


def test_a_report_without_firmware_is_not_checked_and_does_not_hold() -> None:
    found = results(GPU.changed(opaque=()).report())
    assert found["FWID"] is None
    assert found["report signature"] is True


def test_no_chain_is_not_checked_and_a_broken_one_fails() -> None:
    assert set(results(GPU.report(), chain=b"", nonce=None).values()) == {None}
    assert set(results(GPU.report(), chain=b"no PEM", nonce=None).values()) == {False}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: b"\x12" + d[1:],
        lambda d: d[:2] + b"\0" + d[3:],  # no signature asked for
        lambda d: d[:38] + b"\x7f" + d[39:],  # ERROR
        lambda d: d[:41] + b"\x03" + d[42:],  # another number of blocks
        lambda d: d[:42] + b"\xff\xff\xff" + d[45:],  # record size
        lambda d: d[:46] + b"\x02" + d[47:],  # specification
        lambda d: d[:-1],
        lambda d: b"",
        lambda d: bytes(70_000),
    ],
)
def test_a_structure_that_contradicts_itself_is_malformed(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(AgentError) as caught:
        parse(change(GPU.report()))
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


@pytest.mark.parametrize(
    "gpu",
    [
        GPU.changed(measurements=((1, bytes(48)), (1, bytes(48)))),
        GPU.changed(opaque=((20, bytes(48)), (20, b"\x33" * 48))),
    ],
)
def test_a_field_that_is_there_twice_is_malformed(gpu: Gpu) -> None:
    with pytest.raises(AgentError, match="twice"):
        parse(gpu.report())


_WHOLE = GPU.report()


@settings(max_examples=150)
@given(
    at=st.integers(0, len(_WHOLE) - 1),
    byte=st.integers(0, 255),
    cut=st.integers(0, len(_WHOLE)),
    noise=st.binary(max_size=300),
)
def test_any_bytes_parse_or_are_malformed(at: int, byte: int, cut: int, noise: bytes) -> None:
    for data in (_WHOLE[:at] + bytes([byte]) + _WHOLE[at + 1 :], _WHOLE[:cut], noise, _WHOLE[:37] + noise):
        checks = attempt(lambda: verify(parse(data), CHAIN, roots(ROOT), GPU.nonce))  # noqa: B023
        assert checks is None or data == _WHOLE or not holds(checks)


@settings(max_examples=60)
@given(noise=st.binary(max_size=300))
def test_a_chain_of_any_bytes_fails_and_never_raises(noise: bytes) -> None:
    verify(parse(_WHOLE), noise, VENDOR)
    verify(parse(_WHOLE), b"-----BEGIN CERTIFICATE-----\n" + noise, VENDOR)
