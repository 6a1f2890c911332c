"""Init-data given at start: held against the hardware before any of it is used."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.files import read_trusted
from agent.tee.attesters import MODULES, DeviceAttester
from agent.tee.initdata import parse
from agent.tee.platform import detect

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester
    from agent.tee.initdata import InitData

log = logging.getLogger("coco.initdata")


def read_document(path: str) -> InitData:
    """Read init-data, once: what is bound and what is used are the same bytes.

    Raises:
        AgentError: FILE_UNSAFE, CONFIG_INVALID.
    """
    try:
        return parse(read_trusted(path, limits.CONFIG_MAX_FILE))
    except FileNotFoundError:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"{path}: there is no such file") from None


async def bind_digest(digest: bytes, settings: Attester, deadline: Deadline) -> bool:
    """Compare a digest with the hardware's register, or extend a vTPM's PCR 8 by it (attesters.md 16.3).

    A platform without a register for it proves nothing about init-data. That ends the start, unless
    ``allow_unbound_init_data`` is set; upstream goes on.

    Returns:
        Whether the hardware vouches for it.

    Raises:
        AgentError: INIT_DATA_MISMATCH, CONFIG_INVALID, NOT_SUPPORTED, TEE_NOT_SUPPORTED, or why the register
            cannot be read.
    """
    if not 32 <= len(digest) <= 64:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"an init-data digest of {len(digest)} bytes")
    found = detect(settings.sysroot, os.environ, os.uname().machine, settings)
    if found.tee is None and found.possible:
        # T-TEE-7: what may be a real TEE is never taken for none.
        raise AgentError(
            ErrorCode.TEE_NOT_SUPPORTED,
            f"init-data cannot be verified: this may be {' or '.join(found.possible)}",
        )
    if found.tee in MODULES:
        try:
            await DeviceAttester(found.tee, settings).bind_init_data(digest, deadline)
        except AgentError as error:
            if error.code is not ErrorCode.NOT_SUPPORTED:
                raise
        else:
            log.info("init-data is bound", extra={"tee": found.tee})
            return True
    name = found.tee or "this guest without a TEE"
    if not settings.allow_unbound_init_data:
        # T-TEE-7: settings that no hardware vouches for are not used.
        raise AgentError(
            ErrorCode.NOT_SUPPORTED,
            f"{name} has no register that init-data can be compared with; "
            "attester.allow_unbound_init_data = true in agent.toml accepts that",
        )
    log.warning("INIT-DATA IS NOT BOUND: nothing vouches for it", extra={"tee": name})
    return False
