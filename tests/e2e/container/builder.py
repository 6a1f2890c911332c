"""buildah where no container engine runs: chroot isolation, plain folders as storage, no registry.

The base image has the name that the Containerfile asks for, and is made by mmdebstrap from this machine's own
sources of packages: the same packages as in the published one. This machine's configuration of pip is added.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).resolve().parents[3]
TOOLS: Final = ("buildah", "mmdebstrap", "unshare", "nsenter", "ip", "curl", "swtpm")
BASE: Final = "debian:bookworm-slim"
IMAGE: Final = "localhost/coco-agent"


def missing() -> str:
    """Why nothing can be built; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    gone = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(gone)}" if gone else ""


@dataclass(frozen=True, slots=True)
class Builder:
    """Images and containers below one folder.

    Attributes:
        folder: holds everything; removed by whoever made it.
    """

    folder: Path

    def buildah(self, *arguments: str, within: Sequence[str] = ()) -> str:
        """Run it; its standard output."""
        done = subprocess.run(
            [*within, "buildah", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.strip()

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }

    def prepare(self) -> None:
        """Storage, and the base image."""
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\nrunroot = "{self.folder}/run"\ngraphroot = "{self.folder}/graph"\n'
        )
        base = self.folder / "base.tar"
        quick = ("--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"')
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=apt", *quick, "bookworm", str(base)],
            check=True,
            env={**os.environ, "TMPDIR": str(self.folder)},
        )
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(base), "/")
        base.unlink()
        self.buildah("add", "--quiet", container, str(self._pip()), "/etc")
        self.buildah("commit", "--quiet", "--rm", container, f"localhost/{BASE}")

    def _pip(self) -> Path:
        """A folder with pip.conf: what pip needs on this machine to get anything."""
        folder = self.folder / "etc"
        folder.mkdir()
        lines = ["[global]"]
        index = self._configured("index-url")
        if index:
            lines.append(f"index-url = {index}")
        certificates = self._configured("cert")
        if certificates:
            shutil.copy(certificates, folder / "pip-certificates.pem")
            lines.append("cert = /etc/pip-certificates.pem")
        (folder / "pip.conf").write_text("\n".join(lines) + "\n")
        return folder

    @staticmethod
    def _configured(name: str) -> str:
        from_environment = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
        if from_environment:
            return from_environment
        command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()

    def build(self) -> None:
        """The Containerfile as it is. OCI's own format has no health check, so Docker's."""
        self.buildah("bud", "--format=docker", "--pull=never", "--tag", IMAGE, "--file", "Containerfile", ".")

    def config(self) -> Any:
        """What a runtime reads of the image."""
        return json.loads(self.buildah("inspect", "--type=image", IMAGE))["Docker"]["config"]

    def container(self) -> tuple[str, Path]:
        """A container of the image, and the folder with its files."""
        name = self.buildah("from", "--pull=never", IMAGE)
        return name, Path(self.buildah("mount", name))
