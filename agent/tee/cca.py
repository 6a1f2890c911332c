"""Evidence of Arm CCA realms (attesters.md 7): aarch64 only, and no register for init-data in the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.tee import tsm
from agent.tee.base import pad

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

PROVIDER: Final = "arm_cca_guest"
_CHALLENGE: Final = 64


def collect(settings: Settings, report_data: bytes, deadline: Deadline) -> bytes:
    """``{"token":[ints]}``: the CBOR CCA token over the report data, padded with zeros to 64 bytes.

    Raises:
        AgentError: as ``agent.tee.tsm.request``; INVALID_REQUEST, more than 64 bytes.
    """
    challenge = pad(report_data, _CHALLENGE)
    token = tsm.request(settings.sysroot, PROVIDER, challenge, deadline).outblob
    # T-TEE-37: a byte string stands in CBOR as it is, also inside the signed payload.
    if challenge not in token:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "the realm's token does not carry our report data")
    return msgspec.json.encode({"token": list(token)})
