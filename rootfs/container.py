"""The root of the container image; made in the build stage of the Containerfile (docs/container.md)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rootfs import base, bundle, files

if TYPE_CHECKING:
    from collections.abc import Callable

USER: Final = 65532
"""Nobody in particular; no user of the machine has it."""

PACKAGES: Final = ("ca-certificates", "libc6")

FILES: Final = {
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/passwd": f"root:x:0:0::/:/\nagent:x:{USER}:{USER}::/:/\n",
    "etc/group": f"root:x:0:\nagent:x:{USER}:\n",
}

WRITABLE: Final = {"run/confidential-containers": 0o755, "run/attestation-agent": 0o700}
"""The only places the agent writes to, and their modes. Who puts a tmpfs over /run makes them anew."""


def build(into: Path, cache: Path, say: Callable[[str], None] = bundle.silent) -> None:
    """Build the root into a new folder; as root, because two folders in it are the user's.

    Raises:
        BuildError: something is missing.
    """
    bundle.build(bundle.Options(into=into, prefix="", cache=cache, cryptsetup=False, say=say))
    with tempfile.TemporaryDirectory(prefix="coco-container-") as name:
        stage = Path(name).resolve()
        base.unpack(PACKAGES, stage, cache)
        base.merge(into)
        base.add_glibc(stage, into)
        base.add_authorities(stage, into)
    for path, text in FILES.items():
        files.write(into / path, text)
    files.settle(into)
    (into / "tmp").mkdir()
    (into / "tmp").chmod(0o1777)
    for path, mode in WRITABLE.items():
        (into / path).mkdir(parents=True)
        (into / path).chmod(mode)
        os.chown(into / path, USER, USER)
