"""The log and the registers agree whenever the process dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.tee.eventlog.killed", str(tmp_path_factory.mktemp("killed"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if "PermissionError: ptrace" in done.stderr and not os.environ.get("CI"):
        pytest.skip("this machine does not allow ptrace")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("before", ["0", "2"])
def test_killed_between_any_two_system_calls_nothing_is_lost_or_doubled(found: Any, before: str) -> None:
    runs = found["extension"][before]
    assert len(runs) > 60, "two stops for each of the system calls"
    assert {run["events"] for run in runs} == {0, 1}
    for stop, run in enumerate(runs, 1):
        assert run["agrees"], stop
        assert run["leftovers"] == [], stop
        # Until the record is in place nothing happened; from then on all of it did. Told from what the kill
        # left, not from the number of the stop: two runs may differ by a call for memory.
        assert run["events"] == (run["wal"] or run["logged"]), stop
        # The caller, who heard nothing, asks again for the event to be there once.
        assert run["asked_again"] == {"events": 1, "agrees": True, "leftovers": []}, stop
    assert sum(run["wal"] for run in runs) > 10


def test_killed_again_while_recovering(found: Any) -> None:
    assert len(found["recovery"]) == 3
    for runs in found["recovery"].values():
        assert len(runs) > 40
        assert all(run == {"events": 1, "agrees": True, "leftovers": []} for run in runs)
