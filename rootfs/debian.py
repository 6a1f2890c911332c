"""Debian packages: fetched by apt, which checks their signatures; unpacked without installing anything."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rootfs.errors import BuildError
from rootfs.tools import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INTERPRETER: Final = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib")
"""Debian's optimised build. The version is that of Debian 12; another release needs another name here."""

PYTHON: Final = "python3.11"

LIBRARIES: Final = (
    "libexpat1",  # built into the interpreter
    "libffi8",  # ctypes: mount(2), NVML
    "libgcc-s1",  # compiled wheels
    "libssl3",  # ssl, hashlib; cryptsetup
    "zlib1g",  # built into the interpreter
)

CRYPTSETUP: Final = (
    "cryptsetup-bin",
    "libargon2-1",
    "libblkid1",
    "libcryptsetup12",
    "libdevmapper1.02.1",
    "libjson-c5",
    "libpcre2-8-0",
    "libpopt0",
    "libselinux1",
    "libudev1",
    "libuuid1",
)


_FIELDS: Final = {"Package", "Version", "Architecture", "SHA256"}


@dataclass(frozen=True, slots=True)
class Package:
    """One binary package, as apt offers it.

    Attributes:
        name: binary package.
        version: Debian version.
        architecture: Debian's name.
        source: source package, which security advisories name.
        sha256: of the .deb, from the signed index.
    """

    name: str
    version: str
    architecture: str
    source: str
    sha256: str


def candidates(names: Iterable[str]) -> list[Package]:
    """What apt would install, in order of names.

    Raises:
        BuildError: apt does not know a package.
    """
    wanted = sorted(names)
    found = parse_records(run(["apt-cache", "show", "--no-all-versions", *wanted]))
    absent = set(wanted) - set(found)
    if absent:
        raise BuildError(f"apt does not offer {', '.join(sorted(absent))}. Next: apt-get update")
    return [found[name] for name in wanted]


def parse_records(text: str) -> dict[str, Package]:
    """Packages by name, from records as ``apt-cache show`` prints them."""
    found = {}
    for record in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in record.splitlines() if ": " in line and line[0] != " ")
        if set(fields) >= _FIELDS:
            source = fields.get("Source", fields["Package"]).split(" ")[0]
            found[fields["Package"]] = Package(
                fields["Package"], fields["Version"], fields["Architecture"], source, fields["SHA256"]
            )
    return found


def fetch(packages: Iterable[Package], cache: Path) -> list[Path]:
    """The .deb files, from ``cache`` where they are there already.

    Raises:
        BuildError: the download fails, or a file is not the one of the index.
    """
    cache.mkdir(parents=True, exist_ok=True)
    files = {package: cache / _file(package) for package in packages}
    absent = [package for package, path in files.items() if not path.exists()]
    if absent:
        run(["apt-get", "download", "-q", *(f"{one.name}={one.version}" for one in absent)], cwd=cache)
    for package, path in files.items():
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
            path.unlink(missing_ok=True)
            raise BuildError(f"{path.name} is not what apt's index says. Next: apt-get update, then again")
    return list(files.values())


def _file(package: Package) -> str:
    version = package.version.replace(":", "%3a")
    return f"{package.name}_{version}_{package.architecture}.deb"


def unpack(files: Iterable[Path], into: Path) -> None:
    """Unpack below ``into``; maintainer scripts do not run."""
    into.mkdir(parents=True, exist_ok=True)
    for path in files:
        run(["dpkg-deb", "-x", path, into])
