"""Kills a process at every stop between two of its system calls, and then lets another one recover.

The kernel does it (ptrace(2)): the child stops before and after each system call, and is killed there.
Nothing of the code under test is replaced. Prints one JSON document.

python -m tests.unit.tee.eventlog.killed FOLDER
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.tee.eventlog import RuntimeLog
from tests.unit.tee.eventlog.registers import Guest

if TYPE_CHECKING:
    from collections.abc import Callable

PTRACE_TRACEME, PTRACE_SYSCALL = 0, 24
EVENT = ("example.org", "start", '{"of": "a service"}')

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int) -> None:
    if _libc.ptrace(request, pid, None, None) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def killed_at(stop: int, work: Callable[[], object]) -> bool:
    """Run work in a child and kill it at its n-th stop; False when it ended before."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ptrace(PTRACE_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise PermissionError("ptrace is not allowed here")
    for _ in range(stop):
        ptrace(PTRACE_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError("the child failed")
            return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def fresh(folder: Path, *, before: int) -> tuple[Guest, RuntimeLog]:
    """A guest with some events in its log already."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    guest = Guest(folder)
    log = RuntimeLog(guest.measures, guest.settings())
    for number in range(before):
        log.extend("example.org", "earlier", str(number), 17 if number % 2 else 1)
    return guest, log


def seen(guest: Guest, before: int) -> dict[str, object]:
    return {
        "events": len(guest.events()) - before if guest.folder.exists() else 0,
        "agrees": guest.agrees(),
        "leftovers": sorted(guest.leftovers()) if guest.folder.exists() else [],
    }


def extension(folder: Path, before: int) -> list[dict[str, object]]:
    """Killed while it measures; then recovery, and the caller asking again."""
    found: list[dict[str, object]] = []
    going = True
    while going:
        guest, log = fresh(folder, before=before)
        going = killed_at(len(found) + 1, partial(log.extend, *EVENT))
        wal = (guest.folder / ".wal_event_entry").exists()
        logged = not wal and seen(guest, before)["events"] == 1
        again = RuntimeLog(guest.measures, guest.settings())
        again.recover()
        after = {"wal": wal, "logged": logged, **seen(guest, before)}
        again.extend(*EVENT, once=True)
        found.append({**after, "asked_again": seen(guest, before)})
    return found


def recovery(folder: Path, stop: int) -> list[dict[str, object]]:
    """Killed while it measures, killed while it recovers from that, and then recovered."""
    found: list[dict[str, object]] = []
    going = True
    while going:
        guest, log = fresh(folder, before=2)
        killed_at(stop, partial(log.extend, *EVENT))
        going = killed_at(len(found) + 1, log.recover)
        RuntimeLog(guest.measures, guest.settings()).recover()
        found.append(seen(guest, 2))
    return found


def main() -> None:
    logging.disable()
    folder = Path(sys.argv[1])
    runs = {str(before): extension(folder / "guest", before) for before in (0, 2)}
    with_wal = [number + 1 for number, run in enumerate(runs["2"]) if run["wal"]]
    chosen = (with_wal[0], with_wal[len(with_wal) // 2], with_wal[-1])
    twice = {str(stop): recovery(folder / "guest", stop) for stop in chosen}
    print(json.dumps({"extension": runs, "recovery": twice}))


if __name__ == "__main__":
    main()
