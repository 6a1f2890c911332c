"""What the process that collects evidence costs to start: once per token, while the caller waits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.tee.attesters import IN_PROCESS, MODULES


@pytest.mark.parametrize("module", sorted(MODULES[tee] for tee in MODULES.keys() - IN_PROCESS))
def test_it_loads_neither_event_loop_nor_rpc(module: str) -> None:
    heavy = {"asyncio", "aiohttp", "google.protobuf", "prometheus_client"}
    program = f"import sys, agent.tee.collector, {module}\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
