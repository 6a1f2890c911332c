"""configfs-tsm itself: Arm CCA, what the kernel refuses, and that the simulator says what the kernel says."""

from __future__ import annotations

import difflib
import hashlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.devkit import configfs_tsm
from agent.devkit.configfs_tsm import ConfigfsTsm
from agent.devkit.tdx_sysfs import TdxMeasurements
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.cca import parse_cca
from tests.e2e.vm.guest.probe import probe, probe_registers
from tests.e2e.vm.wire import Answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.vm.hardware import Hardware
    from tests.e2e.vm.machine import Machine

pytestmark = pytest.mark.vm

REPORT_DATA = hashlib.sha384(b"a key and a nonce").digest()


def differences(kernel: list[str], simulator: list[str]) -> str:
    return "\n".join(difflib.unified_diff(kernel, simulator, "kernel", "simulator", lineterm="", n=1))


class CcaEvidence(msgspec.Struct):
    token: list[int]


def test_a_realms_token(vm: Machine) -> None:
    vm.become("arm_cca_guest")
    evidence = vm.call("collect", "agent.tee.cca", REPORT_DATA).data
    token = bytes(msgspec.json.decode(evidence, type=CcaEvidence).token)
    assert parse_cca(token).challenge == REPORT_DATA.ljust(64, b"\0")


def test_a_kernel_without_provider(vm: Machine) -> None:
    vm.become("")
    for module in ("tdx", "cca", "snp"):
        with pytest.raises(AgentError) as caught:
            vm.call("collect", f"agent.tee.{module}", REPORT_DATA)
        assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING
        assert "no provider" in caught.value.detail


def test_another_provider_came_first(vm: Machine) -> None:
    vm.become("tdx_guest")
    with pytest.raises(AgentError) as caught:
        vm.call("request", "sev_guest", bytes(64))
    assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING
    assert "tdx_guest" in caught.value.detail


def test_input_the_kernel_refuses(vm: Machine) -> None:
    vm.become("tdx_guest")
    with pytest.raises(AgentError) as caught:
        vm.call("request", "tdx_guest", bytes(65))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    with pytest.raises(AgentError) as caught:
        vm.call("request", "tdx_guest", bytes(63))
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED


@pytest.mark.parametrize("provider", ["sev_guest", "tdx_guest", "arm_cca_guest"])
def test_the_simulator_is_like_the_kernel(
    vm: Machine, hardware: Hardware, tmp_path: Path, provider: str
) -> None:
    vm.become(provider)
    hardware.instead["report"] = lambda ask: Answer(blobs=[b"out" + ask.data, b"aux"])
    kernel = vm.call("probe").lines

    def quote(inblob: bytes, _privlevel: int) -> tuple[bytes, bytes]:
        return b"out" + inblob, b"aux"

    shown = configfs_tsm.SHOWN[provider]
    with ConfigfsTsm(tmp_path / "report", provider, quote, attributes=shown).mounted() as tsm:
        simulator = probe(tsm.mountpoint)
    found = differences(kernel, simulator)
    assert not found, found


def test_simulated_registers_are_like_sysfs(vm: Machine, hardware: Hardware, tmp_path: Path) -> None:
    """Linux 6.16's registers, by our module: what opening, sizes and offsets lead to is sysfs's own."""
    vm.become("tdx_guest")
    values = {f"rtmr{number}:sha384": value for number, value in enumerate(hardware.td.rtmrs)}
    values |= {"mrtd:sha384": hardware.td.mrtd, "mrconfigid": hardware.td.mrconfigid}
    before = hardware.td
    try:
        kernel = vm.call("registers").lines
    finally:
        hardware.td = before
    with TdxMeasurements(tmp_path / "measurements", values).mounted() as registers:
        simulator = probe_registers(registers.mountpoint)
    found = differences(kernel, simulator)
    assert not found, found
