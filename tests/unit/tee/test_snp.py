"""SNP evidence through ``/dev/sev-guest``, with the ioctl in our hands."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.clock import Deadline
from agent.config.model import Attester
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.tee import sev_guest, snp
from agent.tee.evidence import snp_json
from tests.unit.tee.sev_driver import DATA, Driver

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path) -> Attester:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "sev-guest").symlink_to("/dev/null")  # a device; the ioctl is ours
    return Attester(sysroot=str(tmp_path), snp_vmpl=1)


def soon() -> Deadline:
    return Deadline.after(FakeClock(), 10)


def table(der: bytes = b"0\x82certificate") -> bytes:
    vcek = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
    entry = vcek + (48).to_bytes(4, "little") + len(der).to_bytes(4, "little")
    return entry + bytes(24) + der


def test_evidence_carries_report_and_certificates(here: Attester) -> None:
    driver = Driver(table=table())
    evidence = snp.collect(here, DATA[:48], soon(), ioctl=driver.ioctl)
    report, certificates = snp_json.decode(evidence)
    assert report.report_data == DATA[:48] + bytes(16)
    assert [(each.kind, each.data) for each in certificates] == [("VCEK", b"0\x82certificate")]
    assert {request[64] for _, request in driver.seen} == {1}


def test_a_host_without_certificates_gives_null(here: Attester) -> None:
    for driver in (Driver(), Driver(table=bytes(100))):
        evidence = msgspec.json.decode(snp.collect(here, DATA, soon(), ioctl=driver.ioctl))
        assert evidence["cert_chain"] is None


GUIDS = {
    "VCEK": "63da758de6644564adc5f4b93be8accd",
    "VLEK": "a8074bc2a25a483eaae639c045a0b8a1",
    "ASK": "4ab7b379bbac4fe4a02f05aef327c782",
    "ARK": "c0b406a4a803495297433fb6014cd0ae",
    "CRL": "92f81bc358114d3d97ffd19f88dc67ea",
    "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6": "ecae0c0f950243b1afa20ae2e0d565b6",
}


def host_table(*kinds: str) -> bytes:
    """Entries whose data are their own names."""
    at, entries, blob = 24 * (len(kinds) + 1), b"", b""
    for kind in kinds:
        entries += bytes.fromhex(GUIDS[kind]) + struct.pack("<II", at + len(blob), len(kind))
        blob += kind.encode()
    return entries + bytes(24) + blob


OTHER = "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"


@pytest.mark.parametrize(
    ("key", "given", "sent"),
    [
        (0, ("VLEK", "VCEK", "ASK", "ARK"), ["VCEK", "VLEK", "ASK", "ARK"]),
        (1, ("VCEK", "VLEK", "ASK", "ARK"), ["VLEK", "VCEK", "ASK", "ARK"]),
        (0, ("ARK", "ASK", OTHER, "VCEK", "CRL"), ["VCEK", "ARK", "ASK", OTHER, "CRL"]),
        (0, ("VCEK",), ["VCEK"]),
        (0, ("ASK", "ARK"), None),
        (1, ("ASK", "ARK", "CRL", OTHER), None),
        (0, ("VLEK", "ASK", "ARK"), None),  # AMD's key server has the VCEK
        (1, ("VCEK", "ASK", "ARK"), None),
        (2, ("ASK", "VLEK", "VCEK"), ["VLEK", "VCEK", "ASK"]),  # a key of the future
        (7, ("ASK", "ARK"), None),
    ],
)
def test_the_key_that_the_report_names_comes_first(
    here: Attester, key: int, given: tuple[str, ...], sent: list[str] | None
) -> None:
    # Bits 1 and 0 are others: the chip's key masked, an author key.
    driver = Driver(table=host_table(*given), key_info=key << 2 | 0b11)
    evidence = snp.collect(here, DATA, soon(), ioctl=driver.ioctl)
    _, certificates = snp_json.decode(evidence)
    assert [each.kind for each in certificates] == (sent or [])
    assert [each.data.decode() for each in certificates] == (sent or [])
    assert (msgspec.json.decode(evidence)["cert_chain"] is None) == (sent is None)


def test_a_report_over_other_data_is_refused(here: Attester) -> None:
    driver = Driver()

    def mixed_up(opened: int, command: int, asked: ctypes.Structure) -> int:
        driver.ioctl(opened, command, asked)
        sent = sev_guest.GuestRequest.from_buffer(asked)
        ctypes.memmove(sent.resp_data + 32 + 0x50, b"\xff", 1)
        return 0

    with pytest.raises(AgentError, match="other report data") as error:
        snp.collect(here, DATA, soon(), ioctl=mixed_up)
    assert error.value.code is ErrorCode.EVIDENCE_FAILED


def test_a_wiped_key_is_not_worked_around(here: Attester) -> None:
    driver = Driver(failures=[(errno.ENOTTY, 0xFF)])
    with pytest.raises(AgentError) as error:
        snp.collect(here, DATA, soon(), ioctl=driver.ioctl)
    assert error.value.code is ErrorCode.DEVICE_KEY_WIPED
    assert len(driver.seen) == 1


def test_report_data_that_is_too_long_asks_nothing(here: Attester) -> None:
    driver = Driver()
    with pytest.raises(AgentError) as error:
        snp.collect(here, bytes(65), soon(), ioctl=driver.ioctl)
    assert error.value.code is ErrorCode.INVALID_REQUEST
    assert driver.seen == []


def test_a_guest_with_neither_way_names_both(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as error:
        snp.collect(Attester(sysroot=str(tmp_path)), DATA, soon())
    assert error.value.code is ErrorCode.QUOTE_PATH_MISSING
    assert "no /dev/sev-guest" in error.value.detail
    assert "configfs" in error.value.detail


@pytest.mark.parametrize("digest", [b"\x11" * 20, b"\x22" * 32, b"\x33" * 48])
def test_init_data_is_compared_with_host_data(here: Attester, digest: bytes) -> None:
    driver = Driver(host_data=digest[:32].ljust(32, b"\0"))
    snp.bind_init_data(here, digest, ioctl=driver.ioctl)
    snp.bind_init_data(here, digest, ioctl=driver.ioctl)
    assert [(command, request[:64]) for command, request in driver.seen] == [
        (sev_guest.GET_REPORT, bytes(64))
    ] * 2
    with pytest.raises(AgentError) as error:
        snp.bind_init_data(here, b"\x99" + digest[1:], ioctl=driver.ioctl)
    assert error.value.code is ErrorCode.INIT_DATA_MISMATCH
    assert driver.host_data.hex() in error.value.detail
