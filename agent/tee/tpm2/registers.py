"""A TPM's PCRs as registers for init-data and runtime measurements (attesters.md 16.3, 17.4).

The attesters of vTPMs offer these functions as their own; see ``agent.tee.base.Binds`` and ``Measures``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.tpm import INIT_DATA_PCR
from agent.tee.tpm2 import client, codes, commands
from agent.tee.tpm2.device import Tpm

if TYPE_CHECKING:
    from agent.config.model import Attester as Settings

ALGORITHM: Final = "sha256"
DIGEST_SIZE: Final = 32
DEFAULT_PCR: Final = 15
"""Where events go that name no register. Upstream's default, 17, belongs to a dynamic launch, and TPMs do not
let an operating system extend it (user_pains.md row 21)."""

_UPSTREAMS_DEFAULT: Final = 17

_SOFTWARE_EXTENDS: Final = 0x01
"""TPM_PT_PCR_EXTEND_L0: what an operating system, at locality 0, may extend."""


def bind_init_data(settings: Settings, digest: bytes) -> None:
    """Extend PCR 8 by an init-data digest, unless that has been done before. See ``agent.tee.base.Binds``.

    Raises:
        AgentError: CONFIG_INVALID, the digest is not SHA-256's, and INIT_DATA_MISMATCH, PCR 8 holds something
            else: nothing was extended then. Or why the TPM cannot be asked.
    """
    if len(digest) != DIGEST_SIZE:
        raise AgentError(
            ErrorCode.CONFIG_INVALID,
            f"the init-data digest has {len(digest)} bytes; a vTPM takes it into PCR 8 of its SHA-256 bank: "
            'write algorithm = "sha256" into the init-data',
        )
    bound = _after(bytes(DIGEST_SIZE), digest)
    with _open(settings) as tpm:
        seen = _value(tpm, INIT_DATA_PCR)
        if seen == bound:
            return
        if any(seen):
            raise _mismatch(seen, bound, "was extended before")
        client.pcr_extend(tpm, INIT_DATA_PCR, digest)
        seen = _value(tpm, INIT_DATA_PCR)
        if seen != bound:
            raise _mismatch(seen, bound, "was extended by somebody else at the same time")


def measurement_problem(settings: Settings) -> str | None:
    """Why the default register cannot be read and extended; None when it can (``agent.tee.base.Measures``).

    The TPM itself is asked: most let an operating system extend PCR 0 to 16 and 23, and keep the others.
    """
    try:
        chosen = settings.init_pcr
        register = register_of(DEFAULT_PCR if chosen == _UPSTREAMS_DEFAULT else chosen)
        with _open(settings) as tpm:
            _value(tpm, register)
            answer = tpm.transact(commands.pcr_properties()).parameters
        allowed = commands.parse_pcr_properties(answer).get(_SOFTWARE_EXTENDS)
    except AgentError as error:
        return error.detail
    if allowed is not None and register not in allowed:
        return _kept(register)
    return None


def register_of(pcr: int) -> int:
    """PCRs are recorded by their own number (attesters.md 17.4).

    Raises:
        AgentError: INVALID_REQUEST, not 0 to 23, or PCR 8.
    """
    # T-TEE-33: judged as the caller wrote it, before anything narrows it: 256 is not PCR 0.
    if not 0 <= pcr <= max(commands.ALL_PCRS):
        raise AgentError(ErrorCode.INVALID_REQUEST, f"there is no PCR {pcr}; a TPM has 0 to 23")
    # T-TEE-33: one more extension would make the init-data's binding unprovable.
    if pcr == INIT_DATA_PCR:
        raise AgentError(ErrorCode.INVALID_REQUEST, "PCR 8 holds the init-data; measure into another one")
    return pcr


def read_register(settings: Settings, register: int) -> bytes:
    """A PCR's value, 32 bytes. See ``agent.tee.base.Measures``."""
    with _open(settings) as tpm:
        return _value(tpm, register)


def extend_register(settings: Settings, register: int, digest: bytes) -> None:
    """Make a PCR SHA-256(PCR || digest). See ``agent.tee.base.Measures``.

    Raises:
        AgentError: INVALID_REQUEST, the TPM keeps this PCR to itself, or it is none of ours.
    """
    if len(digest) != DIGEST_SIZE:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"a digest of {len(digest)} bytes; PCRs take SHA-256")
    with _open(settings) as tpm:
        try:
            client.pcr_extend(tpm, register_of(register), digest)
        except codes.TpmRefusal as refusal:
            if codes.base(refusal.rc) != codes.LOCALITY:
                raise
            raise AgentError(ErrorCode.INVALID_REQUEST, _kept(register)) from None


def _open(settings: Settings) -> Tpm:
    return Tpm(settings, Deadline.after(SystemClock(), limits.TPM_PATIENCE))


def _value(tpm: Tpm, pcr: int) -> bytes:
    return client.pcr_values(tpm, {pcr})[pcr]


def _after(register: bytes, digest: bytes) -> bytes:

    return hashlib.sha256(register + digest).digest()


def _kept(register: int) -> str:
    return (
        f"the TPM does not let the operating system extend PCR {register}; "
        "name another one, e.g. init_pcr = 15 in aa.toml's [eventlog_config]"
    )


def _mismatch(seen: bytes, wanted: bytes, why: str) -> AgentError:
    return AgentError(
        ErrorCode.INIT_DATA_MISMATCH,
        f"PCR 8 {why}: it is {seen.hex()}, with this init-data it would be {wanted.hex()}",
    )
