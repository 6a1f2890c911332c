"""Every figure once: its key in bench.json, what it says, its budget. Keys are stable: add, never rename."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Value = int | float | str


@dataclass(frozen=True, slots=True)
class Figure:
    """One row.

    Attributes:
        key: member of bench.json; its ending is the unit.
        meaning: a few words.
        most: budget, an upper bound.
        least: budget, a lower bound.
    """

    key: str
    meaning: str
    most: float | None = None
    least: float | None = None

    def budget(self) -> str:
        """The budget as the table shows it."""
        if self.most is not None:
            return f"<= {self.most:g}"
        return f">= {self.least:g}" if self.least is not None else ""

    def holds(self, value: Value) -> bool:
        """Whether a measured value keeps the budget."""
        if isinstance(value, str):
            return True
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)


def _load(api: str, state: str, text: str) -> Iterable[Figure]:
    cached_rest = api == "rest" and state == "cached"
    for count in (1, 16, 64):
        name = f"{api}_{state}_c{count}"
        yield Figure(f"{name}_rps", f"{text}, {count} at a time: requests/s",
                     least=4000 if cached_rest and count == 16 else None)  # fmt: skip
        yield Figure(f"{name}_p50_ms", f"{text}, {count} at a time: median",
                     most=1.0 if cached_rest and count == 1 else None)  # fmt: skip
        yield Figure(f"{name}_p99_ms", f"{text}, {count} at a time: 99th percentile")
    yield Figure(
        f"{api}_{state}_cpu_us", f"{text}, 16 at a time: processor time of the agent for one request"
    )


def _cold(api: str, text: str) -> Iterable[Figure]:
    yield Figure(f"{api}_cold_ms", f"{text}, cold: first answer, attestation included (quote 0 ms)")
    for count in (16, 64):
        yield Figure(
            f"{api}_cold_c{count}_ms", f"{text}, cold: {count} callers at once, until the last has it"
        )


def _boot(ours: str, quote: str, *, target: bool = False) -> Iterable[Figure]:
    quote = f"pod boot, quote {quote}"
    yield Figure(f"{ours}_s", f"{quote}, 1 caller: the agent")
    yield Figure(f"{ours}_upstream_s", f"{quote}, 1 caller: upstream's cost model")
    yield Figure(f"{ours}_ratio_vs_upstream_model", f"{quote}, 1 caller: ratio, pair-wise",
                 least=10 if target else None)  # fmt: skip
    yield Figure(f"{ours}_64_s", f"{quote}, 64 callers: the agent")
    yield Figure(f"{ours}_64_upstream_s", f"{quote}, 64 callers: upstream's cost model")
    yield Figure(f"{ours}_ratio_64", f"{quote}, 64 callers: ratio, pair-wise", least=4 if target else None)


def _attack(name: str, text: str) -> Iterable[Figure]:
    name, text = f"attack_{name}", f"attack, {text}"
    yield Figure(f"{name}_lived", f"{text}: the agent lived (1) in a memory cgroup of 256 MiB", least=1)
    yield Figure(f"{name}_healthz_ms", f"{text}: slowest answer of /healthz", most=100)
    yield Figure(f"{name}_healthz_p99_ms", f"{text}: /healthz, 99th percentile")
    yield Figure(f"{name}_cached_ms", f"{text}: another caller's slowest cached resource", most=100)
    yield Figure(f"{name}_cached_p99_ms", f"{text}: cached resource, 99th percentile")
    yield Figure(f"{name}_control_ms", f"{text}: slowest of all answers just before it")
    yield Figure(f"{name}_rss_before_mb", f"{text}: resident memory before")
    yield Figure(f"{name}_rss_peak_mb", f"{text}: resident memory at its highest")
    yield Figure(f"{name}_growth_mb", f"{text}: growth, the larger of RSS and PSS", most=64)
    yield Figure(f"{name}_rss_after_mb", f"{text}: resident memory afterwards")
    yield Figure(f"{name}_after_ratio", f"{text}: resident memory after over before", most=1.1)


FIGURES: Final = (
    Figure("listen_s", "exec until all sockets listen", most=0.8),
    Figure("listen_cpu_s", "processor time until then"),
    Figure("modules_at_start", "modules the start path imports"),
    Figure("rss_mb_idle", "resident memory after the start"),
    Figure("rss_mb", "resident memory after the demo's requests", most=60),
    Figure("pss_mb", "its share of memory after them (0: not readable)", most=60),
    Figure("rss_mb_after_burst", "resident memory after 1 000 cold callers"),
    Figure("cold_1000_attestations", "attestations for 1 000 cold callers", most=1),
    Figure("cold_1000_kbs_requests", "KBS requests for them"),
    *_load("rest", "cached", "REST GET from the cache"),
    Figure("rest_cached_vs_nginx", "the same, 16 at a time, over nginx with one worker: ratio of requests/s"),
    Figure("nginx_rps", "nginx with the same body in memory, 16 at a time: requests/s"),
    *_load("rest", "warm", "REST GET, token held"),
    *_cold("rest", "REST GET"),
    *_load("ttrpc", "cached", "ttrpc GetResource from the cache"),
    *_load("ttrpc", "warm", "ttrpc GetResource, token held"),
    *_cold("ttrpc", "ttrpc GetResource"),
    Figure("audit_lines_lost", "audit lines missing after the cached loads", most=0),
    Figure("boot_attestations", "pod boot: attestations, the agent", most=1),
    Figure("boot_kbs_requests", "pod boot, 1 caller: KBS requests, the agent"),
    Figure("boot_64_kbs_requests", "pod boot, 64 callers: KBS requests, the agent"),
    Figure("boot_upstream_attestations", "pod boot: attestations, upstream's cost model"),
    Figure("boot_upstream_kbs_requests", "pod boot: KBS requests, upstream's cost model"),
    *_boot("boot", "20 ms", target=True),
    *_boot("boot_0ms", "0 ms"),
    *_boot("boot_1000ms", "1000 ms"),
    *_boot("boot_tls", "20 ms, KBS with TLS"),
    Figure("boot_ratio_64_parallel_quotes", "pod boot, quote 20 ms, 64 callers, quotes in parallel: ratio"),
    Figure("boot_each_s", "64 callers, each asks for all of it, quote 20 ms: the agent"),
    Figure("boot_each_upstream_s", "64 callers, each asks for all of it, quote 20 ms: upstream's cost model"),
    Figure("boot_each_ratio", "64 callers, each asks for all of it, quote 20 ms: ratio"),
    Figure("boot_each_attestations", "64 callers, each asks for all of it: attestations, the agent", most=1),
    Figure("boot_each_kbs_requests", "64 callers, each asks for all of it: KBS requests, the agent"),
    Figure("loop_gap_ms", "longest event-loop gap, 64 cold callers and a 3 s quote", most=50),
    Figure("loop_gap_cpu_ms", "processor time of the loop's thread in its longest gap"),
    *_attack("bodies", "2 000 unfinished bodies"),
    *_attack("unread", "1 500 unread answers of 1 MiB"),
    *_attack("heads", "2 300 unfinished heads"),
    *_attack("slow_names", "2 060 names the broker does not answer"),
    *_attack("ttrpc", "256 unfinished ttrpc frames of 4 MiB"),
    Figure("profile_calls_per_request", "cached REST GET: Python function calls"),
    Figure("retained_bytes_per_request", "cached REST GET: memory kept afterwards"),
    Figure("layer_decrypt_mb_s", "image layer of 1 GiB, file to file, AES-CTR and HMAC: MB/s, best run"),
    Figure("layer_decrypt_vs_openssl", "the same over AES-CTR plus HMAC of OpenSSL on one core", least=0.9),
    Figure("layer_decrypt_peak_mb", "image decrypt, layer of 1 GiB: peak memory of the command", most=64),
    Figure("layer_openssl_mb_s", "AES-CTR plus HMAC of OpenSSL on one core, in memory: MB/s, best run"),
    Figure("layer_hashed_mb_s", "the layer again, with the digest of its plaintext: MB/s, best run"),
    Figure("extension_mib", "Kata's extension image: MiB of erofs", most=24),
    Figure("aa_socket_s", "its attestation-agent: exec until the socket is there, best run", most=0.6),
    Figure("launcher_ms", "its data hub, handed to that daemon: exec until the socket, best run", most=60),
    Figure("launcher_mb", "resident memory of that launcher", most=12),
    Figure("daemon_rss_mb", "resident memory of the daemon, all roles, after a resource", most=50),
    Figure("start_to_secret_s", "the image's three programs, one after the other, until the first secret"),
    Figure("vm_init_to_secret_s", "in the virtual machine: systemd begins until the first secret", most=10),
    Figure("vm_aa_socket_s", "in the virtual machine: exec until the attester's socket is there"),
    Figure("vm_daemon_rss_mb", "in the virtual machine: resident memory of the unit, all roles"),
    Figure("vm_accelerator", "in the virtual machine: what runs the processor"),
    Figure("image_decrypt_mb_s", "image decrypt: MB/s with start, all digests and fsync, best run"),
)  # fmt: skip

BY_KEY: Final[Mapping[str, Figure]] = {figure.key: figure for figure in FIGURES}


class Figures:
    """What a run measured."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}

    def put(self, key: str, value: Value) -> None:
        """Keep one value, rounded to what can be trusted.

        Raises:
            KeyError: no such figure; add it to FIGURES.
        """
        if key not in BY_KEY:
            raise KeyError(key)
        self._values[key] = rounded(value)

    def flat(self) -> dict[str, Value]:
        """The members of bench.json, in the order of FIGURES."""
        return {figure.key: self._values[figure.key] for figure in FIGURES if figure.key in self._values}


def rounded(value: Value) -> Value:
    """Three significant digits, whole numbers from 100 on."""
    if not isinstance(value, float):
        return value
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")


def table(values: Mapping[str, Value]) -> str:
    """Key, value, budget, verdict and meaning, one line each."""
    lines = [f"{'figure':<32} {'value':>9}  {'budget':<9}"]
    for figure in FIGURES:
        if figure.key in values:
            value = values[figure.key]
            verdict = "" if not figure.budget() else "ok  " if figure.holds(value) else "OVER"
            lines.append(
                f"{figure.key:<32} {value!s:>9}  {figure.budget():<9} {verdict:<4}  {figure.meaning}"
            )
    return "\n".join(lines)


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the values lie, nearest rank."""
    if not sorted_values:
        raise ValueError("no values")
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def median_ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """Median of upstream's time over ours, each pair measured one after the other."""
    return statistics.median(theirs / ours for ours, theirs in pairs)
