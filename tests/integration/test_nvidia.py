"""GPUs whose library hangs, crashes and lies: each is named, and the others give evidence."""

from __future__ import annotations

import logging
import time
from base64 import b64decode
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.clock import Deadline, SystemClock
from agent.config.model import Attester as Settings
from agent.devkit.sample import SampleAttester
from agent.errors import AgentError, ErrorCode
from agent.observe.metrics import Metrics
from agent.tee.attesters import DeviceAttester
from agent.tee.evidence_source import GuestEvidence, select
from agent.tee.platform import detect

from .fake_nvml import FakeNvml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
DATA = bytes(range(48))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> FakeNvml:
    return FakeNvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(library: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.folder))
    library.faults()
    return library


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in range(8))):
        (tmp_path / "dev" / name).touch()
    return tmp_path


def gpus(evidence: bytes) -> list[dict[str, str]]:
    found = msgspec.json.decode(evidence)["device_evidence_list"]
    assert isinstance(found, list)
    return found


def uuid(index: int) -> str:
    return f"GPU-00000000-0000-0000-0000-{index:012}"


def source(root: Path, metrics: Metrics | None = None, *expected: str) -> GuestEvidence:
    settings = Settings(sysroot=str(root), allow_sample=True, expected_devices=expected)
    return select(detect(str(root), {}, "x86_64"), settings, metrics)


async def test_eight_gpus_sign_the_first_32_bytes(nvml: FakeNvml, root: Path) -> None:
    nvml.faults("print")
    attester = DeviceAttester("nvidia", Settings(sysroot=str(root)))
    collected = await attester.collect_devices(DATA, Deadline.after(CLOCK, 30))
    assert [each.fine for each in collected.results] == [True] * 8
    found = gpus(collected.evidence)
    assert [each["uuid"] for each in found] == [uuid(index) for index in range(8)]
    assert {each["arch"] for each in found} == {"HOPPER"}
    for index, each in enumerate(found):
        spdm = b64decode(each["evidence"])
        assert spdm[4:36] == DATA[:32]
        assert spdm[-1] == 0xA0 + index
        assert b64decode(each["certificate"]).endswith(b"-----END CERTIFICATE-----\n")


@pytest.mark.parametrize("fault", ["hang", "spin"])
async def test_one_of_eight_gpus_hangs(
    nvml: FakeNvml, root: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    nvml.faults(f"3 {fault}")
    metrics = Metrics()
    evidence, began = source(root, metrics), time.monotonic()
    limit = Deadline.after(CLOCK, 8)
    found = gpus(msgspec.json.encode(msgspec.json.decode(await evidence.additional(DATA, limit))["nvidia"]))
    assert time.monotonic() - began < 4.5  # half of the time; the rest is the CPU's
    assert await evidence.primary(DATA, limit)
    assert [each["uuid"] for each in found] == [uuid(index) for index in range(8) if index != 3]
    warning = next(record for record in caplog.records if record.levelno == logging.WARNING)
    assert vars(warning)["device"] == f"GPU 3 ({uuid(3)})"
    assert vars(warning)["code"] == "EVIDENCE_TIMEOUT"
    text = metrics.render().decode()
    assert 'coco_device_evidence_total{result="ok",tee="nvidia"} 7.0' in text
    assert 'coco_device_evidence_total{result="EVIDENCE_TIMEOUT",tee="nvidia"} 1.0' in text


async def test_with_a_count_the_hung_gpu_is_missing(nvml: FakeNvml, root: Path) -> None:
    nvml.faults("3 hang")
    began = time.monotonic()
    with pytest.raises(AgentError) as caught:
        await source(root, None, "nvidia:8").additional(DATA, Deadline.after(CLOCK, 6))
    assert time.monotonic() - began < 6
    assert caught.value.code is ErrorCode.DEVICE_MISSING
    assert f"GPU 3 ({uuid(3)})" in caught.value.detail
    assert "7 of 8" in caught.value.detail


async def test_the_other_seven_are_enough_for_less(nvml: FakeNvml, root: Path) -> None:
    nvml.faults("0 crash")
    for expected in ("nvidia", "nvidia:7"):
        found = await source(root, None, expected).additional(DATA, Deadline.after(CLOCK, 30))
        assert len(msgspec.json.decode(found)["nvidia"]["device_evidence_list"]) == 7


async def test_each_gpu_has_its_own_reason(nvml: FakeNvml, root: Path) -> None:
    nvml.faults("0 crash", "2 error 3", "4 error 15", "6 stale", "7 crash")
    (root / "dev" / "nvidia-nvswitch0").touch()
    attester = DeviceAttester("nvidia", Settings(sysroot=str(root)))
    collected = await attester.collect_devices(DATA, Deadline.after(CLOCK, 30))
    assert [each["uuid"] for each in gpus(collected.evidence)] == [uuid(index) for index in (1, 3, 5)]
    said = {each.name.split(" (")[0]: (each.result, each.detail) for each in collected.results}
    assert said["GPU 0"] == ("EVIDENCE_FAILED", "its process was ended by SIGSEGV")
    assert said["GPU 2"][0] == "NOT_SUPPORTED"
    assert "confidential computing" in said["GPU 2"][1]
    assert "lost" in said["GPU 4"][1]
    assert "not for our nonce" in said["GPU 6"][1]
    assert "SIGSEGV" in said["GPU 7"][1]
    assert said["NVSwitch 0"][0] == "NOT_SUPPORTED"
    assert said["GPU 1"][0] == "ok"


async def test_all_gpus_hang_and_the_cpu_is_served(nvml: FakeNvml, root: Path) -> None:
    nvml.faults(*(f"{number} hang" for number in range(8)))
    limit, began = Deadline.after(CLOCK, 6), time.monotonic()
    evidence = source(root)
    assert await evidence.additional(DATA, limit) == b""
    assert time.monotonic() - began < 4
    assert await evidence.primary(DATA, limit)


@pytest.mark.parametrize(
    ("faults", "code", "told"),
    [
        ("init hang", ErrorCode.EVIDENCE_TIMEOUT, "library"),
        ("init crash", ErrorCode.EVIDENCE_FAILED, "SIGSEGV"),
        ("init error 9", ErrorCode.QUOTE_PATH_MISSING, "driver"),
        ("init error 18", ErrorCode.EVIDENCE_FAILED, "different versions"),
    ],
)
async def test_a_library_that_does_not_start(
    nvml: FakeNvml, root: Path, faults: str, code: ErrorCode, told: str
) -> None:
    nvml.faults(faults)
    attester = DeviceAttester("nvidia", Settings(sysroot=str(root)))
    with pytest.raises(AgentError) as caught:
        await attester.collect(DATA, Deadline.after(CLOCK, 3 if "hang" in faults else 30))
    assert caught.value.code is code
    assert "nvidia" in caught.value.detail
    assert told in caught.value.detail


async def test_without_the_library_the_cpu_is_served(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    limit = Deadline.after(CLOCK, 30)
    assert await source(root).additional(DATA, limit) == b""
    with pytest.raises(AgentError) as caught:
        await source(root, None, "nvidia").additional(DATA, limit)
    assert caught.value.code is ErrorCode.DEVICE_MISSING
    assert "libnvidia-ml" in caught.value.detail


async def test_a_driver_that_went_away(root: Path) -> None:
    attester = DeviceAttester("nvidia", Settings(sysroot=str(root)))
    evidence = GuestEvidence(SampleAttester(), (attester,), None, expected={"nvidia": 1})
    (root / "dev" / "nvidiactl").unlink()
    with pytest.raises(AgentError) as caught:
        await evidence.additional(DATA, Deadline.after(CLOCK, 30))
    assert "driver is not loaded" in caught.value.detail
