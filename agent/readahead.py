"""Reads the bundle's modules into the page cache while Python executes the first of them.

A guest that has just booted has nothing of its root in memory. Each file is fetched, checked by dm-verity and
decompressed when Python asks for it, and Python waits. With a second processor a child process asks first.

Only guest images have the list (``rootfs/readahead.py``). Elsewhere nothing happens.
"""

from __future__ import annotations

import os
import signal
import sys

LIST = "readahead"
"""File in ``sys.prefix`` of the bundle: names relative to it, one a line."""

_LIST_MAX = 256 * 1024
_readers: list[int] = []


def begin() -> None:
    """Start to read. Call it before anything heavy is imported: the process has one thread then."""
    if len(os.sched_getaffinity(0)) < 2:
        return
    home = os.path.dirname(os.path.dirname(sys.executable))  # noqa: PTH120  # pathlib is one of the modules
    try:
        folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = _names(folder)
            if names:
                _fork(folder, names)
        finally:
            os.close(folder)
    except OSError:
        return  # no list, or no process to spare: slower, and nothing else


def finish() -> None:
    """End the reader: what it has not come to is loaded by now."""
    while _readers:
        pid = _readers.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _names(folder: int) -> list[bytes]:
    file = os.open(LIST, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(file, _LIST_MAX).split()
    finally:
        os.close(file)


def _fork(folder: int, names: list[bytes]) -> None:
    pid = os.fork()
    if pid:
        _readers.append(pid)
        return
    try:
        # T-CTRL-11: sockets that systemd passed are the parent's alone, and so is the end of its output.
        os.dup2(folder, 3)
        os.closerange(0, 3)
        os.closerange(4, 1024)
        for name in names:
            try:
                _read(name)
            except OSError:
                continue  # whoever needs it will say so
    finally:
        os._exit(0)


def _read(name: bytes) -> None:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=3)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(file)
