"""Making keys in a simulated TPM: the commands that the agent itself must never send.

TCG TPM 2.0 Library part 3: CreatePrimary, EvictControl, FlushContext, Startup.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from agent.tee.tpm2 import client
from agent.tee.tpm2.commands import NULL, OWNER, RSA, RSASSA, SHA256, Command, sized

if TYPE_CHECKING:
    from agent.tee.tpm2.client import Channel

ENDORSEMENT: Final = 0x4000000B

_FIXED_TPM: Final = 1 << 1
_FIXED_PARENT: Final = 1 << 4
_SENSITIVE_ORIGIN: Final = 1 << 5
_USER_WITH_AUTH: Final = 1 << 6
_RESTRICTED: Final = 1 << 16
_SIGN: Final = 1 << 18
_ATTESTATION_KEY: Final = (
    _FIXED_TPM | _FIXED_PARENT | _SENSITIVE_ORIGIN | _USER_WITH_AUTH | _RESTRICTED | _SIGN
)


def create_primary(label: bytes = b"") -> Command:
    """CreatePrimary of an RSA 2048 key that signs nothing but what the TPM made (RSASSA, SHA-256)."""
    public = (
        struct.pack(">HHIH", RSA, SHA256, _ATTESTATION_KEY, 0)
        + struct.pack(">HHHHI", NULL, RSASSA, SHA256, 2048, 0)
        + sized(label)
    )
    sensitive = sized(sized(b"") + sized(b""))
    no_pcrs = struct.pack(">I", 0)
    parameters = sensitive + sized(public) + sized(b"") + no_pcrs
    return Command("CreatePrimary", 0x131, (ENDORSEMENT,), parameters, authorised=True, new_handle=True)


def evict_control(key: int, handle: int) -> Command:
    """EvictControl: keep a key at a persistent handle."""
    return Command("EvictControl", 0x120, (OWNER, key), struct.pack(">I", handle), authorised=True)


def flush(handle: int) -> Command:
    """FlushContext: forget a transient key."""
    return Command("FlushContext", 0x165, parameters=struct.pack(">I", handle))


def startup() -> Command:
    """Startup(CLEAR)."""
    return Command("Startup", 0x144, parameters=struct.pack(">H", 0))


def make_attestation_key(tpm: Channel, handle: int) -> tuple[int, int]:
    """Put a new attestation key at a persistent handle; its modulus and exponent."""
    made = tpm.transact(create_primary()).handle
    tpm.transact(evict_control(made, handle))
    tpm.transact(flush(made))
    return client.rsa_public(tpm, handle)
