from __future__ import annotations

import asyncio
import sys

import msgspec
import pytest

from agent.clock import Deadline
from agent.config import limits
from agent.config.model import Attester as Settings
from agent.devkit.clock import FakeClock
from agent.devkit.sample import SampleAttester, SampleDevice
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence_source import GuestEvidence, select
from agent.tee.platform import Detection
from agent.tee.unsupported import UnsupportedAttester

DEADLINE = Deadline.after(FakeClock(), 60)
# attesters.md 15.3
DEVICE_DIGEST = bytes.fromhex(
    "0df20fd8aa99a4cac7cb838f7908ef6c9600de97eb3b3a897eafc3771d7100b3160e137184042f10920dd26b2ef936a3"
)
DEVICE_MAP = (
    b'{"sampledevice":{"report_data":"DfIP2KqZpMrHy4OPeQjvbJYA3pfrOzqJfq/Ddx1xALMWDhNxhAQvEJIN0msu+Taj",'
    b'"svn":"2"}}'
)
NOTHING = Detection((), None, ())
ALLOWED = Settings(allow_sample=True)


class Device:
    """A device with a fault switch."""

    def __init__(self, tee: str, answer: bytes = b"{}", fault: AgentError | None = None) -> None:
        self.tee = tee
        self.answer = answer
        self.fault = fault
        self.deadline: Deadline | None = None

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        self.deadline = deadline
        if self.fault is not None:
            raise self.fault
        return self.answer


class Stuck:
    """A device that never answers."""

    tee = "nvidia"

    def __init__(self) -> None:
        self.cancelled = False

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return b""


async def refused(source: GuestEvidence) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await source.primary(b"x", DEADLINE)
    with pytest.raises(AgentError) as named:
        assert source.tee
    assert named.value.code is caught.value.code
    assert source.problem is caught.value.code
    return caught.value


# --- choosing -------------------------------------------------------------------------------------


async def test_no_tee_means_no_evidence() -> None:
    assert (await refused(select(NOTHING, Settings()))).code is ErrorCode.NO_TEE


async def test_sample_only_where_it_is_allowed() -> None:
    source = select(NOTHING, ALLOWED)
    assert source.tee == "sample"
    assert source.problem is None
    assert source.devices == ()
    assert msgspec.json.decode(await source.primary(b"x", DEADLINE))["svn"] == "1"


async def test_the_sample_device_needs_both_switches() -> None:
    assert select(NOTHING, Settings(allow_sample=True, sample_device=True)).devices == ("sampledevice",)
    assert select(NOTHING, Settings(sample_device=True)).devices == ()


@pytest.mark.parametrize("tee", ["tdx", "sgx", "snp", "csv", "cca", "se", "az-snp-vtpm"])
async def test_a_real_tee_is_never_replaced_by_a_sample(tee: str) -> None:
    source = select(Detection((), tee, ()), Settings(allow_sample=True, sample_device=True))
    error = await refused(source)
    assert error.code is ErrorCode.TEE_NOT_SUPPORTED
    assert tee in error.detail
    assert source.devices == ()


async def test_a_tee_that_may_be_there_is_not_replaced_either() -> None:
    error = await refused(select(Detection((), None, (), ("az-snp-vtpm",)), ALLOWED))
    assert error.code is ErrorCode.TEE_NOT_SUPPORTED
    assert "az-snp-vtpm" in error.detail


async def test_an_image_without_the_development_kit_refuses_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent.devkit.sample", None)
    error = await refused(select(NOTHING, ALLOWED))
    assert error.code is ErrorCode.SAMPLE_REFUSED
    assert "not in this image" in error.detail


async def test_each_refusal_is_an_error_of_its_own() -> None:
    source = select(NOTHING, Settings())
    assert await refused(source) is not await refused(source)


# --- collecting -----------------------------------------------------------------------------------


async def test_without_devices_the_additional_evidence_is_empty() -> None:
    assert await select(NOTHING, ALLOWED).additional(b"x", DEADLINE) == b""


async def test_the_vector_for_the_sample_device() -> None:
    source = GuestEvidence(SampleAttester(), (SampleDevice(),), None)
    assert await source.additional(DEVICE_DIGEST, DEADLINE) == DEVICE_MAP


async def test_the_map_is_compact_and_does_not_depend_on_the_order() -> None:
    one, two = Device("nvidia", b'{ "b" : [1, 2], "a": null }'), Device("hygondcu", b'"text"')
    wanted = b'{"hygondcu":"text","nvidia":{"a":null,"b":[1,2]}}'
    assert await GuestEvidence(None, (one, two), None).additional(b"x", DEADLINE) == wanted
    assert await GuestEvidence(None, (two, one), None).additional(b"x", DEADLINE) == wanted


async def test_one_failing_device_fails_the_call_and_ends_the_others() -> None:
    stuck = Stuck()
    broken = Device("hygondcu", fault=AgentError(ErrorCode.EVIDENCE_FAILED, "hygondcu: ioctl"))
    with pytest.raises(AgentError) as caught:
        await GuestEvidence(SampleAttester(), (stuck, broken), None).additional(b"x", DEADLINE)
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    assert stuck.cancelled


async def test_a_recognised_device_without_an_attester_is_not_left_out() -> None:
    source = select(Detection((), None, ("hygondcu",)), ALLOWED)
    assert source.devices == ("hygondcu",)
    assert source.problem is ErrorCode.TEE_NOT_SUPPORTED
    with pytest.raises(AgentError) as caught:
        await source.additional(b"x", DEADLINE)
    assert caught.value.code is ErrorCode.TEE_NOT_SUPPORTED


@pytest.mark.parametrize("answer", [b"", b"{", b'{}},"snp":{}', b"\xff", b"[" * 100_000, b"NaN"])
async def test_a_device_cannot_break_out_of_its_place(answer: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        await GuestEvidence(None, (Device("nvidia", answer),), None).additional(b"x", DEADLINE)
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    assert "nvidia" in caught.value.detail


async def test_a_stuck_device_ends_with_the_deadline() -> None:
    stuck = Stuck()
    with pytest.raises(AgentError) as caught:
        await GuestEvidence(None, (stuck,), None).additional(b"x", Deadline.after(FakeClock(), 0))
    assert caught.value.code is ErrorCode.EVIDENCE_TIMEOUT
    assert "nvidia" in caught.value.detail
    assert stuck.cancelled


async def test_devices_have_a_limit_of_their_own() -> None:
    device = Device("nvidia")
    await GuestEvidence(None, (device,), None).additional(b"x", Deadline.never(FakeClock()))
    assert device.deadline is not None
    assert device.deadline.remaining() == limits.EVIDENCE_DEADLINE


def test_two_devices_of_one_name_are_a_defect() -> None:
    with pytest.raises(ValueError, match="same wire string"):
        GuestEvidence(None, (Device("nvidia"), UnsupportedAttester("nvidia")), None)
