"""Debian's kernel and our module for it, unpacked below ``build/vm``: nothing is installed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
FOLDER: Final = Path(os.environ.get("VM_FOLDER") or HERE.parents[2] / "build" / "vm")

_NAME: Final = re.compile(r"^linux-headers-(6\.12\.(\d+)\S*)-cloud-amd64 ", re.MULTILINE)
_SOURCES: Final = HERE / "kernel"


class CannotBuildError(Exception):
    """Something this machine lacks, in words."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One unpacked kernel.

    Attributes:
        version: Debian's, without the flavour, e.g. ``6.12.117+deb12``.
        root: where its packages are unpacked.
    """

    version: str
    root: Path

    @property
    def release(self) -> str:
        """As ``uname -r`` says."""
        return f"{self.version}-cloud-amd64"

    @property
    def image(self) -> Path:
        """The bootable kernel."""
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """Where its modules are, compressed."""
        return self.root / "lib" / "modules" / self.release / "kernel"


def kernel() -> Kernel:
    """The newest 6.12 cloud kernel apt offers, downloaded once.

    Raises:
        CannotBuildError: no apt, no such kernel, or it cannot be fetched.
    """
    for program in ("apt-cache", "apt-get", "dpkg-deb"):
        if not shutil.which(program):
            raise CannotBuildError(f"no {program} here: the kernel is Debian's")
    found = max(
        _NAME.findall(_run("apt-cache", "search", "--names-only", r"^linux-headers-6\.12\..*-cloud-amd64$")),
        key=lambda match: int(match[1]),
        default=None,
    )
    if found is None:
        raise CannotBuildError(
            "apt knows no linux-headers-6.12.*-cloud-amd64 (Debian 12 or 13; apt-get update)"
        )
    wanted = Kernel(found[0], FOLDER / found[0])
    if not wanted.root.exists():
        _fetch(wanted)
    return wanted


def _fetch(wanted: Kernel) -> None:
    version = wanted.version
    names = [f"linux-image-{version}-cloud-amd64", f"linux-headers-{version}-cloud-amd64"]
    names += [f"linux-headers-{version}-common", f"linux-kbuild-{version}"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        _run("apt-get", "download", "-q", *names, cwd=folder)
        unpacked = Path(folder) / "root"
        for package in Path(folder).glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), str(unpacked))
        unpacked.rename(wanted.root)


def our_module(wanted: Kernel) -> Path:
    """``coco_tsm.ko`` for a kernel, compiled once for each state of its source.

    Raises:
        CannotBuildError: no compiler, or it does not compile.
    """
    sources = sorted(_SOURCES.iterdir())
    stamp = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    done = wanted.root / f"coco_tsm-{stamp}.ko"
    if done.exists():
        return done
    headers = wanted.root / "usr" / "src" / f"linux-headers-{wanted.release}"
    # Debian's says /usr/src, where an installed package would be.
    common = wanted.root / "usr" / "src" / f"linux-headers-{wanted.version}-common"
    (headers / "Makefile").write_text(f"include {common}/Makefile\n", encoding="ascii")
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        for source in sources:
            shutil.copy(source, folder)
        # No BTF: it needs the whole vmlinux, and nobody here traces.
        _run("make", "-C", str(headers), f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules")
        (Path(folder) / "coco_tsm.ko").rename(done)
    return done


def _run(*command: str, cwd: str | None = None) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    except OSError as error:
        raise CannotBuildError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-8:]
        raise CannotBuildError(f"{' '.join(command[:3])}: {'; '.join(last)}")
    return done.stdout
