"""The image Kata mounts: an erofs, its dm-verity tree, and the disk that holds both.

Layout as upstream's coco extension: an MBR with two partitions, the file system and, behind it, the tree of
``veritysetup format --no-superblock`` over the whole first partition. Kata's mount unit takes the numbers
from ``kata.extension.coco.verity_params`` on the kernel command line, so the launch measurement covers them.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rootfs.errors import BuildError
from rootfs.tools import EPOCH, run

if TYPE_CHECKING:
    from pathlib import Path

MIB: Final = 1 << 20
BLOCK: Final = 4096
CLUSTER: Final = 64 * 1024
"""Bytes compressed together. More compresses better, but one page then costs more to read."""

UUID: Final = "c0c0a9e1-7000-5000-8000-000000000001"
SALT: Final = hashlib.sha256(b"coco-agent extension image").hexdigest()
"""A fixed salt: the same content has to give the same root hash."""

_SECTOR: Final = 512
_DISK_LABEL: Final = "0x636f636f"


@dataclass(frozen=True, slots=True)
class Verity:
    """What the kernel needs to check the first partition.

    Attributes:
        root_hash: SHA-256 in hexadecimal.
        data_blocks: blocks of 4096 bytes.
        salt: in hexadecimal.
    """

    root_hash: str
    data_blocks: int
    salt: str = SALT

    def parameters(self) -> str:
        """Value of ``verity_params`` in Kata's configuration, and of the kernel parameter."""
        return (
            f"root_hash={self.root_hash},salt={self.salt},data_blocks={self.data_blocks},"
            f"data_block_size={BLOCK},hash_block_size={BLOCK}"
        )


def make_erofs(tree: Path, image: Path) -> int:
    """Write the file system, padded to whole MiB; its size in bytes before padding."""
    image.unlink(missing_ok=True)
    fixed = ("-T", str(EPOCH), "-U", UUID, "--all-root", "-x-1", "--quiet")
    run(["mkfs.erofs", "-zlz4hc,12", f"-C{CLUSTER}", "-Enoinline_data", *fixed, image, tree])
    size = image.stat().st_size
    os.truncate(image, _whole_mib(size))
    return size


def make_verity(data: Path, tree: Path) -> Verity:
    """Write the hash tree of a whole file."""
    tree.unlink(missing_ok=True)
    blocks = data.stat().st_size // BLOCK
    said = run(["veritysetup", "format", *_options(blocks), data, tree])
    tree.chmod(0o644)
    match = re.search(r"^Root hash:\s+([0-9a-f]{64})$", said, re.MULTILINE)
    if match is None:
        raise BuildError(f"veritysetup printed no root hash:\n{said}")
    return Verity(match[1], blocks)


def verify(data: Path, tree: Path, verity: Verity) -> None:
    """Check every block, as the kernel does when it reads it.

    Raises:
        BuildError: something is not as it was built.
    """
    run(["veritysetup", "verify", *_options(verity.data_blocks), data, tree, verity.root_hash])


def _options(blocks: int) -> list[str]:
    sizes = [f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}", f"--data-blocks={blocks}"]
    return ["--no-superblock", "--hash=sha256", *sizes, f"--salt={SALT}"]


def make_disk(data: Path, tree: Path, disk: Path) -> None:
    """Write the disk: partition table, file system, hash tree, each on a whole MiB."""
    places = []
    start = MIB
    for part in (data, tree):
        length = _whole_mib(part.stat().st_size)
        places.append((start, length, part))
        start += length
    with disk.open("wb") as file:
        file.truncate(start)
        for offset, _, part in places:
            file.seek(offset)
            file.write(part.read_bytes())
    rows = [f"start={offset // _SECTOR}, size={length // _SECTOR}, type=83" for offset, length, _ in places]
    table = "\n".join(["label: dos", f"label-id: {_DISK_LABEL}", "unit: sectors", *rows])
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], standard_input=table + "\n")


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB
