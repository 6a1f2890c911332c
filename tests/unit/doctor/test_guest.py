from __future__ import annotations

import gzip
import sys
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent import variant
from agent.devkit.clock import FakeClock
from agent.doctor import guest
from agent.doctor.finding import Verdict
from tests.unit.doctor.patients import one, patient, put
from tests.unit.tee.test_initdata import DOCUMENT

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_there_and_nothing_asked_for(tmp_path: Path) -> None:
    found = one(guest.platform(patient(tmp_path)), "TEE")
    assert (found.verdict, found.seen) == (Verdict.BAD, "none")


@pytest.mark.parametrize("sign", ["wanted", "cpu", "kernel", "initdata"])
def test_confidential_by_name_only(sign: str, tmp_path: Path) -> None:
    if sign == "cpu":
        put(tmp_path, "proc/cpuinfo", b"flags\t\t: fpu tdx_guest sse\n")
    if sign == "initdata":
        put(tmp_path, guest.INIT_DATA, DOCUMENT)
    looked_at = patient(
        tmp_path,
        wanted="snp" if sign == "wanted" else "",
        cmdline="quiet agent.aa_kbc_params=cc_kbc::http://kbs" if sign == "kernel" else "quiet",
    )
    found = one(guest.platform(looked_at), "TEE")
    assert found.verdict is Verdict.BAD
    assert "BY NAME ONLY" in found.seen


def test_another_tee_than_the_one_wanted(tmp_path: Path) -> None:
    (tmp_path / "sys/devices/platform/sev-guest").mkdir(parents=True)
    assert one(guest.platform(patient(tmp_path, wanted="snp")), "TEE").verdict is Verdict.GOOD
    found = one(guest.platform(patient(tmp_path, wanted="tdx")), "TEE")
    assert (found.verdict, found.seen) == (Verdict.BAD, "snp, but tdx is wanted")


def test_a_development_image_is_never_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant, "DEVELOPMENT", True)
    found = one(guest.platform(patient(tmp_path)), "TEE")
    assert found.verdict is Verdict.WARNING
    assert "DEVELOPMENT IMAGE" in found.seen


def test_sample_evidence_is_never_good(tmp_path: Path) -> None:
    assert one(guest.platform(patient(tmp_path, allow_sample=True)), "TEE").verdict is Verdict.WARNING


def test_samples_that_nobody_makes_are_no_tee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent.devkit.sample", None)
    found = one(guest.platform(patient(tmp_path, allow_sample=True)), "TEE")
    assert (found.verdict, found.seen) == (Verdict.BAD, "none")


def test_configfs_missing_and_configfs_empty_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, "dev/tdx_guest")
    assert "not mounted" in one(guest.devices(patient(tmp_path)), "configfs-tsm").seen
    put(tmp_path, "proc/mounts", b"configfs /sys/kernel/config configfs rw,relatime 0 0\n")
    found = one(guest.devices(patient(tmp_path)), "configfs-tsm")
    assert "no tsm/report" in found.seen
    assert "modprobe" in found.next_step


def test_a_device_that_is_there(tmp_path: Path) -> None:
    put(tmp_path, "dev/tdx_guest").chmod(0o600)
    found = one(guest.devices(patient(tmp_path)), "/dev/tdx_guest")
    assert (found.verdict, found.seen.split(",")[0]) == (Verdict.GOOD, "mode 0600")


@pytest.mark.parametrize("name", ["proc/config.gz", "boot/config-6.12.1"])
def test_kernel_options(name: str, tmp_path: Path) -> None:
    put(tmp_path, "dev/tdx_guest")
    config = b"CONFIG_TSM_REPORTS=m\n# CONFIG_TDX_GUEST_DRIVER is not set\nCONFIG_CONFIGFS_FS=y\n"
    put(tmp_path, name, gzip.compress(config) if name.endswith("gz") else config)
    found = list(guest.kernel(patient(tmp_path)))
    assert one(found, "CONFIG_TSM_REPORTS").verdict is Verdict.GOOD
    assert one(found, "CONFIG_TDX_GUEST_DRIVER").verdict is Verdict.BAD


def test_a_kernel_that_says_nothing_is_not_blamed(tmp_path: Path) -> None:
    put(tmp_path, "dev/tdx_guest")
    assert one(guest.kernel(patient(tmp_path)), "CONFIG_TSM_REPORTS").verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("release", "told"), [("6.12.107+deb12", True), ("6.16.0", False), ("7.3.4", False)])
def test_runtime_measurements_need_a_newer_kernel(release: str, told: bool, tmp_path: Path) -> None:
    put(tmp_path, "dev/tdx_guest")
    names = [f.name for f in guest.kernel(patient(tmp_path, release=release))]
    assert ("RTMR" in names) is told


def test_init_data_is_hashed_and_a_broken_one_is_said(tmp_path: Path) -> None:
    path = put(tmp_path, guest.INIT_DATA, DOCUMENT)
    path.chmod(0o600)
    assert "e2cee302" in one(guest.init_data(patient(tmp_path)), "document").seen
    path.write_bytes(b"not toml")
    assert one(guest.init_data(patient(tmp_path)), "document").verdict is Verdict.BAD


def test_a_clock_from_before_the_release(tmp_path: Path) -> None:
    looked_at = patient(tmp_path)
    assert one(guest.clock(looked_at), "guest's clock").verdict is Verdict.GOOD
    late = replace(looked_at, clock=FakeClock(wall=0.0))
    assert one(guest.clock(late), "guest's clock").verdict is Verdict.BAD


def test_warnings_of_the_configuration_are_lines(tmp_path: Path) -> None:
    looked_at = patient(tmp_path)
    warned = replace(looked_at, config=replace(looked_at.config, warnings=("a key is misspelt",)))
    assert one(guest.configuration(warned), "warning").seen == "a key is misspelt"
