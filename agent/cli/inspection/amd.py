"""SEV-SNP for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.cli.inspection.document import Context, Document, Field, Table, flags
from agent.cli.inspection.members import encode
from agent.errors import AgentError
from agent.tee.evidence import certs, snp_chain, snp_json
from agent.tee.evidence.snp import TAKEN_VERSIONS, SnpReport, parse_certificates, parse_report
from agent.tee.evidence.snp_table import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agent.tee.evidence.snp import Certificate

_ALARMS: Final = frozenset({"DEBUG"})
_UNKNOWN_BYTES: Final = "newer than Trustee (reserved bytes are set, which its JSON loses)"
_DER_KINDS: Final = frozenset({"VCEK", "VLEK", "ASK", "ARK"})


def report(data: bytes, context: Context) -> Document:
    """An attestation report alone; its certificates come from ``--chain``."""
    return with_certificates(data, (), context)


def with_certificates(data: bytes, certificates: Sequence[bytes], context: Context) -> Document:
    """An attestation report with the DER certificates that came along."""
    return _report(parse_report(data), certificates, context)


def _report(found: SnpReport, certificates: Sequence[bytes], context: Context) -> Document:
    checks = snp_chain.verify(found, (*certificates, *context.chain), context.roots)
    return Document(
        kind="snp-report",
        title=f"SEV-SNP report, version {found.version}, {' or '.join(found.generations)}",
        fields=(*_main_fields(found), *_other_fields(found)),
        checks=(*checks, *context.bindings(found.report_data, found.host_data)),
        warnings=tuple(_refused(found)),
    )


def _refused(found: SnpReport) -> Iterator[str]:
    if found.version not in TAKEN_VERSIONS:
        taken = f"{TAKEN_VERSIONS[0]} to {TAKEN_VERSIONS[-1]}"
        yield f"Trustee refuses version {found.version} of the report; it takes {taken}"
    if found.vmpl != 0:
        yield "Trustee refuses a report of another VMPL than 0"


def _refused_chain(found: SnpReport, certificates: Sequence[Certificate]) -> Iterator[str]:
    """See :func:`agent.tee.evidence.snp_table.for_verifier`."""
    kinds = [each.kind for each in certificates if each.kind in KEYS]
    if certificates and not kinds:
        yield "Trustee refuses certificates without VCEK and VLEK; with none at all it fetches the VCEK"
    elif kinds and found.signing_key in KEYS and kinds[0] != found.signing_key:
        yield f"Trustee takes the first key, {kinds[0]}, for the signing key; the report names the other"


def _main_fields(found: SnpReport) -> tuple[Field, ...]:
    host = found.vmpl == 0xFFFFFFFF
    return (
        Field("measurement", found.measurement),
        Field("report data", found.report_data),
        Field("init-data (HOSTDATA)", found.host_data),
        Field("VMPL", "asked for by the host" if host else found.vmpl, alarm=found.vmpl != 0),
        *flags("policy", {flag.name: flag.on for flag in found.policy_flags}, _ALARMS),
        Field("policy value", f"{found.policy:#x}, ABI at least {found.abi[0]}.{found.abi[1]}"),
        *flags("platform", {flag.name: flag.on for flag in found.platform_flags}),
        Field("TCB reported", str(found.reported_tcb)),
        Field("TCB current", str(found.current_tcb)),
        Field("TCB committed", str(found.committed_tcb)),
        Field("TCB at launch", str(found.launch_tcb)),
    )


def _other_fields(found: SnpReport) -> tuple[Field, ...]:
    return (
        Field("firmware", f"{found.current}, committed {found.committed}"),
        Field("signing key", found.signing_key),
        *((Field("chip key masked", value=True, alarm=True),) if found.masked_chip_key else ()),
        *(() if snp_json.survives(found) else (Field(_UNKNOWN_BYTES, value=True, alarm=True),)),
        Field("chip id", None if found.masked_chip_id else found.chip_id),
        Field("guest SVN", found.guest_svn),
        Field("family id", found.family_id),
        Field("image id", found.image_id),
        Field("id key digest", found.id_key_digest),
        Field("author key digest", found.author_key_digest if found.author_key_enabled else None),
        Field("report id", found.report_id),
    )


def certificate_table(data: bytes, _context: Context) -> Document:
    """The table a host hands to its guests."""
    found = parse_certificates(data)
    return Document(kind="snp-certificates", title="SNP certificate table", tables=(_certificates(found),))


def _certificates(found: Sequence[Certificate]) -> Table:
    rows = tuple((each.kind, len(each.data), _described(each)) for each in found)
    return Table("certificates", ("KIND", "BYTES", "SUBJECT"), rows)


def _described(entry: Certificate) -> str:
    if entry.kind not in _DER_KINDS:
        return ""
    try:
        certificate = certs.load_der(entry.data)
    except AgentError:
        return "not an X.509 certificate"
    return f"{certs.name(certificate)}, until {certificate.not_valid_after_utc:%Y-%m-%d}"


def evidence(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``snp``."""
    snp, certificates = snp_json.decode(encode(found))
    usable = [each.data for each in certificates if each.kind in _DER_KINDS]
    whole = _report(snp, usable, context)
    return Document(
        kind="snp-evidence",
        title="evidence of snp",
        warnings=tuple(_refused_chain(snp, certificates)),
        tables=(_certificates(certificates),) if certificates else (),
        parts=(whole,),
    )
