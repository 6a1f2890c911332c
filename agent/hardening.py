"""What the process does to itself before it holds a secret."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 128 * 1024
"""Blocks from this size on are the kernel's again when they are freed: glibc's own first choice, which it
otherwise raises to the largest block that it has seen."""
_DESCRIPTORS = 8192
"""Enough for every connection that agent/config/limits.py allows, broker and devices included."""


def harden() -> None:
    """No core dumps, no debugger attach by other users, no files that others can write.

    Threat model: T-PROC-1. Fails silently where the kernel refuses: the limits are a second line, and an
    agent that does not start protects nobody.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, hard), hard))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    # T-TTRPC-27: memory that callers made us hold comes back. Libraries other than glibc do no such thing.
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_ARENA_MAX, 1)  # a heap for each of grpcio's threads is never given back
