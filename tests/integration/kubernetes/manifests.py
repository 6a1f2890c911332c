"""The manifests as files, and the programs that judge them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docs" / "kubernetes"
DOCUMENT = ROOT / "docs" / "kubernetes.md"
CC_INIT_DATA = "io.katacontainers.config.hypervisor.cc_init_data"
KERNEL_PARAMS = "io.katacontainers.config.hypervisor.kernel_params"


def load(name: str) -> list[dict[str, Any]]:
    """The objects of one file."""
    return [each for each in yaml.safe_load_all((FOLDER / name).read_text()) if each]


def everything() -> list[tuple[str, dict[str, Any]]]:
    """Every object, with the name of its file."""
    return [(path.name, each) for path in sorted(FOLDER.glob("*.yaml")) for each in load(path.name)]


def one(name: str, kind: str) -> dict[str, Any]:
    """The only object of a kind in a file."""
    (found,) = [each for each in load(name) if each["kind"] == kind]
    return found


def container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in pod["spec"]["containers"] if each["name"] == name]
    return dict(found)


def tool(name: str) -> str:
    """promtool or prometheus; without it the test is skipped, but not in CI."""
    found = ROOT / ".tools" / name
    if not found.exists():
        reason = f"no {name}: scripts/debian-prometheus .tools"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return str(found)


def promtool(*arguments: str) -> str:
    """What it prints, when it is content."""
    done = subprocess.run(
        [tool("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
