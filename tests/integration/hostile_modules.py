"""A TEE whose report data says what it does wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings


def collect(settings: Settings, report_data: bytes, deadline: Deadline) -> bytes:
    """Misbehave."""
    what, _, more = report_data.decode().partition(" ")
    answer: bytes = globals()[f"do_{what}"](settings, more, deadline)
    return answer


def do_answer(settings: Settings, more: str, deadline: Deadline) -> bytes:
    print("printed on standard output")
    seen = {"seconds": deadline.remaining(), "environment": sorted(os.environ), "kbs": settings.kbs.url}
    descriptors = sorted(int(path.name) for path in Path("/proc/self/fd").iterdir())
    return msgspec.json.encode(seen | {"sysroot": settings.sysroot, "descriptors": descriptors})


def do_hang(settings: Settings, more: str, deadline: Deadline) -> bytes:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    told = Path(more)
    told.write_text(f"{os.getpid()} {child.pid}")
    told.rename(f"{more}.done")
    threading.Event().wait()
    return b""


def do_leave(settings: Settings, more: str, deadline: Deadline) -> bytes:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return msgspec.json.encode(child.pid)


def do_abort(settings: Settings, more: str, deadline: Deadline) -> bytes:
    sys.stderr.write("secret \x1b[31m\n")
    sys.stderr.flush()
    os.abort()


def do_exit(settings: Settings, more: str, deadline: Deadline) -> bytes:
    os._exit(3)


def do_silence(settings: Settings, more: str, deadline: Deadline) -> bytes:
    os._exit(0)


def do_garbage(settings: Settings, more: str, deadline: Deadline) -> bytes:
    return b'{"half'


def do_much(settings: Settings, more: str, deadline: Deadline) -> bytes:
    return b'"' + b"a" * (9 * 1024 * 1024) + b'"'


def do_fail(settings: Settings, more: str, deadline: Deadline) -> bytes:
    raise AgentError(ErrorCode[more], "device says \x1b[31mno", retry_after=2.0)


def do_defect(settings: Settings, more: str, deadline: Deadline) -> bytes:
    raise TypeError(more)


def do_denied(settings: Settings, more: str, deadline: Deadline) -> bytes:
    raise PermissionError(13, "denied", "/a/path")


def do_late(settings: Settings, more: str, deadline: Deadline) -> bytes:
    time.sleep(deadline.remaining())
    raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, "device 5 does not answer")
