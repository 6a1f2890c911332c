from __future__ import annotations

import asyncio
import sys

import msgspec
import pytest

from agent import variant
from agent.clock import Deadline
from agent.config import limits
from agent.config.model import Attester as Settings
from agent.devkit.clock import FakeClock
from agent.devkit.sample import SampleAttester, SampleDevice
from agent.errors import AgentError, ErrorCode
from agent.observe.metrics import Metrics
from agent.tee.devices import Collected, DeviceResult
from agent.tee.evidence_source import GuestEvidence, select
from agent.tee.platform import Detection

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


class TwoOfThree:
    """A family with one device that fails."""

    tee = "nvidia"

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        return (await self.collect_devices(report_data, deadline)).evidence

    async def collect_devices(self, report_data: bytes, deadline: Deadline) -> Collected:
        lost = DeviceResult("GPU 2", "EVIDENCE_FAILED", "lost")
        return Collected(b"[1,2]", (DeviceResult("GPU 0"), DeviceResult("GPU 1"), lost))


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


async def test_a_development_image_needs_no_setting_and_marks_its_evidence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(AgentError) as caught:
        _ = select(NOTHING, Settings()).tee
    assert caught.value.code is ErrorCode.NO_TEE
    monkeypatch.setattr(variant, "DEVELOPMENT", True)
    source = select(NOTHING, Settings())
    assert source.tee == "sample"
    assert await source.primary(b"data", DEADLINE) == (
        b'{"svn":"1","report_data":"ZGF0YQ==","image":"development"}'
    )
    assert select(Detection((), "tdx", ()), Settings()).tee == "tdx"
    with pytest.raises(AgentError) as caught:
        _ = select(Detection((), None, (), ("az-snp-vtpm",)), Settings()).tee
    assert caught.value.code is ErrorCode.TEE_NOT_SUPPORTED


async def test_the_sample_device_needs_both_switches() -> None:
    assert select(NOTHING, Settings(allow_sample=True, sample_device=True)).devices == ("sampledevice",)
    assert select(NOTHING, Settings(sample_device=True)).devices == ()


@pytest.mark.parametrize("tee", ["tdx", "sgx", "snp", "csv", "cca", "se", "az-snp-vtpm"])
async def test_a_real_tee_is_never_replaced_by_a_sample(tee: str) -> None:
    source = select(Detection((), tee, ()), Settings(allow_sample=True, sample_device=True))
    assert source.tee == tee
    assert source.devices == ()


async def test_a_tee_of_a_later_release_is_refused_by_name() -> None:
    error = await refused(select(Detection((), "later", ()), ALLOWED))
    assert error.code is ErrorCode.TEE_NOT_SUPPORTED
    assert "later" in error.detail


async def test_a_tee_that_may_be_there_is_not_replaced_either() -> None:
    error = await refused(select(Detection((), None, (), ("az-snp-vtpm",)), ALLOWED))
    assert error.code is ErrorCode.TEE_NOT_SUPPORTED
    assert "az-snp-vtpm" in error.detail


async def test_an_image_without_the_development_kit_refuses_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent.devkit.sample", None)
    error = await refused(select(NOTHING, ALLOWED))
    assert error.code is ErrorCode.SAMPLE_REFUSED
    assert "not in this image" in error.detail
    assert "allow_sample = true" not in error.hint  # it is set


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


async def test_a_failing_device_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    broken = Device("hygondcu", fault=AgentError(ErrorCode.DEVICE_BUSY, "hygondcu: ioctl"))
    source = GuestEvidence(SampleAttester(), (broken, Device("nvidia")), None, metrics=metrics)
    assert await source.additional(b"x", DEADLINE) == b'{"nvidia":{}}'
    assert source.devices == ("hygondcu", "nvidia")
    told = [(vars(record)["device"], vars(record)["code"]) for record in caplog.records]
    assert told == [("hygondcu", "DEVICE_BUSY")]
    text = metrics.render().decode()
    assert 'coco_device_evidence_total{result="DEVICE_BUSY",tee="hygondcu"} 1.0' in text
    assert 'coco_device_evidence_total{result="ok",tee="nvidia"} 1.0' in text


async def test_when_every_device_fails_there_is_none() -> None:
    broken = Device("nvidia", fault=AgentError(ErrorCode.QUOTE_PATH_MISSING, "no driver"))
    assert await GuestEvidence(SampleAttester(), (broken,), None).additional(b"x", DEADLINE) == b""


