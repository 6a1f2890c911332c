"""Whether a TPM belongs to one of our TEEs, asked at detection (attesters.md 1.2)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.errors import AgentError
from agent.tee.evidence.reader import Reader
from agent.tee.tpm2 import client
from agent.tee.tpm2.device import Tpm

if TYPE_CHECKING:
    from agent.config.model import Attester as Settings

_REPORT_INDEX: Final = 0x01400001
_DATA_AT: Final = 1216
_DATA_HEADER: Final = 20
_TYPES: Final = {1: "VBS", 2: "SNP", 3: "TVM", 4: "TDX"}
_HASHES: Final = (1, 2, 3)


class Seen(msgspec.Struct, frozen=True):
    """What a TPM said.

    Attributes:
        answered: whether it could be asked for Azure's report at all.
        report: why ``report_type`` is what it is, in words.
        report_type: of Azure's report: 2 SNP, 4 TDX; 0 without one.
        key: what is known of a plain TPM's attestation key, in words.
        has_key: whether it is there.
    """

    answered: bool = False
    report: str = ""
    report_type: int = 0
    key: str = "not asked"
    has_key: bool = False


def look(settings: Settings) -> Seen:
    """Ask the TPM, for as long as ``limits.TPM_PROBE`` allows."""
    seen = [Seen(report=f"the TPM did not answer within {limits.TPM_PROBE:g} s")]
    # T-TEE-34: a TPM is the host's. One that hangs inside the kernel costs a thread, not the daemon's start.
    thread = threading.Thread(target=lambda: seen.append(_ask(settings)), name="tpm-probe", daemon=True)
    thread.start()
    thread.join(limits.TPM_PROBE + 0.5)
    return seen[-1]


def _ask(settings: Settings) -> Seen:
    seen = Seen()
    try:
        with Tpm(settings, Deadline.after(SystemClock(), limits.TPM_PROBE)) as tpm:
            seen = _report(tpm)
            try:
                client.rsa_public(tpm, settings.tpm_ak_handle)
            except AgentError as error:
                return replace(seen, key=error.detail)
            return replace(seen, has_key=True, key=f"an RSA key is at 0x{settings.tpm_ak_handle:08x}")
    except AgentError as error:
        return replace(seen, report=seen.report or str(error), key=error.detail)


def _report(tpm: Tpm) -> Seen:
    """The report's type alone. A read that begins at offset 0 would make the paravisor write a new report."""
    size = client.nv_size(tpm, _REPORT_INDEX)
    name = f"NV index 0x{_REPORT_INDEX:08x}"
    if size is None:
        return Seen(answered=True, report=f"no {name}")
    if size < _DATA_AT + _DATA_HEADER:
        return Seen(answered=True, report=f"{name} has {size} bytes, too few for Azure's report")
    reader = Reader(client.nv_read(tpm, _REPORT_INDEX, _DATA_HEADER, _DATA_AT), "Azure's report")
    total = reader.u32()
    reader.skip(4)
    kind, algorithm, variable = reader.u32(), reader.u32(), reader.u32()
    if total != _DATA_HEADER + variable or kind not in _TYPES or algorithm not in _HASHES:
        return Seen(answered=True, report=f"{name} holds something else than Azure's report")
    return Seen(answered=True, report=f"{name} holds a report of type {_TYPES[kind]}", report_type=kind)
