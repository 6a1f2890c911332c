"""TDX: configfs-tsm, vsock, the driver's ioctl and registers, the firmware's log in ACPI."""

from __future__ import annotations

import base64
import errno
import hashlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import events, quote_chain
from agent.tee.evidence.quote import Quote, TdBody, parse_quote
from agent.tee.evidence.verdict import holds
from tests.e2e.vm import wire
from tests.e2e.vm.firmware_log import firmware_log
from tests.e2e.vm.hardware import Fault, Hardware

if TYPE_CHECKING:
    from tests.e2e.vm.machine import Machine

pytestmark = pytest.mark.vm

REPORT_DATA = hashlib.sha384(b"a key and a nonce").digest()
REPORTS = "/sys/kernel/config/tsm/report"
LOGGED = {"eventlog_dir": "/run/eventlog"}
"""Of all tests: the registers are the machine's, and so is what led to them."""


class Evidence(msgspec.Struct):
    quote: str
    cc_eventlog: str


def proven(evidence: bytes, hardware: Hardware) -> tuple[Quote, events.EventLog]:
    """The quote is signed by our platform over our report data, and the log leads to its registers."""
    document = msgspec.json.decode(evidence, type=Evidence)
    quote = parse_quote(base64.b64decode(document.quote))
    assert quote.report_data == REPORT_DATA.ljust(64, b"\0")
    checks = quote_chain.offline(quote_chain.verify(quote, hardware.intel.roots))
    assert holds(checks), checks
    log = events.parse_log(base64.b64decode(document.cc_eventlog))
    assert isinstance(quote.body, TdBody)
    for register, value in events.replay(log, "sha384").items():
        assert quote.body.rtmrs[register - 1] == value
    return quote, log


def test_the_guest_is_recognised(vm: Machine) -> None:
    vm.become("tdx_guest")
    assert vm.call("detect").detail == "tdx"


def test_quote_by_configfs_and_log_by_acpi(vm: Machine, hardware: Hardware) -> None:
    vm.become("tdx_guest")
    evidence = vm.call("collect", "agent.tee.tdx", REPORT_DATA, settings=LOGGED).data
    _, log = proven(evidence, hardware)
    assert [event.data for event in log.events[1:6]] == [
        *(b"SecureBoot", bytes(4), b"shim", bytes(4), b"kernel command line")
    ]
    assert hardware.asked == {"report": 1}
    assert vm.call("names", REPORTS).lines == []


def test_the_log_is_the_firmwares(vm: Machine) -> None:
    content = vm.call("read", "/sys/firmware/acpi/tables/data/CCEL").data
    assert content.startswith(firmware_log().content)


def test_the_agent_collects_in_a_process_of_its_own(vm: Machine, hardware: Hardware) -> None:
    vm.become("tdx_guest")
    proven(vm.call("attest", "tdx", REPORT_DATA, settings=LOGGED).data, hardware)


def test_quote_straight_from_the_service(vm: Machine, hardware: Hardware) -> None:
    """A TDREPORT by the driver's ioctl, then the host's quote generation service by vsock."""
    vm.become("tdx_guest")
    settings = {"tdx_quote_vsock": "2:4050", **LOGGED}
    proven(vm.call("collect", "agent.tee.tdx", REPORT_DATA, settings=settings).data, hardware)
    assert hardware.asked == {"tdreport": 1, "qgs": 1}


def test_nobody_listens_on_the_service_port(vm: Machine) -> None:
    vm.become("tdx_guest")
    with pytest.raises(AgentError) as caught:
        vm.call("collect", "agent.tee.tdx", REPORT_DATA, settings={"tdx_quote_vsock": "2:4051"})
    assert caught.value.code is ErrorCode.QUOTE_SERVICE_UNREACHABLE
    assert "2:4051" in caught.value.detail


