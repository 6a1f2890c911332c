"""A root that is not the built one: the machine ends, and nobody has attested."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from rootfs import system
from rootfs.image import BLOCK
from rootfs.tools import run
from tests.e2e.vm.machine import GuestError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.boot.world import World
    from tests.e2e.vm.machine import Machine

pytestmark = pytest.mark.vm


def flipped(source: Path, target: Path, offset: int) -> Path:
    """A copy with one bit changed."""
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    return target


def place(image: Path, name: str) -> int:
    """Where in the image the first extent of a file is."""
    told = run(["dump.erofs", f"--path={name}", "-e", image])
    found = re.search(r"^\s*0:\s+0\.\.\s*\d+ \|\s*\d+ :\s+(\d+)\.\.", told, re.MULTILINE)
    assert found is not None, told
    return int(found[1])


def ends(machine: Machine, world: World) -> str:
    """Boot; what the console said when the machine ended by itself, having served nobody."""
    before = dict(world.kbs.counters)
    with pytest.raises(GuestError, match="EOFError"), machine:
        pass
    assert machine.ended
    assert dict(world.kbs.counters) == before
    return machine.console


def test_a_changed_program(outside: World, tmp_path: Path) -> None:
    image = system.OUTPUT / system.PRODUCT.erofs
    offset = place(image, "/usr/lib/systemd/systemd")
    data = flipped(image, tmp_path / "data", offset)
    console = ends(outside.machine("changed-program", data=data), outside)
    assert f"data block {offset // BLOCK} is corrupted" in console
    assert "dm-verity device corrupted" in console


def test_a_changed_hash(outside: World, tmp_path: Path) -> None:
    """The block of hashes at the top, which the root hash is of."""
    tree = flipped(system.OUTPUT / system.PRODUCT.tree, tmp_path / "tree", 0)
    assert "corrupted" in ends(outside.machine("changed-hash", tree=tree), outside)


def test_another_root_hash(outside: World) -> None:
    built = outside.root.verity
    parameters = built.parameters().replace(built.root_hash, built.root_hash[::-1])
    assert "corrupted" in ends(outside.machine("another-hash", parameters=parameters), outside)
