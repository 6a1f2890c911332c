"""What all simulated guests are."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec

from agent.devkit import fuse

if TYPE_CHECKING:
    from agent.config.model import Attester
    from agent.tee.evidence.verdict import Roots


class MissingToolError(Exception):
    """Something the simulation needs is not on this machine; the text names it and the next step."""


class SimulatedGuest(msgspec.Struct, frozen=True):
    """A guest that runs as long as its context.

    Attributes:
        tee: wire string.
        sysroot: folder with what the kernel offers: /sys and /dev below it.
        settings: what the attester needs to find it; addresses and broker are the defaults.
        roots: the throw-away roots its evidence ends at.
    """

    tee: str
    sysroot: str
    settings: Attester
    roots: Roots


def need_fuse(tee: str) -> None:
    """Stop where no file system can be simulated.

    Raises:
        MissingToolError: naming what to install.
    """
    reason = fuse.unavailable()
    if reason is not None:
        raise MissingToolError(
            f"{tee} needs FUSE: {reason}. Run: sudo apt-get install fuse3; pip install 'coco-agent[devkit]'. "
            "A container also needs --device /dev/fuse --cap-add SYS_ADMIN"
        )


def need_swtpm(tee: str) -> None:
    """Stop where no TPM can be simulated.

    Raises:
        MissingToolError: naming what to install.
    """
    if shutil.which("swtpm") is None:
        raise MissingToolError(f"{tee} needs swtpm. Run: sudo apt-get install swtpm")
