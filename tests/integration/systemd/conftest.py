"""Machines with our units, booted once for each file of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.systemd.machine import ROOT, UNITS, Machine, booted, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT_TOML = '[kbs]\nurl = "http://127.0.0.1:8080"\n[attester]\nallow_sample = true\n'


@contextmanager
def _machine(folders: pytest.TempPathFactory, units: Path) -> Iterator[Machine]:
    reason = missing()
    if reason and "CI" not in os.environ:
        pytest.skip(reason)
    assert not reason
    with booted(folders.mktemp("machine"), units) as machine:
        machine.write("/etc/coco-agent/agent.toml", AGENT_TOML)
        with _broker(machine):
            yield machine


@contextmanager
def _broker(machine: Machine) -> Iterator[None]:
    command = ("nsenter", f"--target={machine.init}", "--net", "--", sys.executable, "-m")
    with subprocess.Popen(
        [*command, "tests.integration.systemd.broker"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as broker:
        assert broker.stdout is not None
        assert broker.stdout.readline() == b"listening\n"
        try:
            yield
        finally:
            broker.kill()


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with _machine(tmp_path_factory, UNITS / "confidential-vm") as machine:
        yield machine


@pytest.fixture(scope="module", params=["ours", "stock"])
def peer_pod(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """With our units, and with the ones of a stock image, which have to work as they are."""
    units = UNITS / "peer-pods" if request.param == "ours" else Path(__file__).with_name("stock")
    with _machine(tmp_path_factory, units) as machine:
        yield machine
