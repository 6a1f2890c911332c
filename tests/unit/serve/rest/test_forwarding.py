"""Which headers tell of a proxy."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serve.rest.forwarding import tells_of_proxy

PROXIES = re.findall(
    r"\S+",
    """
    Forwarded Via CDN-Loop Surrogate-Capability Client-Cert Client-Cert-Chain
    X-Forwarded-For X-Forwarded-Host X-Forwarded-Client-Cert X-Forwarded X_Forwarded_For Forwarded-For
    X-Original-Forwarded-For Fly-Forwarded-Port X-Vercel-Forwarded-For
    Client-IP X-Client-IP X_CLIENT_IP True-Client-IP X-Cluster-Client-IP Fastly-Client-IP Fly-Client-IP
    Incap-Client-IP Proxy-Client-IP WL-Proxy-Client-IP WL-Proxy-SSL X-Azure-ClientIP X-Azure-SocketIP
    CF-Connecting-IP CF-Connecting-IPv6 CF-Ray CF-IPCountry DO-Connecting-IP EO-Connecting-IP
    X-NF-Client-Connection-IP X-Real-IP X-Real-Port Ali-CDN-Real-IP X-Originating-IP X-Remote-IP X-Remote-Addr
    X-ProxyUser-IP X-AppEngine-User-IP X-AppEngine-Country
    X-Original-URL X-Original-URI X-Original-Host X-Original-Method X-Rewrite-URL X-Host X-HTTP-Host-Override
    X-Envoy-External-Address X-Envoy-Internal X-Envoy-Original-Path X-Envoy-Attempt-Count
    CloudFront-Viewer-Address X-Amz-Cf-Id X-Akamai-Edgescape Akamai-Origin-Hop X-Varnish L5d-Client-Id
    X-Sucuri-ClientIP X-ARR-LOG-ID X-ARR-SSL Front-End-Https X-SSL-Client-Verify SSL-Client-Cert X-NginX-Proxy
""",
)

DIRECT = re.findall(
    r"\S+",
    """
    Host User-Agent Accept Accept-Encoding Accept-Language Connection Content-Type Content-Length Expect TE
    Transfer-Encoding Upgrade Upgrade-Insecure-Requests Keep-Alive Cache-Control Pragma Prefer Priority Range
    If-None-Match If-Modified-Since Origin Referer Cookie Authorization From Date DNT Max-Forwards
    Sec-Fetch-Site Sec-Fetch-Mode Sec-Ch-Ua HTTP2-Settings
    Proxy-Connection Proxy-Authorization
    Traceparent Tracestate Baggage B3 X-B3-TraceId X-B3-SpanId X-B3-Sampled X-Request-ID X-Correlation-ID
    X-Amzn-Trace-Id X-Cloud-Trace-Context Uber-Trace-Id Sentry-Trace X-Datadog-Trace-Id Newrelic Request-Id
    X-Requested-With X-HTTP-Method-Override X-Api-Key X-Amz-Date X-Ot-Span-Context Idempotency-Key
    X-Client-Name X-Client-Version X-User-Id Client-Id X-Realm Origin-Agent-Cluster
""",
)


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxys_own_header_is_known_in_every_spelling(name: str) -> None:
    assert tells_of_proxy(name.lower())
    assert tells_of_proxy(name.lower().replace("-", "_"))


@pytest.mark.parametrize("name", DIRECT)
def test_what_programs_send_on_their_own_is_not_taken_for_a_proxys(name: str) -> None:
    assert not tells_of_proxy(name.lower())


@given(st.text(max_size=40), st.text(max_size=40))
def test_every_name_is_judged_and_forwarded_is_found_anywhere(before: str, after: str) -> None:
    assert tells_of_proxy(before) in {True, False}
    assert tells_of_proxy(f"{before}forwarded{after}")
