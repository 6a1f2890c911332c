"""What a build leaves in a folder, and whether it is of this checkout."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from rootfs import bundle, files, image
from rootfs.errors import BuildError
from rootfs.image import Verity  # noqa: TC001  # decoded: its annotations are looked at
from rootfs.wheels import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from rootfs.bundle import Contents

_SOURCES: Final = ("pyproject.toml", "requirements.lock", "requirements-dev.lock")
_TREES: Final = ("agent", "rootfs")


class Built(msgspec.Struct, frozen=True):
    """A finished build.

    Attributes:
        verity: what guards it.
        tree_bytes: of all files in it.
        erofs_bytes: of the file system.
        sources: SHA-256 over what it was made of, in hexadecimal.
    """

    verity: Verity
    tree_bytes: int
    erofs_bytes: int
    sources: str


@dataclass(frozen=True, slots=True)
class Product:
    """One kind of image, and the names of its files.

    Attributes:
        name: in the SBOM.
        stem: of the files' names.
        disk: file that has file system and hash tree as partitions; empty: none.
        most: bytes the file system may have; 0: any.
        also: sources besides ``agent/``, ``rootfs/`` and the locks, relative to the checkout.
        root: the checkout.
    """

    name: str
    stem: str
    disk: str = ""
    most: int = 0
    also: tuple[str, ...] = ()
    root: Path = ROOT

    @property
    def erofs(self) -> str:
        """The file system."""
        return f"{self.stem}.erofs"

    @property
    def tree(self) -> str:
        """Its dm-verity hash tree, without superblock."""
        return f"{self.stem}.verity"

    @property
    def root_hash(self) -> str:
        """Root hash, salt and block counts, in one line."""
        return f"root_hash_{self.stem}.txt"

    @property
    def sbom(self) -> str:
        """CycloneDX."""
        return f"{self.stem}.cdx.json"

    @property
    def summary(self) -> str:
        """A :class:`Built`; written last."""
        return f"{self.stem}.json"

    @property
    def names(self) -> tuple[str, ...]:
        """All files."""
        parts = (self.erofs, self.tree, self.root_hash, self.sbom, self.summary)
        return (self.disk, *parts) if self.disk else parts

    def write(self, tree: Path, contents: Contents, output: Path) -> Built:
        """Make all files of a finished tree.

        Args:
            tree: what is in the image; :func:`rootfs.files.settle` was its last change.
            contents: for the SBOM.
            output: folder; other files in it stay.

        Raises:
            BuildError: the file system is too big, or does not verify.
        """
        (output / self.summary).unlink(missing_ok=True)
        erofs, hashes = output / self.erofs, output / self.tree
        erofs_bytes = image.make_erofs(tree, erofs)
        if self.most and erofs_bytes > self.most:
            raise BuildError(
                f"the image has {erofs_bytes} bytes, and may have {self.most}: see rootfs/stdlib.py"
            )
        verity = image.make_verity(erofs, hashes)
        image.verify(erofs, hashes, verity)
        if self.disk:
            image.make_disk(erofs, hashes, output / self.disk)
        (output / self.root_hash).write_text(verity.parameters() + "\n")
        from rootfs import sbom  # noqa: PLC0415  # its libraries are not where only the container's root is built

        document = sbom.render(self.name, contents, verity.root_hash, bundle.distribution())
        (output / self.sbom).write_text(document)
        built = Built(verity, files.size(tree), erofs_bytes, self.sources())
        (output / self.summary).write_bytes(msgspec.json.format(msgspec.json.encode(built)) + b"\n")
        return built

    def current(self, output: Path) -> Built | None:
        """An earlier build into the folder, if it is complete and of these sources."""
        if not all((output / name).exists() for name in self.names):
            return None
        try:
            built = msgspec.json.decode((output / self.summary).read_bytes(), type=Built)
        except msgspec.DecodeError:
            return None  # of another version of this
        return built if built.sources == self.sources() else None

    def sources(self) -> str:
        """SHA-256 over names and contents of all in the checkout that goes into the image or makes it."""
        found = [self.root / name for name in (*_SOURCES, *self.also)]
        found += sorted(path for name in _TREES for path in (self.root / name).rglob("*.py"))
        digest = hashlib.sha256()
        for path in found:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(self.root)}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()
