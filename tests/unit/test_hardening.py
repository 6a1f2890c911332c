"""SR-19: what the process does to itself before it holds a secret."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import ctypes, json, os, resource
from agent.hardening import harden
harden()
print(json.dumps({
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "umask": os.umask(0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}))
"""


def test_no_dumps_no_readable_files_and_enough_descriptors() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    state = json.loads(done.stdout)
    assert state["dumpable"] == 0
    assert state["core"] == [0, 0]
    assert state["umask"] == 0o077
    assert state["files"] >= 1024
