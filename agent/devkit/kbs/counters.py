"""What happened so far, for assertions and for ``/metrics``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

NAMES: Final = (
    "connections",
    "requests",
    "auth",
    "auth_ok",
    "attest",
    "attest_ok",
    "verified",
    "resource",
    "resource_ok",
    "admin",
    "policy_allowed",
    "policy_denied",
    "problems",
    "faults",
)
_METRICS: Final = {
    "requests": "kbs_http_requests_total",
    "resource": "kbs_resource_reads_total",
    "policy_allowed": "kbs_policy_approvals_total",
    "policy_denied": "kbs_policy_violations_total",
    "attest": "kbs_attestation_requests_total",
    "attest_ok": "kbs_attestation_successes_total",
    "auth": "kbs_auth_requests_total",
    "auth_ok": "kbs_auth_successes_total",
}


class Counters(Mapping[str, int]):
    """Read-only to tests; an unknown name is a KeyError, so that a typing error is not a zero.

    ``auth``, ``attest``, ``resource`` and ``admin`` count attempts, those a fault swallowed included;
    ``requests`` counts all below ``/kbs/v0/``, ``connections`` accepted TCP connections (before TLS),
    ``verified`` evidence that was really looked at (a repeated /attest is not).
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """One more; for the broker itself."""
        if name not in NAMES:
            raise KeyError(name)
        self._counts[name] += 1

    def reset(self) -> None:
        """All back to 0."""
        self._counts.clear()

    def __getitem__(self, name: str) -> int:
        if name not in NAMES:
            raise KeyError(name)
        return self._counts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)

    def __repr__(self) -> str:
        return f"Counters({ {name: count for name, count in self.items() if count} })"

    def render(self) -> str:
        """Prometheus text; the names Trustee uses (kbs_protocol.md 10.1), without its labels."""
        lines = [f"# TYPE {metric} counter\n{metric} {self[name]}" for name, metric in _METRICS.items()]
        return "\n".join([*lines, ""])
