"""Evidence as JSON: which TEE it is of shows in its members."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import rfc8785

from agent.cli.inspection import amd, devices, intel, others, vtpm
from agent.cli.inspection.document import Context, Document, Field, part
from agent.cli.inspection.members import mapping, parse_object, string, wrong
from agent.errors import AgentError
from agent.tee.evidence.reader import malformed
from agent.tee.initdata import parse as parse_init_data
from agent.tee.platform import DEVICES, ORDER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Read = Callable[[Mapping[str, object], Context], Document]

TEES: Final = frozenset({*ORDER, *DEVICES, "azsnpvtpm", "aztdxvtpm"})
"""Wire strings, old ones included: keys of composite evidence (attesters.md 1.4)."""

_READERS: Final[tuple[tuple[frozenset[str], Read], ...]] = (
    (frozenset({"device_evidence_list"}), devices.nvidia),
    (frozenset({"attestation_reports"}), devices.dcu),
    (frozenset({"attestation_report", "serial_number"}), others.csv),
    (frozenset({"attestation_report"}), amd.evidence),
    (frozenset({"tpm_quote", "ak_public"}), vtpm.tpm),
    (frozenset({"hcl_report"}), vtpm.azure),
    (frozenset({"quote", "report"}), vtpm.azure),
    (frozenset({"message", "signature", "pcrs"}), vtpm.bare_quote),
    (frozenset({"quote"}), intel.evidence),
    (frozenset({"token"}), others.cca),
    (frozenset({"measurement", "cuid", "user_data"}), others.se),
    (frozenset({"svn", "report_data"}), others.sample),
)
"""Members that name the form, the more telling ones first."""


def document(data: bytes, context: Context) -> Document | None:
    """What a JSON object is; None when none of its forms is known.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    return _read(parse_object(data), context)


def _read(found: Mapping[str, object], context: Context) -> Document | None:
    if "tee-evidence" in found:
        return attestation(found, context)
    if found and found.keys() <= TEES:
        return composite(found, context)
    read = _reader(found)
    return read(found, context) if read else None


def _reader(found: Mapping[str, object]) -> Read | None:
    return next((read for names, read in _READERS if names <= found.keys()), None)


def composite(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of several TEEs or devices by wire string."""
    parts = tuple(
        part(f"evidence of {tee}", partial(_part, tee, mapping(value, tee), context))
        for tee, value in found.items()
    )
    return Document(kind="composite-evidence", title=f"evidence of {', '.join(found)}", parts=parts)


def _part(tee: str, value: Mapping[str, object], context: Context) -> Document:
    # Evidence within evidence is no form that exists, and would nest without end.
    read = _reader(value)
    if read is None:
        raise malformed("evidence JSON", f"the evidence of {tee} has no form that is known")
    return read(value, context)


def attestation(found: Mapping[str, object], context: Context) -> Document:
    """The body a guest sends to its KBS, its evidence held against nonce and key (attesters.md 15.1)."""
    evidence = mapping(found.get("tee-evidence"), "tee-evidence")
    runtime = mapping(found.get("runtime-data"), "runtime-data")
    primary = mapping(evidence.get("primary_evidence"), "primary_evidence")
    additional = string(evidence, "additional_evidence") if "additional_evidence" in evidence else ""
    name = "sha512" if "cuid" in primary else "sha384"
    bound = {"additional-evidence": additional, **runtime}
    init_data, described = _init_data(found.get("init-data"))
    guest = context.expecting(_digest(name, bound), init_data)
    parts = [part("evidence of the guest", lambda: _part("the guest", primary, guest))]
    if additional:
        members = parse_object(additional.encode())
        parts.append(composite(members, context.expecting(_digest(name, runtime), None)))
    return Document(
        kind="kbs-attestation",
        title="attestation for a KBS",
        fields=(
            Field("nonce", string(runtime, "nonce")),
            Field("report data (expected)", f"{name}:{_digest(name, bound).hex()}"),
            Field("init-data", described),
        ),
        parts=tuple(parts),
    )


def _digest(name: str, bound: Mapping[str, object]) -> bytes:
    try:
        # As the handshake does it; a body from elsewhere may hold what has no canonical form.
        canonical = rfc8785.dumps(msgspec.to_builtins(dict(bound)))
    except (rfc8785.CanonicalizationError, RecursionError):
        raise wrong("runtime-data", "JSON with a canonical form") from None
    return hashlib.new(name, canonical).digest()


def _init_data(value: object) -> tuple[bytes | None, str]:
    if value is None:
        return None, "none"
    try:
        found = parse_init_data(string(mapping(value, "init-data"), "body").encode())
    except AgentError as error:
        raise malformed("init-data", error.detail or error.message) from None
    return found.digest, f"{found.algorithm.value}:{found.digest.hex()}"