async def test_an_expected_device_that_fails_ends_the_call_and_the_others() -> None:
    stuck = Stuck()
    broken = Device("hygondcu", fault=AgentError(ErrorCode.EVIDENCE_FAILED, "hygondcu: ioctl"))
    source = GuestEvidence(SampleAttester(), (stuck, broken), None, expected={"hygondcu": None})
    with pytest.raises(AgentError) as caught:
        await source.additional(b"x", DEADLINE)
    assert caught.value.code is ErrorCode.DEVICE_MISSING
    assert "hygondcu: ioctl" in caught.value.detail
    assert stuck.cancelled


async def test_an_expected_device_that_is_not_there_is_missing_before_anything_is_asked() -> None:
    source = select(NOTHING, Settings(allow_sample=True, expected_devices=("nvidia:8",)))
    assert source.problem is ErrorCode.DEVICE_MISSING
    with pytest.raises(AgentError) as caught:
        await source.additional(b"x", DEADLINE)
    assert caught.value.code is ErrorCode.DEVICE_MISSING
    assert "nvidia" in caught.value.detail
    assert await source.primary(b"x", DEADLINE)  # the CPU itself can be asked


async def test_the_primary_tee_counts_as_there() -> None:
    source = select(NOTHING, Settings(allow_sample=True, expected_devices=("sample",)))
    assert source.problem is None
    assert await source.additional(b"x", DEADLINE) == b""


@pytest.mark.parametrize(
    ("expected", "enough"), [(None, True), (1, True), (2, True), (3, False), (8, False)], ids=str
)
async def test_devices_of_a_family_are_counted(expected: int | None, *, enough: bool) -> None:
    source = GuestEvidence(SampleAttester(), (TwoOfThree(),), None, expected={"nvidia": expected})
    if enough:
        assert await source.additional(b"x", DEADLINE) == b'{"nvidia":[1,2]}'
        return
    with pytest.raises(AgentError) as caught:
        await source.additional(b"x", DEADLINE)
    assert caught.value.code is ErrorCode.DEVICE_MISSING
    assert f"2 of {expected}" in caught.value.detail
    assert "GPU 2: lost" in caught.value.detail


async def test_an_expected_device_that_answers_nonsense_is_missing() -> None:
    source = GuestEvidence(SampleAttester(), (Device("nvidia", b"{"),), None, expected={"nvidia": None})
    with pytest.raises(AgentError) as caught:
        await source.additional(b"x", DEADLINE)
    assert caught.value.code is ErrorCode.DEVICE_MISSING


@pytest.mark.parametrize("answer", [b"", b"{", b'{}},"snp":{}', b"\xff", b"[" * 100_000, b"NaN"])
async def test_a_device_cannot_break_out_of_its_place(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = Device("hygondcu", b'"fine"')
    source = GuestEvidence(None, (Device("nvidia", answer), good), None)
    assert await source.additional(b"x", DEADLINE) == b'{"hygondcu":"fine"}'
    assert [vars(record)["code"] for record in caplog.records] == ["EVIDENCE_FAILED"]


async def test_a_stuck_device_ends_with_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    assert await GuestEvidence(None, (stuck,), None).additional(b"x", Deadline.after(FakeClock(), 0)) == b""
    assert [vars(record)["code"] for record in caplog.records] == ["EVIDENCE_TIMEOUT"]
    assert stuck.cancelled


async def test_devices_have_a_limit_of_their_own() -> None:
    device = Device("nvidia")
    await GuestEvidence(None, (device,), None).additional(b"x", Deadline.never(FakeClock()))
    assert device.deadline is not None
    assert device.deadline.remaining() == limits.EVIDENCE_DEADLINE


async def test_devices_leave_time_for_the_cpu() -> None:
    device = Device("nvidia")
    await GuestEvidence(None, (device,), None).additional(b"x", Deadline.after(FakeClock(), 20))
    assert device.deadline is not None
    assert device.deadline.remaining() == 20 * limits.DEVICES_SHARE


def test_two_devices_of_one_name_are_a_defect() -> None:
    with pytest.raises(ValueError, match="same wire string"):
        GuestEvidence(None, (Device("nvidia"), Device("nvidia")), None)
