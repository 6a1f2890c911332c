"""SEV-SNP: the driver's ioctls by CUSE, and the kernel's configfs-tsm."""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING

import pytest

from agent.devkit.evidence_pki import authority
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import snp_chain, snp_json
from agent.tee.evidence.verdict import holds
from tests.e2e.vm import wire
from tests.e2e.vm.hardware import Fault, Hardware, key_wiped, throttled
from tests.e2e.vm.wire import Answer, Ask

if TYPE_CHECKING:
    from tests.e2e.vm.machine import Machine

pytestmark = pytest.mark.vm

REPORT_DATA = hashlib.sha384(b"a key and a nonce").digest()
BY_IOCTL = "sev_guest"
BY_CONFIGFS = "sev_guest without ioctls"


def proven(evidence: bytes, hardware: Hardware) -> list[str]:
    """Kinds of the certificates; the report is ours, signed, and carries our report data."""
    report, certificates = snp_json.decode(evidence)
    assert report.report_data == REPORT_DATA.ljust(64, b"\0")
    assert report.host_data == hardware.snp.host_data
    chain = [certificate.data for certificate in certificates] or [
        authority.der(certificate) for certificate in hardware.amd.certificates.values()
    ]
    checks = snp_chain.verify(report, chain, hardware.amd.roots)
    assert holds(checks), checks
    return [certificate.kind for certificate in certificates]


@pytest.mark.parametrize("way", [BY_IOCTL, BY_CONFIGFS])
def test_the_guest_is_recognised(vm: Machine, way: str) -> None:
    vm.become(way)
    assert vm.call("detect").detail == "snp"


def test_report_and_certificates_by_ioctl(vm: Machine, hardware: Hardware) -> None:
    vm.become(BY_IOCTL)
    evidence = vm.call("collect", "agent.tee.snp", REPORT_DATA).data
    assert proven(evidence, hardware) == ["VCEK", "ASK", "ARK"]
    # The host tells the size of its table first, then gives it.
    assert hardware.asked == {"sev": 2}


def test_the_agent_collects_in_a_process_of_its_own(vm: Machine, hardware: Hardware) -> None:
    vm.become(BY_IOCTL)
    evidence = vm.call("attest", "snp", REPORT_DATA).data
    assert proven(evidence, hardware) == ["VCEK", "ASK", "ARK"]


def test_a_host_without_certificates(vm: Machine, hardware: Hardware) -> None:
    vm.become(BY_IOCTL)
    hardware.certificates = False
    assert proven(vm.call("collect", "agent.tee.snp", REPORT_DATA).data, hardware) == []
    assert hardware.asked == {"sev": 1}


def test_report_and_certificates_by_configfs(vm: Machine, hardware: Hardware) -> None:
    vm.become(BY_CONFIGFS)
    evidence = vm.call("collect", "agent.tee.snp", REPORT_DATA).data
    assert proven(evidence, hardware) == ["VCEK", "ASK", "ARK"]
    assert hardware.asked == {"report": 1}
    assert vm.call("names", "/sys/kernel/config/tsm/report").lines == []


def test_configfs_without_certificates(vm: Machine, hardware: Hardware) -> None:
    vm.become(BY_CONFIGFS)
    hardware.certificates = False
    assert proven(vm.call("collect", "agent.tee.snp", REPORT_DATA).data, hardware) == []


def test_the_privilege_level_is_asked_for(vm: Machine) -> None:
    for way in (BY_IOCTL, BY_CONFIGFS):
        vm.become(way)
        report, _ = snp_json.decode(
            vm.call("collect", "agent.tee.snp", REPORT_DATA, settings={"snp_vmpl": 2}).data
        )
        assert report.vmpl == 2


def test_the_kernel_refuses_a_level_below_its_floor(vm: Machine) -> None:
    vm.become(BY_CONFIGFS, 2)
    with pytest.raises(AgentError) as caught:
        vm.call("collect", "agent.tee.snp", REPORT_DATA, settings={"snp_vmpl": 1})
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert "from 2 to 3" in caught.value.detail


