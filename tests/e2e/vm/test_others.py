"""Hygon CSV, IBM Secure Execution and AWS Nitro: the drivers' ioctls by CUSE. What they answer is made up."""

from __future__ import annotations

import base64
import errno
import hashlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import cbor
from tests.e2e.vm import other_hardware
from tests.e2e.vm.hardware import Fault

if TYPE_CHECKING:
    from tests.e2e.vm.hardware import Hardware
    from tests.e2e.vm.machine import Machine

pytestmark = pytest.mark.vm

REPORT_DATA = hashlib.sha384(b"a key and a nonce").digest()


class CsvReport(msgspec.Struct):
    flags: int
    data: list[int]


class CsvEvidence(msgspec.Struct):
    attestation_report: CsvReport
    serial_number: list[int]


class SeEvidence(msgspec.Struct):
    measurement: bytes
    user_data: bytes
    cuid: bytes


def test_csv(vm: Machine) -> None:
    vm.become("others")
    settings = {"eventlog_dir": "/run/csv-eventlog"}
    evidence = vm.call("collect", "agent.tee.csv", REPORT_DATA, settings=settings).data
    found = msgspec.json.decode(evidence, type=CsvEvidence)
    assert bytes(found.attestation_report.data)[64:128] == REPORT_DATA.ljust(64, b"\0")
    assert bytes(found.serial_number) == other_hardware.SERIAL
    assert found.attestation_report.flags == 1


def test_csv_registers(vm: Machine, hardware: Hardware) -> None:
    vm.become("others")
    assert vm.call("problem", "agent.tee.csv").detail == ""
    before = vm.call("register", "agent.tee.csv", number=4).data
    vm.call("extend", "agent.tee.csv", bytes(range(32)), number=4)
    after = vm.call("register", "agent.tee.csv", number=4).data
    assert after == hashlib.new("sm3", before + bytes(range(32))).digest()
    assert hardware.others.registers[4] == after
    with pytest.raises(AgentError) as caught:
        vm.call("extend", "agent.tee.csv", bytes(32), number=0)
    assert "0x16" in caught.value.detail


def se_request() -> bytes:
    members = {
        "request_blob": b"the broker's request",
        "encr_measurement_key": b"a key",
        "encr_request_nonce": b"a nonce",
        "image_hdr_tags": bytes(208),
        "runtime_data_digest": REPORT_DATA,
    }
    encoded = {name: base64.b64encode(value).decode() for name, value in members.items()}
    return msgspec.json.encode(encoded | {"measurement_size": 64, "additional_size": 48})


def test_secure_execution(vm: Machine) -> None:
    vm.become("others")
    found = msgspec.json.decode(vm.call("collect", "agent.tee.se", se_request()).data, type=SeEvidence)
    user_data = REPORT_DATA.ljust(64, b"\0")
    assert found.user_data == user_data
    assert found.measurement == other_hardware.measurement(user_data, b"the broker's request")
    assert found.cuid == other_hardware.CUID


def test_the_ultravisor_refuses(vm: Machine, hardware: Hardware) -> None:
    vm.become("others")
    hardware.others.uv_code = 0x0105_0102
    with pytest.raises(AgentError) as caught:
        vm.call("collect", "agent.tee.se", se_request())
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    assert "0x0105" in caught.value.detail


def test_nitro(vm: Machine) -> None:
    vm.become("others")
    document = cbor.decode(vm.call("nitro", data=REPORT_DATA).data, "document")
    assert isinstance(document, list)
    assert isinstance(document[2], bytes)
    request = cbor.decode(document[2], "request")
    assert request == {"Attestation": {"user_data": REPORT_DATA, "nonce": None, "public_key": None}}


def test_a_device_that_fails(vm: Machine, hardware: Hardware) -> None:
    vm.become("others")
    hardware.faults["nsm"] = Fault(errno.EBUSY)
    with pytest.raises(AgentError) as caught:
        vm.call("nitro", data=REPORT_DATA)
    assert caught.value.code is ErrorCode.DEVICE_BUSY
