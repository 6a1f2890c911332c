"""The doctor on simulated guests: a healthy one of each TEE, and what is told apart when one is ill."""

from __future__ import annotations

import errno
import hashlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.clock import SystemClock
from agent.config.model import Attester, Config
from agent.devkit.configfs_tsm import REPORTS, SHOWN, ConfigfsTsm
from agent.devkit.guests import TEES, MissingToolError, guest
from agent.doctor import evidence
from agent.doctor.examination import examine
from agent.doctor.finding import Finding, Patient, Verdict
from agent.doctor.guest import INIT_DATA
from agent.tee.binding import bind_digest
from agent.tee.platform import detect
from tests.integration.fuse_support import need_fuse, nothing_is_skipped_in_ci
from tests.integration.support import soon
from tests.unit.doctor.patients import put
from tests.unit.tee.test_initdata import DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.devkit.guests import SimulatedGuest

pytestmark = pytest.mark.integration

DIGEST = hashlib.sha256(DOCUMENT).digest()


def patient(settings: Attester) -> Patient:
    return Patient(
        config=Config(attester=settings),
        detection=detect(settings.sysroot, {}, platform.machine(), settings),
        environ={},
        machine=platform.machine(),
        release="6.16.0",
        cmdline="",
        clock=SystemClock(),
    )


def named(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {f"{finding.area}: {finding.name}": finding for finding in findings}


async def found(simulated: SimulatedGuest) -> dict[str, Finding]:
    return named([each async for each in examine(patient(simulated.settings), offline=True)])


@pytest.mark.parametrize("tee", TEES)
async def test_a_healthy_guest(tee: str) -> None:
    try:
        async with guest(tee, DIGEST) as simulated:
            put(Path(simulated.sysroot), INIT_DATA, DOCUMENT).chmod(0o600)
            await bind_digest(DIGEST, simulated.settings, soon())
            findings = await found(simulated)
    except MissingToolError as error:
        nothing_is_skipped_in_ci(str(error))
    assert [each for each in findings.values() if each.verdict is Verdict.BAD] == []
    assert findings["platform: TEE"].seen == tee
    assert findings[f"evidence: {tee}"].verdict is Verdict.GOOD
    assert findings["init-data: register"].verdict is Verdict.GOOD
    if tee == "tdx":
        assert findings["event log: RTMR2"].seen == "agrees with the log"


@pytest.mark.parametrize("tee", ["snp", "tdx", "az-snp-vtpm"])
async def test_init_data_that_the_hardware_does_not_vouch_for(tee: str) -> None:
    try:
        async with guest(tee, DIGEST) as simulated:
            path = put(Path(simulated.sysroot), INIT_DATA, DOCUMENT + b"# changed\n")
            path.chmod(0o600)
            findings = await found(simulated)
    except MissingToolError as error:
        nothing_is_skipped_in_ci(str(error))
    assert findings["init-data: register"].verdict is Verdict.BAD
    assert "INIT_DATA_MISMATCH" in findings["init-data: register"].seen


async def test_a_register_that_somebody_else_extended() -> None:
    need_fuse()
    async with guest("tdx") as simulated:
        register = Path(simulated.sysroot) / "sys/devices/virtual/misc/tdx_guest/measurements/rtmr2:sha384"
        register.write_bytes(bytes(48))
        findings = await found(simulated)
    assert findings["event log: RTMR2"].verdict is Verdict.BAD
    assert findings["event log: RTMR1"].verdict is Verdict.GOOD


@pytest.mark.parametrize(
    ("ill", "code"),
    [
        ("no QGS", "QUOTE_SERVICE_UNREACHABLE"),
        ("throttled", "DEVICE_BUSY"),
        ("no way", "QUOTE_PATH_MISSING"),
        ("hypervisor", "EVIDENCE_FAILED"),
    ],
)
async def test_quote_paths_are_told_apart(
    ill: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_fuse()
    monkeypatch.setattr(evidence, "_QUOTE", 2.0)
    put(tmp_path, "dev/tdx_guest")
    settings = replace(Attester(), sysroot=str(tmp_path), eventlog_dir=str(tmp_path / "log"))
    if ill == "no way":
        findings = named([each async for each in evidence.quote(patient(settings))])
    else:
        tsm = ConfigfsTsm(
            tmp_path / REPORTS, "tdx_guest", lambda inblob, _: (inblob, b""), attributes=SHOWN["tdx_guest"]
        )
        with tsm.mounted() as mounted:
            mounted.faults.empty = ill == "no QGS"
            mounted.faults.errors.extend([errno.EBUSY] * 500 if ill == "throttled" else [errno.EIO] * 500)
            if ill == "no QGS":
                mounted.faults.errors.clear()
            findings = named([each async for each in evidence.quote(patient(settings))])
    assert findings["evidence: tdx"].seen.startswith(code), findings
    assert findings["evidence: tdx"].next_step
