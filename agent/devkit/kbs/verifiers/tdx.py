"""``tdx`` (attesters.md 21.3), without Intel's collateral."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit.kbs import wire
from agent.devkit.kbs.verifiers.appraisal import (
    Expected,
    Finding,
    base64_of,
    bound_init_data,
    bound_report_data,
    decoded,
    from_base64,
    refused,
    require,
)
from agent.tee.evidence import events, quote_chain
from agent.tee.evidence.quote import Quote, TdBody, parse_quote
from agent.tee.evidence.tdx_claims import tdx_claims

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Roots

UNVERIFIED: Final = "unverified"
"""TCB status of a quote that no collateral was asked about."""

_ZEROS: Final = bytes(48)


class _Evidence(msgspec.Struct, frozen=True):
    quote: str
    cc_eventlog: str | None = None


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``. The TCB status is claimed as ``unverified``."""
    parsed = decoded(expected.tee, evidence, _Evidence)
    quote, body = trusted_quote(expected.tee, from_base64(expected.tee, "quote", parsed.quote), roots)
    bound_report_data(expected, body.report_data)
    bound_init_data(expected, body.mrconfigid)
    hardware = claims(quote)
    if parsed.cc_eventlog:
        log = from_base64(expected.tee, "event log", parsed.cc_eventlog)
        hardware["uefi_event_logs"] = _replayed(expected.tee, log, body)
    return (Finding("cpu", hardware, body.report_data.hex(), body.mrconfigid.hex()),)


def trusted_quote(tee: str, data: bytes, roots: Roots) -> tuple[Quote, TdBody]:
    """A quote of a trust domain whose every link holds, but for the TCB status.

    Raises:
        MalformedError: a link does not hold.
        AgentError: EVIDENCE_MALFORMED.
    """
    quote = parse_quote(data)
    if not isinstance(quote.body, TdBody):
        raise refused(tee, "quote", "of an SGX enclave")
    require(tee, quote_chain.offline(quote_chain.verify(quote, roots)))
    return quote, quote.body


def claims(quote: Quote) -> dict[str, object]:
    """Hardware claims, byte fields in hex; report data and init-data are claims of their own."""
    own = {
        name: value for name, value in tdx_claims(quote).items() if name not in {"report_data", "init_data"}
    }
    return own | {"tcb_status": UNVERIFIED}


def _replayed(tee: str, data: bytes, body: TdBody) -> list[dict[str, object]]:
    """The log's events as claims, once the replay gives what the quote says."""
    log = events.parse_log(data)
    registers = events.replay(log, "sha384")
    for number, value in enumerate(body.rtmrs):
        # T-DEV-12: all four, also those that no event names: a log that leaves out is a log that lies.
        if registers.get(number + 1, _ZEROS) != value:
            raise refused(tee, "event log", f"its replay does not give RTMR{number}")
    return [_event(event) for event in log.events]


def _event(event: events.Event) -> dict[str, object]:
    said = events.runtime_event(event)
    details: dict[str, object] = {}
    if said is not None:
        data = {"domain": said.domain, "operation": said.operation, "content": _content(said.content)}
        details = {"unicode_name": "AAEL", "data": data}
    return {
        "index": event.register,
        "type_name": event.type_name,
        "digests": [
            {"alg": each.name.upper().replace("SHA", "SHA-"), "digest": each.value.hex()}
            for each in event.digests
        ],
        "event": base64_of(event.data),
        "details": details,
        "digest_matches_event": events.digest_matches_event(event),
    }


def _content(text: str) -> object:
    """JSON where the text is JSON."""
    try:
        return wire.decode(text.encode("utf-8"), object)
    except wire.MalformedError:
        return text
