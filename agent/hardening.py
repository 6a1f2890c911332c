"""What the process does to itself before it holds a secret."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_M_ARENA_MAX = -8
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
    if hasattr(libc, "mallopt"):  # of glibc
        # Each of grpcio's threads would have a heap, with free memory of its own.
        libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give free memory to the kernel, in some milliseconds, where the C library can do so."""
    # T-TTRPC-27: the allocator keeps freed blocks, up to all that callers ever made us hold.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
