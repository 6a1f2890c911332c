"""The worker node: its files, below a sysroot. Reads only, never more than a bounded part."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Final

import msgspec

from agent.config.cmdline import words

_MAX: Final = 256 * 1024
_LOG_MAX: Final = 4 * 1024 * 1024
"""More than the kernel's ring holds with any usual ``log_buf_len``."""


class Node(msgspec.Struct, frozen=True):
    """What is looked at.

    Attributes:
        sysroot: prefix of every path; ``/host`` in a pod that mounts the node's root there.
        wanted: wire string of the TEE this node should offer, ``snp``, ``tdx`` or ``se``; empty: by the CPU.
    """

    sysroot: str
    wanted: str = ""

    @property
    def machine(self) -> str:
        """As ``uname -m``; the tree's own word counts (Linux 6.1 and later have the file)."""
        return self.text("proc/sys/kernel/arch") or platform.machine()

    @property
    def release(self) -> str:
        """As ``uname -r``."""
        return self.text("proc/sys/kernel/osrelease") or platform.release()

    @property
    def version(self) -> tuple[int, ...]:
        """The first two numbers of :attr:`release`."""
        return tuple(int(part) for part in re.findall(r"\d+", self.release)[:2])

    def path(self, name: str) -> Path:
        """Where a file of the node is, e.g. ``dev/kvm`` or ``/dev/kvm``."""
        return Path(self.sysroot, name.lstrip("/"))

    def has(self, name: str) -> bool:
        """Whether it is there."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def text(self, name: str) -> str | None:
        """Its first 256 KiB without white space at the ends; None when it cannot be read."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(_MAX).decode("utf-8", "replace").strip()
        except OSError:
            return None

    def cpu(self, field: str) -> str:
        """A field of the first CPU in /proc/cpuinfo, such as ``flags``; empty when it is not there."""
        found = re.search(rf"^{re.escape(field)}\s*:\s*(.*)$", self.text("proc/cpuinfo") or "", re.MULTILINE)
        return found[1].strip() if found else ""

    @property
    def parameters(self) -> list[str]:
        """The kernel command line's words."""
        return list(words(self.text("proc/cmdline") or ""))

    def room(self, resource: str) -> int | None:
        """How many of a resource the CPU has, by the cgroup controller ``misc``; None when that does not say.

        Args:
            resource: ``sev_es`` (also the address space ids of SNP guests) or ``tdx``.
        """
        for name in ("sys/fs/cgroup/misc.capacity", "sys/fs/cgroup/misc/misc.capacity"):
            found = re.search(rf"^{resource} (\d+)$", self.text(name) or "", re.MULTILINE)
            if found:
                return int(found[1])
        return None

    def kernel_log(self) -> tuple[str, ...] | None:
        """What the kernel still remembers having said, oldest first; None when it cannot be read.

        Records of /dev/kmsg are ``priority,sequence,time,flags;message`` (the kernel's
        Documentation/ABI/testing/dev-kmsg).
        """
        try:
            descriptor = os.open(self.path("dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            records = _records(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return tuple(line.partition(";")[2] for line in records.split("\n") if ";" in line)


def _records(descriptor: int) -> str:
    chunks, size = list[bytes](), 0
    while size < _LOG_MAX:
        try:
            chunk = os.read(descriptor, 8192)  # of the device: exactly one record
        except BlockingIOError:
            break
        except BrokenPipeError:  # overwritten meanwhile: go on with the oldest that is left
            continue
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks).decode("utf-8", "replace")