def test_the_service_hangs_up(vm: Machine, hardware: Hardware) -> None:
    vm.become("tdx_guest")
    hardware.faults["qgs"] = Fault()
    with pytest.raises(AgentError) as caught:
        vm.call("collect", "agent.tee.tdx", REPORT_DATA, settings={"tdx_quote_vsock": "2:4050"})
    assert caught.value.code is ErrorCode.QUOTE_SERVICE_UNREACHABLE


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(errno.ETIMEDOUT), ErrorCode.QUOTE_SERVICE_UNREACHABLE),
        (Fault(errno.EIO), ErrorCode.EVIDENCE_FAILED),
        (Fault(), ErrorCode.QUOTE_SERVICE_UNREACHABLE),
    ],
    ids=["no answer in 30 s", "hypercall refused", "an empty quote"],
)
def test_faults_of_the_quote_path_are_told_apart(
    vm: Machine, hardware: Hardware, fault: Fault, code: ErrorCode
) -> None:
    vm.become("tdx_guest")
    hardware.faults["report"] = fault
    with pytest.raises(AgentError) as caught:
        vm.call("collect", "agent.tee.tdx", REPORT_DATA)
    assert caught.value.code is code
    assert vm.call("names", REPORTS).lines == []


def test_a_quote_in_flight_is_waited_for(vm: Machine, hardware: Hardware) -> None:
    vm.become("tdx_guest")
    hardware.faults["report"] = Fault(errno.EBUSY, times=2)
    proven(vm.call("collect", "agent.tee.tdx", REPORT_DATA, settings=LOGGED).data, hardware)
    assert hardware.asked == {"report": 3}


def test_a_host_that_never_answers(vm: Machine, hardware: Hardware) -> None:
    """The process that waits in the kernel is killed at the deadline; the next one removes what it left."""
    vm.become("tdx_guest")
    hardware.faults["report"] = Fault(wire.SILENCE, times=1)
    with pytest.raises(AgentError) as caught:
        vm.call("attest", "tdx", REPORT_DATA, seconds=8)
    assert caught.value.code is ErrorCode.EVIDENCE_TIMEOUT
    assert len(vm.call("names", REPORTS).lines) == 1
    proven(vm.call("collect", "agent.tee.tdx", REPORT_DATA, settings=LOGGED).data, hardware)
    assert vm.call("names", REPORTS).lines == []


def test_init_data_is_compared_with_mrconfigid(vm: Machine, hardware: Hardware) -> None:
    vm.become("tdx_guest")
    vm.call("bind", "agent.tee.tdx", hardware.td.mrconfigid)
    with pytest.raises(AgentError) as caught:
        vm.call("bind", "agent.tee.tdx", hardware.td.mrconfigid[::-1])
    assert caught.value.code is ErrorCode.INIT_DATA_MISMATCH
    assert hardware.asked == {"mr-read": 2}


def test_a_kernel_without_registers_in_sysfs(vm: Machine, hardware: Hardware) -> None:
    """Before Linux 6.16 MRCONFIGID comes from a TDREPORT, and nothing can be measured."""
    vm.become("tdx_guest without registers")
    vm.call("bind", "agent.tee.tdx", hardware.td.mrconfigid)
    with pytest.raises(AgentError) as caught:
        vm.call("bind", "agent.tee.tdx", bytes(48))
    assert caught.value.code is ErrorCode.INIT_DATA_MISMATCH
    assert hardware.asked == {"tdreport": 2}
    assert "6.16" in vm.call("problem", "agent.tee.tdx").detail


def test_runtime_measurements(vm: Machine, hardware: Hardware) -> None:
    """An event goes into RTMR3 by sysfs and into the log; the quote carries one, the evidence the other."""
    vm.become("tdx_guest")
    settings: dict[str, str | int | bool] = {"enable_eventlog": True, **LOGGED}
    assert vm.call("problem", "agent.tee.tdx").detail == ""
    before = vm.call("register", "agent.tee.tdx", number=4).data
    event = b"github.com/confidential-containers PullImage an image"
    assert vm.call("measure", "agent.tee.tdx", event, number=17, settings=settings).detail == "OK"
    after = vm.call("register", "agent.tee.tdx", number=4).data
    assert before != after == hardware.td.rtmrs[3]
    quote, log = proven(vm.call("collect", "agent.tee.tdx", REPORT_DATA, settings=settings).data, hardware)
    assert isinstance(quote.body, TdBody)
    assert quote.body.rtmrs[3] == after
    assert log.events[-1].data.endswith(b"PullImage an image")


def test_an_extension_the_module_refuses(vm: Machine, hardware: Hardware) -> None:
    vm.become("tdx_guest")
    hardware.faults["mr-extend"] = Fault(errno.EIO)
    before = hardware.td.rtmrs
    with pytest.raises(AgentError) as caught:
        vm.call("extend", "agent.tee.tdx", bytes(48), number=4)
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    assert hardware.td.rtmrs == before
