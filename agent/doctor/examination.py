"""All of it in order, and the bundle for whoever helps."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent import __version__
from agent.config.show import rows
from agent.doctor import evidence, guest, network
from agent.doctor.finding import as_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agent.doctor.finding import Finding, Patient
    from agent.observe.redact import ResourceNames


async def examine(patient: Patient, *, offline: bool = False) -> AsyncIterator[Finding]:
    """Every finding, as soon as it is there.

    Args:
        patient: what to look at.
        offline: leave the key broker alone.
    """
    for look in (
        guest.configuration,
        guest.platform,
        guest.devices,
        guest.kernel,
        guest.init_data,
        guest.clock,
    ):
        for finding in look(patient):
            yield finding
    for ask in (evidence.quote, evidence.gpu, evidence.registers, evidence.event_log):
        async for finding in ask(patient):
            yield finding
    if not offline:
        async for finding in network.broker(patient):
            yield finding


def bundle(patient: Patient, findings: Sequence[Finding], names: ResourceNames) -> bytes:
    """A tar.gz for a support case: findings, effective configuration, kernel; all of it scrubbed.

    Names of resources and hosts become keyed digests, unless ``observe.log_resource_names`` shows them.
    """
    # T-LOG-31: nothing enters the archive but through the scrubber.
    parts = {
        "findings.json": json.dumps([as_json(finding) for finding in findings], indent=1),
        "configuration.txt": "\n".join(
            f"{row.name} = {row.value}  ({row.origin})" for row in rows(patient.config)
        ),
        "guest.txt": f"coco-agent {__version__}\nlinux {patient.release} {patient.machine}\n",
    }
    hosts, packed = _hosts(patient), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in parts.items():
            clean = "\n".join(_clean(line, hosts, names) for line in content.split("\n")).encode()
            member = tarfile.TarInfo(f"coco-agent-support/{name}")
            member.size, member.mode, member.mtime = len(clean), 0o600, int(patient.clock.wall())
            archive.addfile(member, io.BytesIO(clean))
    return packed.getvalue()


def _hosts(patient: Patient) -> tuple[str, ...]:
    """Names of the tenant's machines: lines about DNS hold them without a URL around."""
    brokers = (patient.config.attester.kbs, patient.config.hub.kbs)
    urls = [server.url for kbs in brokers for server in kbs.servers()] + [kbs.proxy or "" for kbs in brokers]
    return tuple({urlsplit(url).hostname or "" for url in urls} - {""})


def _clean(line: str, hosts: tuple[str, ...], names: ResourceNames) -> str:
    clean = names.scrub(line)
    if not names.shown:
        for host in hosts:
            clean = clean.replace(host, names.digest(host))
    return clean