@pytest.mark.parametrize(
    ("fault", "code", "word"),
    [
        (key_wiped(), ErrorCode.DEVICE_KEY_WIPED, "VMPCK"),
        (throttled(), ErrorCode.DEVICE_BUSY, "throttles"),
        (Fault(errno.ETIMEDOUT), ErrorCode.DEVICE_BUSY, "throttles"),
        (Fault(errno.EIO, info=0x14), ErrorCode.EVIDENCE_FAILED, "hardware unsafe"),
        (Fault(errno.EIO), ErrorCode.EVIDENCE_FAILED, "no answer"),
        (Fault(errno.EBADMSG), ErrorCode.EVIDENCE_FAILED, "EBADMSG"),
    ],
    ids=["key wiped", "throttled", "timed out", "firmware error", "no firmware answer", "forged"],
)
def test_faults_of_the_driver_are_told_apart(
    vm: Machine, hardware: Hardware, fault: Fault, code: ErrorCode, word: str
) -> None:
    vm.become(BY_IOCTL)
    hardware.faults["sev"] = fault
    with pytest.raises(AgentError) as caught:
        vm.call("collect", "agent.tee.snp", REPORT_DATA)
    assert caught.value.code is code
    assert word in caught.value.detail


def test_a_busy_driver_is_asked_again(vm: Machine, hardware: Hardware) -> None:
    vm.become(BY_IOCTL)
    hardware.faults["sev"] = Fault(errno.EBUSY, times=2)
    assert proven(vm.call("collect", "agent.tee.snp", REPORT_DATA).data, hardware)


def test_a_certificate_table_larger_than_any_buffer(vm: Machine, hardware: Hardware) -> None:
    vm.become(BY_IOCTL)

    def greedy(ask: Ask) -> Answer:
        return hardware._sev(ask) if ask.number < 0 else Answer(errno.EIO, info=1 << 32, pages=1 << 19)

    hardware.instead["sev"] = greedy
    assert proven(vm.call("collect", "agent.tee.snp", REPORT_DATA).data, hardware) == []


def test_a_driver_that_hangs_in_the_kernel(vm: Machine, hardware: Hardware) -> None:
    """No signal ends the process. The answer comes all the same, and no second process joins it."""
    vm.become(BY_IOCTL)
    hardware.faults["sev"] = Fault(wire.SILENCE, times=1, info=12)
    for reason in ("snp", "the kernel still holds the last process"):
        with pytest.raises(AgentError) as caught:
            vm.call("attest", "snp", REPORT_DATA, seconds=8)
        assert caught.value.code is ErrorCode.EVIDENCE_TIMEOUT
        assert reason in caught.value.detail
    # This one waits for the driver.
    assert proven(vm.call("collect", "agent.tee.snp", REPORT_DATA).data, hardware)
    assert proven(vm.call("attest", "snp", REPORT_DATA).data, hardware)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENOTTY, ErrorCode.DEVICE_KEY_WIPED),
        (errno.ETIMEDOUT, ErrorCode.DEVICE_BUSY),
        (errno.EIO, ErrorCode.EVIDENCE_FAILED),
        (errno.EINVAL, ErrorCode.CONFIG_INVALID),
    ],
)
def test_faults_behind_configfs(vm: Machine, hardware: Hardware, error: int, code: ErrorCode) -> None:
    vm.become(BY_CONFIGFS)
    hardware.faults["report"] = Fault(error)
    with pytest.raises(AgentError) as caught:
        vm.call("collect", "agent.tee.snp", REPORT_DATA)
    assert caught.value.code is code


@pytest.mark.parametrize("way", [BY_IOCTL, BY_CONFIGFS])
def test_init_data_is_compared_with_hostdata(vm: Machine, hardware: Hardware, way: str) -> None:
    vm.become(way)
    vm.call("bind", "agent.tee.snp", hardware.snp.host_data)
    with pytest.raises(AgentError) as caught:
        vm.call("bind", "agent.tee.snp", hardware.snp.host_data[::-1])
    assert caught.value.code is ErrorCode.INIT_DATA_MISMATCH
