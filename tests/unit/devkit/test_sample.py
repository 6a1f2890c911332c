from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import Deadline
from agent.config import limits
from agent.config.keys import KEYS
from agent.devkit.clock import FakeClock
from agent.devkit.sample import SampleAttester, SampleDevice
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.tee.base import Attester

DEADLINE = Deadline.never(FakeClock())
PRIMARY = bytes.fromhex(
    "dfa65d498315212bdaf8857231cf0482172933db271f15856bf30db447227eb5b1dd9e29fcc1fb9076fb00792c3bb7e7"
)
DEVICE = bytes.fromhex(
    "cc12bca78af3e46d9ddb68eb97122047abb52703f1cec34bd0adc12c5ac8c860b1ada6c8729e54f2172908b77572364a"
)


async def test_sample_evidence_is_the_worked_example_of_the_protocol_sheet() -> None:
    attester: Attester = SampleAttester()
    expected = b'{"svn":"1","report_data":"36ZdSYMVISva+IVyMc8EghcpM9snHxWFa/MNtEcifrWx3Z4p/MH7kHb7AHksO7fn"}'
    assert attester.tee == "sample"
    assert await attester.collect(PRIMARY, DEADLINE) == expected


async def test_device_evidence_is_the_worked_example_of_the_protocol_sheet() -> None:
    attester: Attester = SampleDevice()
    assert attester.tee == "sampledevice"
    assert json.loads(await attester.collect(DEVICE, DEADLINE)) == {
        "svn": "2",
        "report_data": "zBK8p4rz5G2d22jrlxIgR6u1JwPxzsNL0K3BLFrIyGCxrabIcp5U8hcpCLd1cjZK",
    }


@settings(max_examples=50)
@given(data=st.binary(max_size=200))
async def test_report_data_is_neither_padded_nor_cut(data: bytes) -> None:
    for attester in (SampleAttester(), SampleDevice()):
        value = json.loads(await attester.collect(data, DEADLINE))
        assert base64.b64decode(value["report_data"], validate=True) == data


async def test_report_data_is_bounded() -> None:
    with pytest.raises(AgentError) as caught:
        await SampleAttester().collect(bytes(limits.MAX_RUNTIME_DATA + 1), DEADLINE)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_quote_can_take_its_time(blocking: bool) -> None:
    slow = SampleAttester(latency=0.02, blocking=blocking)
    began = time.monotonic()
    assert await slow.collect(PRIMARY, DEADLINE) == await SampleAttester().collect(PRIMARY, DEADLINE)
    assert time.monotonic() - began >= 0.02


def test_no_configuration_makes_it_slow() -> None:
    assert not [key.name for key in KEYS if "latency" in key.name or "blocking" in key.name]
