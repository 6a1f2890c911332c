"""Which kind of evidence a file is: by its content, never by its name."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Final

import msgspec

from agent.cli.inspection import amd, devices, intel, logs, objects, others, vtpm
from agent.config import pem
from agent.errors import AgentError
from agent.tee.evidence.events import parse_entries
from agent.tee.evidence.events_sha1 import looks_like_sha1_log
from agent.tee.evidence.nitro_document import ES384
from agent.tee.evidence.snp import REPORT_SIZE
from agent.tee.evidence.snp_table import KINDS
from agent.tee.evidence.tdreport import SIZE as TDREPORT_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.cli.inspection.document import Context, Document

_HEX: Final = re.compile(rb"(?:0[xX])?((?:[0-9A-Fa-f]{2}|\s)+)")
_DER_CERTIFICATE: Final = re.compile(rb"\x30\x82..\x30\x82", re.DOTALL)
_NITRO: Final = (b"\x84\x44" + ES384, b"\xd2\x84\x44" + ES384)
_TABLE_GUIDS: Final = tuple(KINDS)


class Form(msgspec.Struct, frozen=True):
    """One kind of file.

    Attributes:
        name: for people, in the list of what is known.
        fits: whether a file looks like it.
        read: what makes a document of it.
    """

    name: str
    fits: Callable[[bytes], bool]
    read: Callable[[bytes, Context], Document]


def _is_quote(data: bytes) -> bool:
    heads = [b"\x03\0\x02\0"] + [bytes([v, 0, 2, 0, tee, 0, 0, 0]) for v in (4, 5) for tee in (0, 0x81)]
    return len(data) > 432 and data.startswith(tuple(heads))


def _is_log(data: bytes) -> bool:
    return len(data) >= 32 and data[4:28] == b"\x03\0\0\0" + bytes(20)


def _is_runtime_log(data: bytes) -> bool:
    if data[4:12] != b"\x06\0\0\0\x01\0\0\0":
        return False
    try:
        return bool(parse_entries(data))
    except AgentError:
        return False


def _is_table(data: bytes) -> bool:
    return len(data) >= 48 and uuid.UUID(bytes=data[:16]) in _TABLE_GUIDS


FORMS: Final = (
    Form(
        "SNP attestation report (1184 bytes)",
        lambda d: len(d) == REPORT_SIZE and d[1:4] == bytes(3),
        amd.report,
    ),
    Form("SNP certificate table", _is_table, amd.certificate_table),
    Form(
        "TDREPORT (1024 bytes)",
        lambda d: len(d) == TDREPORT_SIZE and d[0] == 0x81,
        intel.report,
    ),
    Form("TDX or SGX quote, versions 3 to 5", _is_quote, intel.quote),
    Form("Azure HCL report", lambda d: d.startswith(b"HCLA"), vtpm.hcl),
    Form("TPM quote (TPMS_ATTEST)", lambda d: d.startswith(b"\xffTCG"), vtpm.attest),
    Form("NVIDIA SPDM report", lambda d: d.startswith(b"\x11\xe0"), devices.spdm_report),
    Form("Arm CCA token", lambda d: d.startswith(b"\xd9\x01\x8f"), others.cca_token),
    Form("AWS Nitro attestation document", lambda d: d.startswith(_NITRO), others.nitro),
    Form("runtime event log (AAEL)", _is_runtime_log, logs.runtime_log),
    Form("event log in the SHA-1 format (TCG 1.2)", looks_like_sha1_log, logs.sha1_log),
    Form("event log (CCEL or TCG, with or without AAEL)", _is_log, logs.event_log),
)

KNOWN: Final = (
    *(form.name for form in FORMS),
    "evidence JSON of snp, tdx, sgx, az-snp-vtpm, az-tdx-vtpm, tpm, cca, se, csv, nvidia, hygondcu, sample",
    "composite evidence JSON ({'tdx': ...}) and the body of a KBS attestation",
    "any of the binary forms as hexadecimal text",
)
"""What can be recognised, for people."""


def recognise(data: bytes, context: Context) -> Document | None:
    """What a file holds; None when it is nothing of :data:`KNOWN`.

    Raises:
        AgentError: EVIDENCE_MALFORMED: it is of a known kind, and broken.
    """
    if data.lstrip()[:1] == b"{":
        return objects.document(data, context)
    binary = _from_hex(data)
    form = next((form for form in FORMS if form.fits(binary)), None)
    return form.read(binary, context) if form else None


def next_step(data: bytes) -> str:
    """What to do about a file that is not recognised."""
    if pem.is_pem(data):
        return "This is PEM text. Certificates go to --chain; FILE is the report they belong to."
    if _DER_CERTIFICATE.match(data):
        return "This is a certificate in DER. It goes to --chain; FILE is the report it belongs to."
    if data.lstrip()[:1] in {b"{", b"["}:
        return "This is JSON, and no evidence in it: claims, collateral and policies are not shown here."
    if not data:
        return "The file is empty: whatever should have written it failed before."
    return "Give the bytes as device or agent wrote them, or their hexadecimal text; decode base64 first."


def _from_hex(data: bytes) -> bytes:
    """Hexadecimal text as bytes; anything else as it is."""
    found = _HEX.fullmatch(data)
    return bytes.fromhex(found[1].decode("ascii")) if found else data
