"""Init-data given to the attester at start: checked against the hardware before any of it is used."""

from __future__ import annotations

import logging
import os
import platform
from typing import TYPE_CHECKING

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.files import read_trusted
from agent.tee.initdata import parse
from agent.tee.platform import detect

if TYPE_CHECKING:
    from agent.config.model import Attester

log = logging.getLogger("coco.initdata")


def bind_document(path: str, settings: Attester) -> str:
    """Read init-data, bind its digest, return its text for the broker.

    Raises:
        AgentError: CONFIG_INVALID, FILE_UNSAFE, TEE_NOT_SUPPORTED.
    """
    try:
        content = read_trusted(path, limits.CONFIG_MAX_FILE)
    except FileNotFoundError:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"{path}: there is no such file") from None
    document = parse(content)
    bind_digest(document.digest, settings)
    return content.decode()


def bind_digest(digest: bytes, settings: Attester) -> None:
    """Bind a digest to the TEE.

    A platform without a place for it counts as done, as upstream; the evidence then says nothing about
    init-data and the broker's policy decides. A real TEE has such a place, and this release cannot read
    it yet: it refuses to start rather than to trust unverified settings. T-TEE-7.

    Raises:
        AgentError: TEE_NOT_SUPPORTED, CONFIG_INVALID.
    """
    if not 32 <= len(digest) <= 64:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"an init-data digest of {len(digest)} bytes")
    found = detect(settings.sysroot, os.environ, platform.machine())
    if found.tee is not None or found.possible:
        name = found.tee or " or ".join(found.possible)
        raise AgentError(ErrorCode.TEE_NOT_SUPPORTED, f"init-data cannot be verified against {name} yet")
    log.warning("init-data is not bound: this guest has no TEE")
