"""The unit files as systemd's own tools judge them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.systemd.machine import UNITS

if TYPE_CHECKING:
    from pathlib import Path

MOST_EXPOSURE = 3.0
PROGRAMS = ("coco-agent", "attestation-agent", "confidential-data-hub", "api-server-rest")
SETS = sorted(folder.name for folder in UNITS.iterdir() if folder.is_dir() and folder.name != "drop-ins")
SERVICES = sorted(UNITS.glob("*/*.service"))

pytestmark = [
    pytest.mark.integration,
    # In CI nothing is skipped: what is missing there fails.
    pytest.mark.skipif(
        "CI" not in os.environ and shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
    ),
]


def root_with(folder: Path, units: str) -> Path:
    """A root in which everything that the units name exists, as in an image."""
    system = folder / "etc/systemd/system"
    system.mkdir(parents=True)
    for unit in (UNITS / units).iterdir():
        shutil.copy(unit, system)
    for drop_in in (UNITS / "drop-ins").glob("*.conf"):
        for service in system.glob("coco-agent.service"):
            target = service.with_name(f"{service.name}.d")
            target.mkdir(exist_ok=True)
            shutil.copy(drop_in, target)
    shutil.copytree("/usr/lib/systemd/system", folder / "usr/lib/systemd/system", symlinks=True)
    (folder / "lib").symlink_to("usr/lib")
    # Of the peer-pod image, not ours.
    (system / "netns@.service").write_text("[Service]\nType=oneshot\nExecStart=/usr/local/bin/netns %i\n")
    for name in (*(f"usr/local/bin/{program}" for program in (*PROGRAMS, "netns")), "bin/sh"):
        program = folder / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("")
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize("units", SETS)
def test_verify_finds_nothing(tmp_path: Path, units: str) -> None:
    root = root_with(tmp_path, units)
    names = [str(root / "etc/systemd/system" / unit.name) for unit in sorted((UNITS / units).iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=one", *names],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("units", SETS)
def test_verify_would_find_a_mistake(tmp_path: Path, units: str) -> None:
    root = root_with(tmp_path, units)
    service = next((root / "etc/systemd/system").glob("*a*.service"))
    service.write_text(service.read_text().replace("ProtectHome=yes", "ProtectHomes=yes"))
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", str(service)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "ProtectHomes" in done.stderr


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_exposure_stays_below_the_threshold(service: Path) -> None:
    threshold = f"--threshold={int(MOST_EXPOSURE * 10)}"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", threshold, str(service)],
        check=False,
        capture_output=True,
        text=True,
    )
    figure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert figure is not None, done.stderr
    assert done.returncode == 0
    assert float(figure[1]) <= MOST_EXPOSURE
