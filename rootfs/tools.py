"""Other people's programs, run with an environment that does not change what they write."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from rootfs.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PACKAGES: Final = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "mkfs.erofs": "erofs-utils",
    "patchelf": "patchelf",
    "readelf": "binutils",
    "sfdisk": "fdisk",
    "strip": "binutils",
    "veritysetup": "cryptsetup-bin",
}
"""Debian package of every program a build needs."""

EPOCH: Final = 1_735_689_600
"""Time stamp of everything in an image: 2025-01-01. Any fixed moment does, as long as no clock decides it."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FIXED: Final = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0"}


def find(name: str) -> str:
    """Path of a program, also where only root's ``PATH`` has it.

    Raises:
        BuildError: it is not installed; names the package.
    """
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise BuildError(f"{name} is not installed. Next: apt-get install {PACKAGES.get(name, name)}")
    return found


def missing(names: Sequence[str] = tuple(PACKAGES)) -> list[str]:
    """Those of the programs that are not installed."""
    return [name for name in names if shutil.which(name, path=_PATH) is None]


def run(command: Sequence[str | Path], *, cwd: Path | None = None, standard_input: str = "") -> str:
    """Run to the end; standard output.

    Args:
        command: a bare name is looked up by ``find``.
        cwd: where.
        standard_input: what it reads.

    Raises:
        BuildError: it is not installed or fails; with the end of what it said.
    """
    words = [str(word) for word in command]
    if "/" not in words[0]:
        words[0] = find(words[0])
    environment = {**os.environ, "PATH": _PATH, **_FIXED}
    done = subprocess.run(  # noqa: S603  # arguments are ours, no shell
        words,
        cwd=cwd,
        env=environment,
        input=standard_input,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise BuildError(f"{words[0]} ended with status {done.returncode}:\n{said}")
    return done.stdout
