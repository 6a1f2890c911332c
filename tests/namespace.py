"""A guest's own view of files, without a virtual machine: a mount namespace that ends with its program."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def private(mounts: Sequence[Sequence[str]], command: Sequence[str]) -> list[str]:
    """The command, in a mount namespace where ``mount`` was run with each of the arguments first.

    It keeps the process id of what is started, so that /proc tells about the program itself.
    """
    lines = [f"mount {shlex.join(arguments)}" for arguments in mounts]
    script = "\n".join(["set -e", *lines, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]


def guest_sys(sysroot: str) -> list[str]:
    """Mount that puts a simulated guest's /sys over the real one."""
    return ["--rbind", f"{sysroot}/sys", "/sys"]
