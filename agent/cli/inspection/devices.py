"""GPUs and other devices for people."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from agent.cli.inspection.document import Context, Document, Field, Table, part
from agent.cli.inspection.members import b64, listing, mapping, number, octets, string
from agent.tee.base import regularize
from agent.tee.evidence import spdm
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT = ("driver_version", "chip_sku", "project", "project_sku")


def spdm_report(data: bytes, context: Context) -> Document:
    """A report of NVIDIA's; its chain comes from ``--chain``."""
    return _spdm(data, context.chain_pem, context, "SPDM report")


def _spdm(data: bytes, chain: bytes, context: Context, title: str) -> Document:
    found = spdm.parse(data)
    nonce = None if context.report_data is None else regularize(context.report_data, spdm.NONCE_SIZE)
    rows = tuple((each.index, each.kind, each.value) for each in found.measurements)
    return Document(
        kind="spdm-report",
        title=title,
        fields=(
            Field("nonce", found.nonce),
            Field("driver", found.text("driver_version")),
            Field("VBIOS", _vbios(found)),
            Field("project", found.text("project")),
            Field("firmware (FWID)", found.fwid),
            Field("measurements", len(rows)),
        ),
        checks=spdm.verify(found, chain, context.roots, nonce),
        tables=(Table("device measurements", ("INDEX", "TYPE", "VALUE"), rows), _opaque(found)),
    )


def _vbios(found: spdm.SpdmReport) -> bytes | None:
    return next(
        (value for kind, value in found.opaque if spdm.OPAQUE_NAMES.get(kind) == "vbios_version"), None
    )


def _opaque(found: spdm.SpdmReport) -> Table:
    rows = []
    for kind, value in found.opaque:
        name = spdm.OPAQUE_NAMES.get(kind, f"field {kind}")
        rows.append((name, found.text(name) if name in _TEXT else value))
    return Table("device information", ("NAME", "VALUE"), tuple(rows))


def nvidia(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``nvidia``: each device by itself."""
    parts = []
    for index, each in enumerate(listing(found.get("device_evidence_list"), "device_evidence_list")):
        device = mapping(each, f"device {index}")
        parts.append(part(f"device {index}", partial(_nvidia_device, device, index, context)))
    return Document(
        kind="nvidia-evidence", title=f"evidence of nvidia, {len(parts)} devices", parts=tuple(parts)
    )


def _nvidia_device(device: Mapping[str, object], index: int, context: Context) -> Document:
    title = f"device {index}: {string(device, 'arch')}, {string(device, 'uuid')}"
    return _spdm(_evidence(device), b64(device, "certificate"), context, title)


def _evidence(device: Mapping[str, object]) -> bytes:
    """The report: base64, or hexadecimal as older attesters sent it (attesters.md 12)."""
    try:
        return bytes.fromhex(string(device, "evidence"))
    except ValueError:
        return b64(device, "evidence")


def dcu(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``hygondcu``; its certificates are at Hygon, so no signature is checked."""
    parts = []
    for index, each in enumerate(listing(found.get("attestation_reports"), "attestation_reports")):
        body = mapping(mapping(each, "report").get("body"), "body")
        user_data = octets(body.get("user_data"), "user_data", 64)
        parts.append(
            Document(
                kind="dcu-report",
                title=f"device {index}",
                fields=(
                    Field("version", number(body, "version")),
                    Field("chip id", octets(body.get("chip_id"), "chip_id", 16)),
                    Field("measurement", octets(body.get("measure"), "measure", 32)),
                    Field("report data", user_data),
                ),
                checks=(
                    Check("report signature", None, "it needs Hygon's certificates and SM2"),
                    *context.bindings(user_data, None),
                ),
            )
        )
    return Document(kind="hygondcu-evidence", title="evidence of hygondcu", parts=tuple(parts))
