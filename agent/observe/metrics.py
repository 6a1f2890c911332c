"""Prometheus metrics. No resource path, address or caller is ever a label (cardinality, and secrecy)."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from agent import __version__
from agent.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody reads


def _of(counts: Callable[[], Mapping[str, int]], state: str) -> float:
    return counts()[state]


class Metrics:
    """All instruments of one daemon, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._attempts = self._counter("attestation_attempts", "Handshakes started.")
        self._successes = self._counter("attestation_success", "Handshakes that ended with a token.")
        self._failures = self._counter("attestation_failure", "Handshakes that failed.", "reason")
        self._phases = Histogram(
            "coco_attestation_duration_seconds",
            "Time of a handshake by phase: auth, evidence, attest, total.",
            ["phase"],
            registry=self.registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self._kbs = self._counter("kbs_requests", "HTTP requests to the broker.", "endpoint", "result")
        self._retries = self._counter("kbs_retries", "Requests to the broker tried again.", "endpoint")
        self._servers = self._counter(
            "kbs_endpoint_requests", "HTTP requests by endpoint, when there are several.", "index", "result"
        )
        self._health = Gauge(
            "coco_kbs_endpoint_health",
            "Circuit breaker by endpoint: 0 closed, 1 half open, 2 open.",
            ["index"],
            registry=self.registry,
        )
        self._certificates = Gauge(
            "coco_kbs_cert_expiry_timestamp_seconds",
            "When the certificate ends that an endpoint showed last, in seconds since the Unix epoch.",
            ["index"],
            registry=self.registry,
        )
        self._credentials = self._counter("kbs_credentials", "Resource requests by credential.", "kind")
        self._token = Gauge("coco_token_bytes", "Size of the latest token reply.", registry=self.registry)
        self._released = self._counter("kbs_resource_releases", "Resources the broker released.")
        self._denied = self._counter(
            "kbs_resource_denials", "Resources that the broker's policy did not release.", "reason"
        )
        self._missed = self._counter(
            "kbs_resource_failures", "Resources that were not had for any other reason.", "reason"
        )
        self._requests = self._counter("requests", "Requests by API.", "api", "verb", "result")
        self._ended = self._counter("connections_ended", "Connections ended or refused.", "reason")
        self._devices = self._counter("device_evidence", "Evidence of devices.", "tee", "result")
        self._cache = self._counter("resource_cache_requests", "Resource cache look-ups.", "result")
        self._files: Gauge | None = None
        # labels() validates and locks each time; all values come from closed sets, so these stay small.
        self._by_request: dict[tuple[str, str, str], Counter] = {}
        self._by_cache: dict[str, Counter] = {}
        Gauge("coco_build_info", "Version of the agent.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"coco_{name}", text, labels, registry=self.registry)

    def attestation_started(self) -> None:
        """One handshake begins."""
        self._attempts.inc()

    def attestation_succeeded(self) -> None:
        """One handshake ended with a token."""
        self._successes.inc()

    def attestation_failed(self, code: ErrorCode) -> None:
        """One handshake failed."""
        self._failures.labels(code.name).inc()

    def attestation_phase(self, phase: str, seconds: float) -> None:
        """Time one phase took: ``auth``, ``evidence``, ``attest`` or ``total``."""
        self._phases.labels(phase).observe(seconds)

    def kbs_request(self, endpoint: str, result: str) -> None:
        """One HTTP exchange: endpoint ``auth``, ``attest`` or ``resource``; result ``ok`` or a code."""
        self._kbs.labels(endpoint, result).inc()

    def kbs_retry(self, endpoint: str) -> None:
        """A request is tried again after a pause."""
        self._retries.labels(endpoint).inc()

    def endpoint_request(self, index: int, result: str, health: int) -> None:
        """One exchange with the endpoint at ``index`` of the configured order, and its breaker's state."""
        self._servers.labels(str(index), result).inc()
        self._health.labels(str(index)).set(health)

    def certificate(self, index: int, ends: float) -> None:
        """The certificate of the endpoint at ``index`` of the configured order.

        Args:
            index: of the endpoint.
            ends: its ``notAfter``, seconds since the Unix epoch: whoever compares it needs not trust this
                guest's clock.
        """
        self._certificates.labels(str(index)).set(ends)

    def kbs_credential(self, kind: str) -> None:
        """What a resource request carried: ``bearer`` or ``cookie``."""
        self._credentials.labels(kind).inc()

    def token_bytes(self, size: int) -> None:
        """Size of a token reply."""
        self._token.set(size)

    def resource_released(self) -> None:
        """The broker released a resource."""
        self._released.inc()

    def resource_failed(self, code: ErrorCode) -> None:
        """A resource was not had: a denial is a policy's refusal, anything else is a failure."""
        counter = self._denied if code is ErrorCode.RESOURCE_DENIED else self._missed
        counter.labels(code.name).inc()

    def request(self, api: str, verb: str, result: str) -> None:
        """One request of a caller: api ``rest`` or ``ttrpc``; result ``ok`` or a code."""
        counter = self._by_request.get((api, verb, result))
        if counter is None:
            counter = self._by_request[api, verb, result] = self._requests.labels(api, verb, result)
        counter.inc()

    def connection_ended(self, reason: str) -> None:
        """One connection was ended, or refused, against its client's wish: a word of a closed set."""
        self._ended.labels(reason).inc()

    def watch_held(self, held: Callable[[], int]) -> None:
        """Export the bytes of unfinished requests and unread answers."""
        text = "Bytes of unfinished requests and of answers that were not read yet."
        Gauge("coco_held_bytes", text, registry=self.registry).set_function(held)

    def device(self, tee: str, result: str) -> None:
        """What one device answered: its family's wire string; ``ok`` or a code."""
        self._devices.labels(tee, result).inc()

    def cache(self, result: str) -> None:
        """One resource cache look-up.

        Args:
            result: ``hit``, ``miss``, ``joined`` (a flight already under way), ``stale`` or ``negative``
                (a refusal that is remembered).
        """
        counter = self._by_cache.get(result)
        if counter is None:
            counter = self._by_cache[result] = self._cache.labels(result)
        counter.inc()

    def watch_token(self, seconds_left: Callable[[], float]) -> None:
        """Export the held token's remaining life; negative or 0 when none is held."""
        gauge = Gauge("coco_token_seconds_left", "Seconds until the token expires.", registry=self.registry)
        gauge.set_function(seconds_left)

    def watch_credentials(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Export how many ``[[credentials]]`` are in each state: ``pending``, ``written`` or ``failed``."""
        if self._files is None:
            # A hub that is opened anew provisions anew, on the same instrument.
            self._files = Gauge(
                "coco_credentials", "Files to provision, by state.", ["state"], registry=self.registry
            )
        for state in counts():
            self._files.labels(state).set_function(partial(_of, counts, state))

    def watch_clock(self, offset: Callable[[], float | None]) -> None:
        """Export how far the guest's clock is ahead of the broker's; NaN while that is not known."""
        gauge = Gauge(
            "coco_clock_skew_seconds",
            "Seconds the guest's clock is ahead of the broker's, by its authenticated Date; NaN: not known.",
            registry=self.registry,
        )

        def known() -> float:
            seconds = offset()
            return math.nan if seconds is None else seconds

        gauge.set_function(known)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
