"""What every root has besides the bundle: merged /usr, glibc, certificate authorities."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from rootfs import debian, elf, files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rootfs.debian import Package

_MERGED: Final = ("bin", "lib", "lib64", "sbin")
_LOADER: Final = "usr/lib64/ld-linux-x86-64.so.2"


def unpack(names: Iterable[str], stage: Path, cache: Path) -> list[Package]:
    """Packages below a folder, as an installed system has them: everything in /usr.

    Raises:
        BuildError: apt does not offer one, or it cannot be fetched.
    """
    packages = debian.candidates(names)
    debian.unpack(debian.fetch(packages, cache / "debian"), stage)
    for name in _MERGED:  # Debian 12's packages still have files outside of /usr
        if (stage / name).is_dir():
            shutil.copytree(stage / name, stage / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(stage / name)
    return packages


def merge(tree: Path) -> None:
    """Make /bin, /lib, /lib64 and /sbin links into /usr."""
    for name in _MERGED:
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(f"usr/{name}")


def add_glibc(stage: Path, tree: Path) -> None:
    """All of glibc, and its loader where programs look for it; the bundle brings the rest."""
    known = elf.libraries(stage / "usr/lib")
    for name in sorted(elf.GLIBC & set(known)):
        files.copy(known[name].resolve(), tree / known[name].relative_to(stage))
    loader = known["ld-linux-x86-64.so.2"].relative_to(stage / "usr")
    (tree / _LOADER).symlink_to(f"../{loader}")


def add_authorities(stage: Path, tree: Path) -> None:
    """Debian's list of certificate authorities, in the one file that OpenSSL reads."""
    found = sorted((stage / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    files.write(tree / "etc/ssl/certs/ca-certificates.crt", "".join(each.read_text() for each in found))
