"""A memory cgroup for one program: version 2 or 1, whichever this machine lets us set.

The program is in the group before its first instruction, and whoever started it is not.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTER: Final = 'echo $$ > "$1"; shift; exec "$@"'
PATIENCE_S: Final = 5.0
"""A group can be removed a moment after its last process has ended."""


class CgroupError(Exception):
    """No group can be made here; the text says what was tried."""


@dataclass(frozen=True, slots=True)
class Names:
    """What one version calls things.

    Attributes:
        limit: file with the limit of memory.
        swap: file with that of swap; there only where the kernel counts it.
        kills: file with the line ``oom_kill``.
        together: ``swap`` counts memory as well, so that no swap is the same number and not 0.
    """

    limit: str
    swap: str
    kills: str
    together: bool


V1: Final = Names("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control", together=True)
V2: Final = Names("memory.max", "memory.swap.max", "memory.events", together=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A group with a limit."""

    path: Path
    names: Names

    def command(self, *words: str) -> tuple[str, ...]:
        """The command, run inside the group."""
        return ("/bin/sh", "-ec", ENTER, "sh", str(self.path / "cgroup.procs"), *words)

    def killed(self) -> int:
        """How many of its processes the kernel has ended for want of memory."""
        lines = (self.path / self.names.kills).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def processes(self) -> list[int]:
        """Ids of the processes in it."""
        return [int(word) for word in (self.path / "cgroup.procs").read_text().split()]


@contextmanager
def memory(limit: int) -> Iterator[Group]:
    """A new group that may hold ``limit`` bytes and no swap; removed afterwards, when its processes are gone.

    Raises:
        CgroupError: none can be made.
    """
    group = _make(limit)
    try:
        yield group
    finally:
        _remove(group.path)


def missing() -> str:
    """Why no group can be made here; empty when one can.

    Raises:
        CgroupError: none can be made, and this is CI, where nothing is left out.
    """
    try:
        with memory(64 << 20):
            return ""
    except CgroupError as error:
        if os.environ.get("CI"):
            raise
        return str(error)


def _make(limit: int) -> Group:
    reasons = []
    own, mounts = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    for parent, names in parents(own, mounts):
        path = parent / f"coco-test-{secrets.token_hex(4)}"
        try:
            if names is V2:
                _enable(parent)
            path.mkdir()
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            continue
        try:
            confine(path, names, limit)
        except OSError as error:
            path.rmdir()
            reasons.append(f"{parent}: {error.strerror}")
            continue
        return Group(path, names)
    tried = "; ".join(reasons) or "no memory controller is mounted"
    raise CgroupError(f"no memory cgroup can be set ({tried}). Run as root, or with a delegated cgroup")


def confine(path: Path, names: Names, limit: int) -> None:
    """Write the limits of a new group."""
    (path / names.limit).write_text(str(limit))
    if (path / names.swap).exists():
        (path / names.swap).write_text(str(limit if names.together else 0))


def _enable(parent: Path) -> None:
    """Version 2: children get the memory controller only when their parent hands it on."""
    switch = parent / "cgroup.subtree_control"
    if "memory" not in switch.read_text().split():
        switch.write_text("+memory")


def parents(own: str, mounts: str) -> Iterator[tuple[Path, Names]]:
    """Where a group may be made, version 2 first; where it is mounted, then where this process is.

    Args:
        own: text of ``/proc/self/cgroup``.
        mounts: text of ``/proc/self/mountinfo``.
    """
    within = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in own.splitlines()}
    for kind, names, controller in (("cgroup2", V2, ""), ("cgroup", V1, "memory")):
        for fields in map(str.split, mounts.splitlines()):
            root, top, after = fields[3], Path(fields[4]), fields.index("-")
            if fields[after + 1] != kind or not _has_memory(top, names, fields[after + 3]):
                continue
            yield top, names
            inside = within.get(controller, root)
            if inside != root and inside.startswith(root):
                yield top / os.path.relpath(inside, root), names


def _has_memory(top: Path, names: Names, options: str) -> bool:
    if names is V1:
        return "memory" in options.split(",")
    controllers = top / "cgroup.controllers"
    return controllers.exists() and "memory" in controllers.read_text().split()


def _remove(path: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with suppress(OSError):  # busy: a process is still ending
            path.rmdir()
            return
        time.sleep(0.05)
    path.rmdir()
