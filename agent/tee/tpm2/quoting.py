"""A quote and the PCR values it is about."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.tpm import parse_attest
from agent.tee.tpm2 import client

if TYPE_CHECKING:
    from agent.tee.tpm2.client import Channel

TRIES: Final = 2


def quote_with_pcrs(
    tpm: Channel, key: int, qualifying: bytes, *, rsassa: bool
) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """TPMS_ATTEST, TPMT_SIGNATURE and the values of PCR 0 to 23, which the quote's digest is over.

    Values and quote are two commands; somebody who extends a PCR in between makes them differ. Then both are
    asked for once more.

    Args:
        tpm: an open TPM.
        key: handle of the attestation key.
        qualifying: the nonce, at most 64 bytes.
        rsassa: see ``commands.quote``.

    Raises:
        AgentError: EVIDENCE_FAILED, PCRs moved each time, or the quote is not about this nonce; and as
            ``client.quote``.
    """
    for _ in range(TRIES):
        message, signature = client.quote(tpm, key, qualifying, rsassa=rsassa)
        values = client.pcr_values(tpm)
        pcrs = tuple(values[number] for number in sorted(values))
        attest = parse_attest(message)
        if attest.extra_data != qualifying:
            raise AgentError(ErrorCode.EVIDENCE_FAILED, "the TPM's quote is about another nonce")
        # T-TEE-30: values that the quote does not vouch for are not sent.
        if hashlib.sha256(b"".join(pcrs)).digest() == attest.pcr_digest:
            return message, signature, pcrs
    raise AgentError(
        ErrorCode.EVIDENCE_FAILED, f"PCRs were extended between quote and reading, {TRIES} times in a row"
    )
