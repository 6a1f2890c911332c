"""Claims of a TDX quote, as Trustee's verifier names and encodes them (attesters.md 21.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import AgentError
from agent.tee.evidence.quote import Quote, TdBody, td_flags
from agent.tee.evidence.quote_chain import leaf_pck
from agent.tee.evidence.reader import malformed

if TYPE_CHECKING:
    from collections.abc import Mapping


def tdx_claims(quote: Quote) -> Mapping[str, object]:
    """``quote``, ``td_attributes``, ``report_data``, ``init_data``, perhaps ``platform_instance_id``.

    Values are hex of the bytes as they are in the quote. ``uefi_event_logs`` and ``tcb_status`` are for the
    caller to add: they are not of the quote.

    Raises:
        AgentError: EVIDENCE_MALFORMED, not a TD's quote.
    """
    if not isinstance(quote.body, TdBody):
        raise malformed("quote", "of an SGX enclave, not of a TD")
    claims: dict[str, object] = {
        "quote": _quote(quote, quote.body),
        "td_attributes": td_flags(quote.body.td_attributes),
        "report_data": quote.body.report_data.hex(),
        "init_data": quote.body.mrconfigid.hex(),
    }
    instance = _platform_instance(quote)
    if instance is not None:
        claims["platform_instance_id"] = instance
    return claims


def _quote(quote: Quote, body: TdBody) -> dict[str, object]:
    parts: dict[str, object] = {"header": _header(quote), "body": _body(body)}
    if quote.version > 4:
        parts["type"] = quote.body_type.to_bytes(2, "little").hex()
        parts["size"] = (len(quote.signed) - 54).to_bytes(4, "little").hex()
    return parts


def _header(quote: Quote) -> dict[str, str]:
    return {
        "version": quote.version.to_bytes(2, "little").hex(),
        "att_key_type": quote.key_type.to_bytes(2, "little").hex(),
        "tee_type": quote.tee_type.to_bytes(4, "little").hex(),
        "reserved": quote.reserved.hex(),
        "vendor_id": quote.vendor_id.hex(),
        "user_data": quote.user_data.hex(),
    }


def _body(body: TdBody) -> dict[str, str]:
    fields = {
        "tcb_svn": body.tee_tcb_svn,
        "mr_seam": body.mrseam,
        "mrsigner_seam": body.mrsignerseam,
        "seam_attributes": body.seam_attributes,
        "td_attributes": body.td_attributes,
        "xfam": body.xfam,
        "mr_td": body.mrtd,
        "mr_config_id": body.mrconfigid,
        "mr_owner": body.mrowner,
        "mr_owner_config": body.mrownerconfig,
        "report_data": body.report_data,
        **{f"rtmr_{index}": value for index, value in enumerate(body.rtmrs)},
    }
    if body.tee_tcb_svn2 is not None and body.mrservicetd is not None:
        fields |= {"tee_tcb_svn2": body.tee_tcb_svn2, "mr_servicetd": body.mrservicetd}
    return {name: value.hex() for name, value in fields.items()}


def _platform_instance(quote: Quote) -> str | None:
    try:
        instance = leaf_pck(quote).platform_instance_id
    except AgentError:
        return None  # the chain's own check says what is wrong with it
    # Intel's library gives it as a little-endian number, so the verifier's hex is the certificate's reversed.
    return None if instance is None else instance[::-1].hex()
