"""TPMs: one at QEMU's TIS interface with a firmware that measures, Azure's by the kernel's proxy driver."""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING

import pytest

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import az_json, events, quote_chain, snp_chain, tpm_json
from agent.tee.evidence.hcl import parse_hcl
from agent.tee.evidence.quote import parse_quote
from agent.tee.evidence.snp import parse_report
from agent.tee.evidence.verdict import holds
from tests.e2e.vm.conftest import AZURE_REPORT_DATA
from tests.e2e.vm.hardware import Fault, Hardware

if TYPE_CHECKING:
    from tests.e2e.vm.machine import Machine
    from tests.e2e.vm.wire import Result

pytestmark = pytest.mark.vm

REPORT_DATA = hashlib.sha384(b"a key and a nonce").digest()
EVENTS = "/sys/kernel/security/tpm0/binary_bios_measurements"


@pytest.fixture(scope="session")
def vtpms(booted: Machine) -> dict[str, str]:
    """Path of Azure's TPM by TEE."""
    return {tee: f"/dev/{booted.call('vtpm', f'/tpm/{tee}').lines[0]}" for tee in ("snp", "tdx")}


def test_the_guest_is_recognised(vm: Machine) -> None:
    vm.become("")
    assert vm.call("detect").detail == "tpm"


def test_a_quote(vm: Machine) -> None:
    evidence = tpm_json.decode(vm.call("collect", "agent.tee.tpm", REPORT_DATA).data)
    checks = tpm_json.verify(evidence, REPORT_DATA, None)
    assert all(check.passed is not False for check in checks), checks
    assert len(set(evidence.pcrs)) > 3


def test_the_agent_collects_in_a_process_of_its_own(vm: Machine) -> None:
    evidence = tpm_json.decode(vm.call("attest", "tpm", REPORT_DATA).data)
    checks = tpm_json.verify(evidence, REPORT_DATA, None)
    assert all(check.passed is not False for check in checks), checks


def test_the_firmwares_log_leads_to_the_quoted_registers(vm: Machine) -> None:
    log = events.parse_log(vm.call("read", EVENTS).data)
    evidence = tpm_json.decode(vm.call("collect", "agent.tee.tpm", REPORT_DATA).data)
    registers = events.replay(log, "sha256")
    assert {0, 4, 5} <= registers.keys()
    for register, value in registers.items():
        assert evidence.pcrs[register] == value


def test_init_data_goes_into_pcr_8_once(vm: Machine) -> None:
    digest = hashlib.sha256(b"init-data").digest()
    with pytest.raises(AgentError) as caught:
        vm.call("bind", "agent.tee.tpm", hashlib.sha384(b"init-data").digest())
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    vm.call("bind", "agent.tee.tpm", digest)
    vm.call("bind", "agent.tee.tpm", digest)
    evidence = tpm_json.decode(vm.call("collect", "agent.tee.tpm", REPORT_DATA).data)
    assert holds(tpm_json.verify(evidence, REPORT_DATA, digest))
    with pytest.raises(AgentError) as caught:
        vm.call("bind", "agent.tee.tpm", digest[::-1])
    assert caught.value.code is ErrorCode.INIT_DATA_MISMATCH


def test_an_extension(vm: Machine) -> None:
    before = vm.call("register", "agent.tee.tpm", number=14).data
    vm.call("extend", "agent.tee.tpm", bytes(range(32)), number=14)
    after = vm.call("register", "agent.tee.tpm", number=14).data
    assert after == hashlib.sha256(before + bytes(range(32))).digest()


def test_runtime_measurements(vm: Machine) -> None:
    """Where nobody chose a register it is one that an operating system may extend."""
    settings: dict[str, str | int | bool] = {
        "enable_eventlog": True,
        "eventlog_dir": "/run/tpm-eventlog",
    }
    for content in (b"first", b"second"):
        event = b"github.com/confidential-containers PullImage " + content
        assert vm.call("measure", "agent.tee.tpm", event, number=-1, settings=settings).detail == "OK"
    log = events.parse_entries(vm.call("read", "/run/tpm-eventlog/eventlog").data)
    assert events.replay(log, "sha256") == {15: vm.call("register", "agent.tee.tpm", number=15).data}


def test_a_register_that_software_may_not_extend(vm: Machine) -> None:
    assert "PCR 18" in vm.call("problem", "agent.tee.tpm", settings={"init_pcr": 18}).detail
    assert vm.call("problem", "agent.tee.tpm", settings={"init_pcr": 14}).detail == ""
    with pytest.raises(AgentError) as caught:
        vm.call("extend", "agent.tee.tpm", bytes(32), number=18)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_no_key_at_the_handle(vm: Machine) -> None:
    with pytest.raises(AgentError) as caught:
        vm.call("collect", "agent.tee.tpm", REPORT_DATA, settings={"tpm_ak_handle": 0x81010099})
    assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING
    assert "0x81010099" in caught.value.detail


def azure(vm: Machine, vtpms: dict[str, str], tee: str, **more: str) -> Result:
    vm.become("azure")
    module = f"agent.tee.az_{tee}_vtpm"
    return vm.call("collect", module, AZURE_REPORT_DATA, settings={"tpm_device": vtpms[tee], **more})


def test_azure_snp(vm: Machine, hardware: Hardware, vtpms: dict[str, str]) -> None:
    evidence = az_json.decode(azure(vm, vtpms, "snp").data)
    checks = az_json.verify(evidence, AZURE_REPORT_DATA, None)
    assert all(check.passed is not False for check in checks), checks
    report = parse_report(parse_hcl(evidence.hcl_report).hardware)
    assert holds(snp_chain.verify(report, evidence.certificates, hardware.amd.roots))
    assert hardware.asked == {"imds": 1}


def test_azure_tdx(vm: Machine, hardware: Hardware, vtpms: dict[str, str]) -> None:
    evidence = az_json.decode(azure(vm, vtpms, "tdx").data)
    checks = az_json.verify(evidence, AZURE_REPORT_DATA, None)
    assert all(check.passed is not False for check in checks), checks
    quote = parse_quote(evidence.td_quote)
    assert holds(quote_chain.offline(quote_chain.verify(quote, hardware.intel.roots)))


def test_azure_without_its_metadata_service(vm: Machine, hardware: Hardware, vtpms: dict[str, str]) -> None:
    hardware.faults["imds"] = Fault(errno.EIO)
    with pytest.raises(AgentError) as caught:
        azure(vm, vtpms, "snp")
    assert caught.value.code is ErrorCode.QUOTE_SERVICE_UNREACHABLE
    with pytest.raises(AgentError) as caught:
        azure(vm, vtpms, "snp", imds_url="http://127.0.0.1:81")
    assert caught.value.code is ErrorCode.QUOTE_SERVICE_UNREACHABLE


def test_a_tpm_that_is_not_azures(vm: Machine, vtpms: dict[str, str]) -> None:
    with pytest.raises(AgentError) as caught:
        azure(vm, {"snp": "/dev/tpmrm0"}, "snp")
    assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING
