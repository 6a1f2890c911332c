"""The generated parts of docs/scale.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.config import limits
from tests.bench.herd import guests, model
from tests.bench.herd.figures import NO_OUTAGE, STORMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.bench.herd.figures import Record

BEGIN: Final = "<!-- {}: written by make scale -->"
END: Final = "<!-- end -->"

ROWS: Final = {
    "all_served_s": "all guests served after, s",
    "guest_p50_s": "one guest, boot to served: p50, s",
    "guest_p99_s": "p99, s",
    "peak_rps": "peak requests in 1 s",
    "peak_after_outage_rps": "peak after the outage",
    "mean_rps": "mean requests/s",
    "requests": "requests",
    "attestations": "attestations",
    "refused_share": "requests refused",
    "overload_s": "overload lasts after the outage, s",
}
SHORT: Final = ("all_served_s", "guest_p50_s", "guest_p99_s", "peak_rps", "peak_after_outage_rps", "requests")
AFTER: Final = frozenset({"peak_after_outage_rps", "overload_s"})
"""Rows that say something only when there was an outage."""
NAMES: Final = {"ours": "coco-agent", "upstream": "model of upstream"}


def number(name: str, value: float) -> str:
    """As a reader wants it: a share in per cent, three digits or whole."""
    if name == "refused_share":
        return f"{value:.0%}".replace("%", " %")
    return f"{value:.2f}" if value < 10 and value != int(value) else f"{value:,.0f}".replace(",", " ")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def result(record: Record, storms: Sequence[str]) -> str:
    """A column for each storm and policy: median, least and greatest."""
    columns = [(storm, label) for storm in storms for label in NAMES]
    rows = []
    for name, words in ROWS.items():
        row = [words]
        for storm, label in columns:
            if name in AFTER and STORMS[storm].outage == NO_OUTAGE:
                row.append("")
                continue
            middle, least, most = (number(name, value) for value in record.storms[storm][label][name])
            row.append(middle if least == most else f"{middle} ({least} to {most})")
        rows.append(row)
    return table(["", *(f"{storm}: {NAMES[label]}" for storm, label in columns)], rows)


def variants(record: Record) -> str:
    """A line for each storm and variant."""
    rows = [
        [storm.partition(",")[0], label, *(number(name, figures[name]) for name in SHORT)]
        for storm, played in record.variants.items()
        for label, figures in played.items()
    ]
    return table(["capacity", "variant", *(ROWS[name] for name in SHORT)], rows)


def assumptions(record: Record) -> str:
    """A line for each other assumption and policy."""
    rows = [
        [storm, NAMES[label], *(number(name, figures[name]) for name in SHORT)]
        for storm, played in record.assumptions.items()
        for label, figures in played.items()
    ]
    return table(["capacity, assumption", "", *(ROWS[name] for name in SHORT)], rows)


def assumed() -> str:
    """The model."""
    one, tries = STORMS["500, outage"], guests.UpstreamTries()
    rows = {
        "guests": f"{number('guests', one.guests)}, booting at random within {one.boot:g} s",
        "each guest": f"needs {one.resources} resources, one after another, and keeps what it has",
        "broker": f"first come first served; {one.queue} requests may wait, one more gets a 503 at once",
        "capacity": (
            "500 or 2000 GETs per second; an auth costs as much as a GET, an attest as much as "
            f"{one.attest:g}"
        ),
        "outage": (
            f"from {one.outage[0]:g} s to {one.outage[1]:g} s: what waits or is served is lost, connections "
            "are refused; tokens stay valid"
        ),
        "network": (
            f"{1000 * model.ROUND_TRIP:g} ms there and back; a new connection with TLS costs two more round "
            "trips, and the broker nothing"
        ),
        "evidence": f"{1000 * model.QUOTE:g} ms",
        "caller": f"waits {model.CALLER:g} s for a resource, as kata-agent and upstream's gateway do",
        "workload": (
            f"asks again after a failure, as a kubelet does: after {model.WORKLOAD_FIRST:g} s, doubled each "
            f"time to {one.workload_longest:g} s, and up to {model.WORKLOAD_SYNC:g} s more at random"
        ),
        "coco-agent": (
            "one attestation for all resources. Handshakes and GETs are tried again for "
            f"{limits.RETRY_FOR:g} s, {limits.OUTAGE_SHARE * limits.RETRY_FOR:g} s when a broker that "
            f"answered before refuses connections, once within {limits.OUTAGE_KNOWN:g} s after a request "
            "waited that long in vain; at most until the caller's deadline, after a pause between 0 and "
            f"{limits.RETRY_FIRST_PAUSE:g} s, doubled each time to {limits.RETRY_LONGEST_PAUSE:g} s. A token "
            f"lives {limits.TOKEN_DEFAULT_LIFE:g} s; its renewal in the background counts"
        ),
        "upstream": (
            f"an auth, an attest and a GET for each resource; {guests.UPSTREAM_HANDSHAKES} handshakes "
            f"{guests.UPSTREAM_PAUSE:g} s apart; {tries.request:g} s for one request. A GET is tried again "
            "only after a 401, which does not happen here. For a caller that has gone nothing goes on; "
            "upstream's agent does go on, so this flatters it"
        ),
    }
    return table(["", "assumed"], rows.items())


def render(page: str, record: Record) -> str:
    """The page with its generated parts.

    Args:
        page: docs/scale.md.
        record: docs/scale.json.
    """
    parts = {
        "model": assumed(),
        "result-500": result(record, ["500, outage", "500, no outage"]),
        "result-2000": result(record, ["2000, outage", "2000, no outage"]),
        "variants": variants(record),
        "assumptions": assumptions(record),
    }
    for name, part in parts.items():
        before, begin, rest = page.partition(BEGIN.format(name))
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"docs/scale.md has no place for {name}")
        page = f"{before}{begin}\n{part}\n{end}{after}"
    return page
