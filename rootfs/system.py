"""A plain systemd root: Debian's systemd, the agent's bundle and its units, and nothing that could log in.

For a confidential virtual machine that is not Kata's. There is no shell, no login, no package manager, no
generator that makes units of the kernel command line, and no Python but the bundle's. Packages are unpacked
and not installed; what is kept of them is in ``rootfs/system_files.py``. So the same packages give the same
bytes.

The kernel, its modules, the network and the opening of the verity device are the business of the initramfs,
which belongs to whoever measures the launch (docs/system-root.md).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rootfs import base, bundle, elf, files
from rootfs.product import Product
from rootfs.system_files import ENABLED, FILES, FOLDERS, LINKS, PACKAGES, PROGRAMS, UNITS
from rootfs.wheels import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from rootfs.debian import Package
    from rootfs.product import Built

OUTPUT: Final = ROOT / "build" / "system"
AGENT_UNIT: Final = "systemd/confidential-vm/coco-agent.service"
PRODUCT: Final = Product(name="coco-system-root", stem="system", also=(AGENT_UNIT,))
_SYSTEM_UNITS: Final = "usr/lib/systemd/system"


def build(output: Path, cache: Path, say: Callable[[str], None] = bundle.silent) -> Built:
    """Build everything into a folder.

    Args:
        output: receives the files of ``PRODUCT``; others in it stay.
        cache: downloaded packages.
        say: told each step.

    Raises:
        BuildError: something is missing.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="coco-system-") as name:
        tree, stage = Path(name).resolve() / "tree", Path(name).resolve() / "stage"
        contents = bundle.build(bundle.Options(into=tree, prefix="", cache=cache, cryptsetup=False, say=say))
        say("systemd, and what it needs")
        packages = base.unpack(PACKAGES, stage, cache)
        assemble(stage, tree)
        contents = replace(contents, debian=tuple(sorted({*contents.debian, *packages}, key=_name)))
        say("erofs, dm-verity")
        return PRODUCT.write(tree, contents, output)


def _name(package: Package) -> str:
    return package.name


def assemble(stage: Path, tree: Path) -> None:
    """Add what is kept of the packages to the bundle's tree.

    Args:
        stage: unpacked packages.
        tree: the bundle, with prefix "".

    Raises:
        BuildError: a package lacks something.
    """
    for name in FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    base.merge(tree)
    for name in (*PROGRAMS, *(f"{_SYSTEM_UNITS}/{unit}" for unit in UNITS)):
        files.copy(stage / name, tree / name)
    _libraries(stage, tree)
    for source in sorted(stage.glob("usr/share/doc/*/copyright")):
        files.copy(source, tree / "usr/share/doc" / source.parent.name / "copyright")
    for name, text in FILES.items():
        files.write(tree / name, text)
    base.add_authorities(stage, tree)
    files.copy(ROOT / AGENT_UNIT, tree / _SYSTEM_UNITS / Path(AGENT_UNIT).name)
    for wanting, wanted in ENABLED.items():
        folder = tree / _SYSTEM_UNITS / f"{wanting}.wants"
        folder.mkdir()
        for name in wanted:
            (folder / name).symlink_to(f"../{name}")
    for name, target in LINKS.items():
        (tree / name).symlink_to(target)
    files.settle(tree)


def _libraries(stage: Path, tree: Path) -> None:
    """What the programs load, and all of glibc."""
    known = elf.libraries(stage / "usr/lib")
    for name, source in elf.closure((tree / name for name in PROGRAMS), known).items():
        files.copy(source, tree / known[name].relative_to(stage))
    base.add_glibc(stage, tree)
