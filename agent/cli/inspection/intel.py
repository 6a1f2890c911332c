"""TDX and SGX for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.cli.inspection.document import Context, Document, Field, flags, part
from agent.cli.inspection.logs import event_log
from agent.cli.inspection.members import b64
from agent.errors import AgentError
from agent.tee.evidence import quote_chain, tdreport
from agent.tee.evidence.quote import BODY_TD15, Quote, SgxBody, TdBody, parse_quote, td_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.tee.evidence.tdreport import TdReport

_ALARMS: Final = frozenset({"debug"})


def quote(data: bytes, context: Context) -> Document:
    """A quote, verified up to Intel's root."""
    found = parse_quote(data)
    body = found.body
    name = f"{'TDX' if isinstance(body, TdBody) else 'SGX'} quote, version {found.version}"
    shape = ", TD 1.5" if found.body_type == BODY_TD15 else ""
    return Document(
        kind="tdx-quote" if isinstance(body, TdBody) else "sgx-quote",
        title=f"{name}{shape} ({found.size} bytes)",
        fields=(*(_td_fields(body) if isinstance(body, TdBody) else _sgx_fields(body)), *_pck_fields(found)),
        checks=(
            *quote_chain.verify(found, context.roots),
            *context.bindings(found.report_data, found.init_data),
        ),
    )


def _td_fields(body: TdBody | TdReport) -> tuple[Field, ...]:
    return (
        Field("measurement (MRTD)", body.mrtd),
        *(Field(f"RTMR{index}", value) for index, value in enumerate(body.rtmrs)),
        Field("report data", body.report_data),
        Field("init-data (MRCONFIGID)", body.mrconfigid),
        Field("MROWNER", body.mrowner),
        Field("MROWNERCONFIG", body.mrownerconfig),
        *flags("TD attributes", td_flags(body.td_attributes), _ALARMS),
        Field("TD attribute bytes", body.td_attributes),
        Field("XFAM", body.xfam),
        Field("MRSEAM", body.mrseam),
        Field("MRSIGNERSEAM", body.mrsignerseam),
        Field("SEAM attributes", body.seam_attributes),
        Field("TCB SVN", body.tee_tcb_svn),
        *(() if body.tee_tcb_svn2 is None else (Field("TCB SVN2", body.tee_tcb_svn2),)),
        *_service_td(body),
    )


def _service_td(body: TdBody | TdReport) -> tuple[Field, ...]:
    if not isinstance(body, TdBody):
        return (Field("SERVTD_HASH", body.servtd_hash),)
    return () if body.mrservicetd is None else (Field("MRSERVICETD", body.mrservicetd),)


def _sgx_fields(body: SgxBody) -> tuple[Field, ...]:
    return (
        Field("measurement (MRENCLAVE)", body.mr_enclave),
        Field("signer (MRSIGNER)", body.mr_signer),
        Field("product id", body.isv_prod_id),
        Field("SVN", body.isv_svn),
        Field("report data", body.report_data),
        Field("init-data (CONFIGID)", body.config_id),
        *flags("attributes", {"debug": body.debug}, _ALARMS),
        Field("attribute bytes", body.attributes),
        Field("TCB SVN (CPU)", body.cpu_svn),
    )


def _pck_fields(found: Quote) -> tuple[Field, ...]:
    enclave = found.quoting_enclave
    fields = (Field("quoting enclave", f"product {enclave.isv_prod_id}, SVN {enclave.isv_svn}"),)
    try:
        pck = quote_chain.leaf_pck(found)
    except AgentError:
        return fields  # the check of the chain says why
    return (
        *fields,
        Field("FMSPC", pck.fmspc),
        Field("platform TCB", f"{' '.join(map(str, pck.components))}, PCE {pck.pce_svn}"),
        Field("PCE id", pck.pce_id),
        Field("platform instance", pck.platform_instance_id),
        *(flags("platform", pck.configuration) if pck.configuration else ()),
    )


def report(data: bytes, context: Context) -> Document:
    """A TDREPORT; nothing but its inner hashes can be verified elsewhere."""
    found = tdreport.parse_tdreport(data)
    return Document(
        kind="tdreport",
        title=f"TDREPORT, TDX {'1.5' if found.version else '1.0'}",
        fields=_td_fields(found),
        checks=(*tdreport.verify(found), *context.bindings(found.report_data, found.mrconfigid)),
    )


def evidence(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``tdx`` or ``sgx``."""
    data = b64(found, "quote")
    whole = quote(data, context)
    parts: tuple[Document, ...] = (whole,)
    if found.get("cc_eventlog"):
        body = parse_quote(data).body
        rtmrs = body.rtmrs if isinstance(body, TdBody) else None
        parts = (whole, part("event log", lambda: event_log(b64(found, "cc_eventlog"), context, rtmrs)))
    tee = whole.kind.split("-")[0]
    return Document(kind=f"{tee}-evidence", title=f"evidence of {tee}", parts=parts)
