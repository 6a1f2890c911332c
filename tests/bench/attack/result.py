"""What an attack did to the agent, and whether that is allowed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP_LIMIT: Final = 256 << 20
"""Bytes of the memory cgroup the agent runs in."""

ANSWER_MS: Final = 100.0
GROWTH_MB: Final = 64.0
BACK: Final = 1.1


@dataclass(frozen=True, slots=True)
class Answers:
    """Milliseconds that answers took to one kind of question; no answer within 2 s counts as 2 000."""

    worst_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Memory:
    """MB of 10**6 bytes, resident and proportional (0: not readable)."""

    rss: float
    pss: float


@dataclass(frozen=True, slots=True)
class Result:
    """One row.

    Attributes:
        name: of the attack.
        lived: the same process, not ended by the kernel, and it answers afterwards.
        standing: connections that stood when the attack was complete.
        opened: connections made in all, those that took the place of ended ones included.
        sent_mb: what the agent took of what the attackers sent.
        healthz: answers to ``/healthz`` during the attack.
        cached: answers with another caller's cached resource; the slower of REST and ttrpc.
        control_ms: the worst of all answers just before the attack, in the same number of seconds.
        before: memory then.
        peak: the most memory during the attack.
        after: memory when the attackers have gone, at the latest after the time allowed; None when it died.
        after_s: seconds until it was back.
    """

    name: str
    lived: bool
    standing: int
    opened: int
    sent_mb: float
    healthz: Answers
    cached: Answers
    control_ms: float
    before: Memory
    peak: Memory
    after: Memory | None
    after_s: float

    def figures(self) -> Iterator[tuple[str, float]]:
        """Key in bench.json and value."""
        prefix = f"attack_{self.name}"
        yield f"{prefix}_lived", int(self.lived)
        yield f"{prefix}_healthz_ms", self.healthz.worst_ms
        yield f"{prefix}_healthz_p99_ms", self.healthz.p99_ms
        yield f"{prefix}_cached_ms", self.cached.worst_ms
        yield f"{prefix}_cached_p99_ms", self.cached.p99_ms
        yield f"{prefix}_control_ms", self.control_ms
        yield f"{prefix}_rss_before_mb", self.before.rss
        yield f"{prefix}_rss_peak_mb", self.peak.rss
        yield f"{prefix}_growth_mb", self.growth_mb
        if self.after is not None:
            yield f"{prefix}_rss_after_mb", self.after.rss
            yield f"{prefix}_after_ratio", self.after_ratio

    @property
    def growth_mb(self) -> float:
        """The larger growth of RSS and PSS."""
        return max(self.peak.rss - self.before.rss, self.peak.pss - self.before.pss)

    @property
    def after_ratio(self) -> float:
        """RSS after the attack over before."""
        return ratio(self.after, self.before) if self.after is not None else float("inf")

    def broken(self) -> list[str]:
        """Rules that do not hold whatever else the machine does."""
        rules = {
            f"did not live ({self.peak.rss:.0f} MB at its end)": self.lived,
            f"grew by {self.growth_mb:.0f} MB": self.growth_mb <= GROWTH_MB,
            f"kept {self.after_ratio:.2f} times its memory": not self.lived or self.after_ratio <= BACK,
        }
        return [f"{self.name}: {text}" for text, holds in rules.items() if not holds]

    def late(self) -> list[str]:
        """Answers that took too long, beyond what they took without an attack."""
        allowed = ANSWER_MS + self.control_ms
        taken = {"/healthz": self.healthz.worst_ms, "the cached resource": self.cached.worst_ms}
        return [
            f"{self.name}: {what} took {worst:.0f} ms (without attack {self.control_ms:.0f})"
            for what, worst in taken.items()
            if worst > allowed
        ]


def ratio(after: Memory, before: Memory) -> float:
    """How many times its resident memory a program has kept."""
    return after.rss / before.rss
